"""JSON Schema of the settings files."""

import json
from typing import Any, cast

import pytest

from hbone.config.schema import MODELS, json_schema


@pytest.mark.parametrize("name", list(MODELS))
def test_a_schema_is_json_and_allows_no_unknown_keys(name: str) -> None:
    schema = json.loads(json.dumps(json_schema(MODELS[name])))
    assert schema["additionalProperties"] is False
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_a_schema_tells_meaning_default_limits_and_variables() -> None:
    schema: dict[str, Any] = json_schema(MODELS["node"])
    frame = schema["$defs"]["Http2"]["properties"]["max_frame_bytes"]
    assert (frame["default"], frame["minimum"], frame["x-applies"]) == (1 << 20, 16_384, "drain")
    assert schema["$defs"]["Listeners"]["properties"]["inbound"]["default"] == "0.0.0.0:15008"
    assert schema["$defs"]["Timeouts"]["properties"]["connect_timeout_s"]["exclusiveMinimum"] == 0
    assert schema["x-environment"]["network"] == ["HBONE_NETWORK", "NETWORK"]
    assert schema["$defs"]["Forward"]["required"] == ["listen", "to"]


def test_no_bound_is_left_under_its_python_name() -> None:
    assert not {"ge", "gt", "le", "lt"} & set(_keys(json_schema(MODELS["node"])))


def _keys(value: object) -> list[str]:
    match value:
        case dict():
            mapping = cast("dict[str, object]", value)
            return [*mapping, *(key for inner in mapping.values() for key in _keys(inner))]
        case list():
            return [key for item in cast("list[object]", value) for key in _keys(item)]
        case _:
            return []
