"""What must fit together across settings."""

import pytest

from hbone.config.check import check_control, check_node
from hbone.config.model import ControlSettings, NodeSettings


def fields(settings: dict[str, object]) -> list[str]:
    return [problem.field for problem in check_node(NodeSettings.model_validate(settings))]


DEDICATED: dict[str, object] = {"workload": "shop/cart-0/cart"}
SHARED: dict[str, object] = {"manifests": "mesh"}


def test_a_dedicated_and_a_shared_node_need_little() -> None:
    assert fields(DEDICATED) == []
    assert fields(SHARED) == []
    assert fields({"local_xds": "x.yaml"}) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "dedicated"}, ["workload"]),
        ({"mode": "shared"}, []),
        ({"mode": "shared", "ca": "ca"}, ["manifests"]),
        ({**SHARED, **DEDICATED, "mode": "shared"}, ["workload"]),
        ({**SHARED, "ca": "ca", "control_socket": "/x"}, ["control_socket"]),
        ({**SHARED, "forwards": [{"listen": "127.0.0.1:1", "to": "a:1"}]}, ["forwards[0].as"]),
        ({**DEDICATED, "forwards": [{"listen": "127.0.0.1:1", "to": "a:1", "as": "shop/web"}]}, ["forwards[0].as"]),
        ({**DEDICATED, "forwards": [{"listen": "127.0.0.1:1", "to": "a:1", "as": "shop/cart"}]}, []),
        ({**SHARED, "exposes": [{"workload": "a/b", "port": 1, "to": "127.0.0.1:2"}] * 2}, ["exposes[1]"]),
        ({**SHARED, "listeners": {"socks": "127.0.0.1:15000"}}, ["listeners.admin"]),
        ({**DEDICATED, "forwards": [{"listen": "0.0.0.0:15020", "to": "a:1"}]}, ["forwards[0].listen"]),
        ({**SHARED, "listeners": {"inbound": "off", "socks": "off"}}, ["listeners"]),
        ({**SHARED, "listeners": {"admin": "0.0.0.0:15000"}}, ["listeners.admin"]),
        ({**SHARED, "listeners": {"admin": "[::1]:15000"}}, []),
        ({**SHARED, "ipv6_enabled": False, "listeners": {"admin": "[::1]:15000"}}, ["listeners.admin"]),
        ({**SHARED, "ipv6_enabled": False}, []),
        ({**SHARED, "listeners": {"admin": "unix:/run/admin.sock"}}, []),
        ({**SHARED, "http2": {"connection_window_bytes": "1MiB"}}, ["http2.connection_window_bytes"]),
    ],
)
def test_what_contradicts_something_else_is_a_problem(settings: dict[str, object], expected: list[str]) -> None:
    assert fields(settings) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"svid_ttl_s": "91d"}, ["svid_ttl_s"]),
        ({"max_svid_ttl_s": "366d"}, ["max_svid_ttl_s"]),
        ({"root_ttl_s": "300d"}, ["intermediate_ttl_s"]),
        ({"listeners": {"admin": "0.0.0.0:1"}}, ["listeners.admin"]),
    ],
)
def test_no_certificate_may_outlive_its_issuer(settings: dict[str, object], expected: list[str]) -> None:
    assert [problem.field for problem in check_control(ControlSettings.model_validate(settings))] == expected


def control_problems(settings: dict[str, object]) -> list[tuple[str, str]]:
    found = check_control(ControlSettings.model_validate(settings))
    return [(problem.field, problem.what) for problem in found]


WEB = {"trust_domain": "y.test", "url": "https://y.test/", "profile": "https_web"}
SPIFFE = {"trust_domain": "y.test", "url": "https://y.test/", "bundle": "y.json"}


@pytest.mark.parametrize(
    ("federation", "expected"),
    [
        ([], []),
        ([WEB], []),
        ([SPIFFE], []),
        ([{"trust_domain": "y.test", "bundle": "y.json"}], []),
        ([{**SPIFFE, "bundle": None, "endpoint_spiffe_id": "spiffe://z.test/bundles"}], []),
        ([{**SPIFFE, "bundle": None}], [("federation[0].bundle", "nothing vouches for the first fetch")]),
        ([{"trust_domain": "y.test"}], [("federation[0]", "nothing says where its bundle is")]),
        ([WEB, WEB], [("federation[1].trust_domain", "y.test is given twice, first in federation[0]")]),
        ([{**WEB, "trust_domain": "cluster.local"}], [("federation[0].trust_domain", "this is our own trust domain")]),
        ([{**SPIFFE, "roots": "r"}], [("federation[0].roots", "https_spiffe goes by the domain's own bundle")]),
        ([{**WEB, "trust_domain_aliases": ["new.test"]}], []),
        (
            [{**WEB, "trust_domain_aliases": ["cluster.local"]}],
            [("federation[0].trust_domain_aliases[0]", "cluster.local is a trust domain of its own here")],
        ),
        (
            [{**WEB, "endpoint_spiffe_id": "spiffe://y.test/a"}],
            [("federation[0].endpoint_spiffe_id", "https_web goes by the host name")],
        ),
    ],
)
def test_a_federated_domain_needs_a_bundle_and_what_vouches_for_it(
    federation: list[dict[str, object]], expected: list[tuple[str, str]]
) -> None:
    assert control_problems({"federation": federation}) == expected


def test_a_bundle_endpoint_of_the_web_needs_its_certificate_and_no_other_has_one() -> None:
    web: dict[str, object] = {"profile": "https_web", "certificate": "c.pem", "certificate_key": "k.pem"}
    assert control_problems({"bundle_endpoint": web}) == []
    assert control_problems({"bundle_endpoint": {"profile": "https_web"}}) == [
        ("bundle_endpoint.certificate", "https_web needs it"),
        ("bundle_endpoint.certificate_key", "https_web needs it"),
    ]
    assert control_problems({"bundle_endpoint": {**web, "profile": "https_spiffe"}}) == [
        ("bundle_endpoint.certificate", "without effect"),
        ("bundle_endpoint.certificate_key", "without effect"),
    ]


def test_an_alias_is_another_name_than_the_trust_domains_own() -> None:
    names: dict[str, object] = {"trust_domain": "new.test", "trust_domain_aliases": ["old.test", "new.test"]}
    assert [field for field, _ in control_problems(names)] == ["trust_domain_aliases[1]"]
    assert fields({**DEDICATED, **names}) == ["trust_domain_aliases[1]"]
