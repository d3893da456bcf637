"""Snapshots for the admin API."""

import dataclasses
import json
from typing import get_args

from hbone.telemetry.views import EndpointView, ServiceView, View, as_json


def test_a_view_is_json_in_the_order_of_its_fields() -> None:
    endpoint = EndpointView(uid="u", address="10.0.0.1", ports=("80:8080",), health="Healthy")
    service = ServiceView(
        name="cart",
        namespace="shop",
        hostname="cart.shop",
        vips=("/10.1.0.1",),
        ports=("80:8080",),
        endpoints=(endpoint,),
    )
    value = json.loads(json.dumps(as_json((service,))))
    assert list(value[0])[:3] == ["name", "namespace", "hostname"]
    assert value[0]["endpoints"] == [{"uid": "u", "address": "10.0.0.1", "ports": ["80:8080"], "health": "Healthy"}]
    assert value[0]["waypoint"] is None


def test_views_are_frozen_and_their_units_are_in_their_names() -> None:
    for view in get_args(View):
        assert view.__dataclass_params__.frozen
        for field in dataclasses.fields(view):
            if field.type in {float, "float"}:
                assert field.name.endswith(("_s", "_ms")), f"{view.__name__}.{field.name}"
