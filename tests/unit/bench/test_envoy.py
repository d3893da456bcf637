"""The facts about Envoy that its configurations rest on."""

import json
from pathlib import Path
from typing import Any

import pytest

from hbone.addr import SocketAddress
from hbone.bench.envoy import EnvoyClient, EnvoyServer
from hbone.bench.pki import BenchPki, Identity


def at(port: int) -> SocketAddress:
    return SocketAddress.parse(f"127.0.0.1:{port}")


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return BenchPki(tmp_path / "pki").identity("shop", "cart")


def server(identity: Identity, **changes: Any) -> EnvoyServer:
    return EnvoyServer(listen=at(15008), admin=at(1), identity=identity, access_log=Path("/dev/null"), **changes)


def plain(document: dict[str, object]) -> Any:
    return json.loads(json.dumps(document))


def manager(config: Any) -> Any:
    return config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def test_plain_connect_is_allowed_on_the_manager_and_on_the_route(identity: Identity) -> None:
    found = manager(plain(server(identity).config()))
    (route,) = found["route_config"]["virtual_hosts"][0]["routes"]
    assert found["upgrade_configs"] == [{"upgrade_type": "CONNECT"}]
    assert route["route"]["upgrade_configs"] == [{"upgrade_type": "CONNECT", "connect_config": {}}]


def test_a_denied_identity_is_an_rbac_rule_before_the_router_and_none_is_none(identity: Identity) -> None:
    with_rule = manager(plain(server(identity, denied=identity.spiffe_id).config()))["http_filters"]
    without = manager(plain(server(identity).config()))["http_filters"]
    assert [one["name"] for one in with_rule] == ["envoy.filters.http.rbac", "envoy.filters.http.router"]
    assert [one["name"] for one in without] == ["envoy.filters.http.router"]


def test_the_client_has_a_listener_for_each_route_and_expects_one_identity(identity: Identity) -> None:
    client = EnvoyClient(
        routes={at(1): "10.0.0.1:80", at(2): "10.0.0.1:81"},
        admin=at(3),
        identity=identity,
        server=at(15008),
        expected=identity.spiffe_id,
        access_log=Path("/dev/null"),
    )
    resources = plain(client.config())["static_resources"]
    filters = [one["filter_chains"][0]["filters"][0]["typed_config"] for one in resources["listeners"]]
    assert [one["tunneling_config"]["hostname"] for one in filters] == ["10.0.0.1:80", "10.0.0.1:81"]
    tls = resources["clusters"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    (matcher,) = tls["validation_context"]["match_typed_subject_alt_names"]
    assert matcher["matcher"] == {"exact": "spiffe://cluster.local/ns/shop/sa/cart"}
