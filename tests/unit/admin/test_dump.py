"""`/config_dump` in ztunnel's shape."""

import json
from typing import Any

from hbone.admin.dump import config_dump
from hbone.admin.jsontext import json_pieces
from hbone.admin.messages import Layout
from tests.unit.admin.sample import CART, WEB, Sample


def dump() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b"".join(json_pieces(config_dump(Sample()), Layout.COMPACT)))
    return document


def test_the_keys_that_ztunnel_has_come_first() -> None:
    assert list(dump()) == [
        "workloads",
        "services",
        "policies",
        "version",
        "config",
        "certificates",
        "workloadState",
        "process",
        "listeners",
        "tunnels",
    ]


def test_workloads_are_spelled_as_in_the_local_file() -> None:
    cart, _ = dump()["workloads"]
    assert cart == {
        "uid": "c1//Pod/shop/cart-0",
        "name": "cart-0",
        "namespace": "shop",
        "workloadIps": ["10.0.0.1"],
        "serviceAccount": "cart",
        "protocol": "HBONE",
        "services": {"shop/cart.shop": {"80": 8080}},
    }


def test_services_have_their_endpoints_by_uid() -> None:
    (cart,) = dump()["services"]
    assert cart["vips"] == ["/10.1.0.1"]
    assert cart["endpoints"] == {
        "c1//Pod/shop/cart-0": {
            "workloadUid": "c1//Pod/shop/cart-0",
            "service": "shop/cart.shop",
            "port": {"80": 8080},
            "status": "Healthy",
        }
    }


def test_policies_are_spelled_as_in_the_local_file() -> None:
    (policy,) = dump()["policies"]
    assert {key: policy[key] for key in ("namespace", "name", "scope", "action", "dryRun")} == {
        "namespace": "shop",
        "name": "only-web",
        "scope": "Namespace",
        "action": "Allow",
        "dryRun": False,
    }
    assert policy["rules"] == [[[{"principals": [{"Exact": "cluster.local/ns/web/sa/web"}]}]]]


def test_certificates_have_ztunnels_states_and_the_roots_of_their_own_domain() -> None:
    good, failed = dump()["certificates"]
    assert (good["identity"], good["state"]) == (CART, "Available")
    assert good["certChain"] == [{"serialNumber": "4711", "validFrom": "", "expirationTime": "2026-08-22T10:00:00Z"}]
    assert [root["subject"] for root in good["rootCerts"]] == ["O=hbone"]
    assert (failed["identity"], failed["state"], failed["certChain"]) == (WEB, "Unavailable: the CA is away", [])


def test_the_connections_of_workloads_here_are_told_by_workload() -> None:
    state = dump()["workloadState"]
    assert list(state) == ["c1//Pod/shop/cart-0"]
    (own,) = state.values()
    assert own["info"] == {"name": "cart-0", "namespace": "shop", "serviceAccount": "cart"}
    assert own["connections"] == {
        "inbound": [
            {
                "src": "10.0.0.2:40000",
                "originalDst": "10.0.0.1:8080",
                "actualDst": "10.0.0.1:8080",
                "protocol": "HBONE",
            }
        ],
        "outbound": [
            {
                "src": "10.0.0.1:40001",
                "originalDst": "192.0.2.1:443",
                "actualDst": "192.0.2.1:443",
                "protocol": "TCP",
            }
        ],
    }


def test_settings_and_version_are_there() -> None:
    document = dump()
    assert (document["config"], document["version"]) == ({"mode": "shared"}, {"version": "1.2.3"})
