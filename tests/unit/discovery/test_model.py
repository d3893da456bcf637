"""Workloads, services and what they derive."""

import pickle

import pytest

from hbone.discovery.model import Interner, IpFamilies, Locality, NetworkAddress, Service, Visibility, Workload
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from tests.unit.discovery.builders import gateway, ip, service, workload


def test_a_workload_derives_its_identity_from_trust_domain_namespace_and_account() -> None:
    assert workload("cart", trust_domain="td.example").identity == SpiffeId.parse("spiffe://td.example/ns/shop/sa/cart")


def test_the_identity_of_equal_parts_is_one_object() -> None:
    assert workload("a", service_account="x").identity is workload("b", service_account="x").identity


@pytest.mark.parametrize("account", ["", "a/b", "a b", ".."])
def test_a_workload_whose_identity_cannot_be_written_is_not_made(account: str) -> None:
    with pytest.raises(InvalidSpiffeId):
        workload("cart", service_account=account)


def test_defaults_are_those_of_the_workload_api() -> None:
    plain = Workload(uid="u", name="w", namespace="n")
    assert (plain.trust_domain, plain.service_account, plain.cluster_id) == ("cluster.local", "default", "Kubernetes")
    assert (plain.capacity, plain.hbone_port, plain.healthy) == (1, 15008, True)


def test_workloads_and_services_can_be_compared_hashed_and_pickled() -> None:
    one = workload("cart", "10.0.0.2", services={"cart": {80: 8080}})
    other = service("cart", "10.2.0.1")
    assert pickle.loads(pickle.dumps(one)) == one
    assert {one: 1, other: 2}[pickle.loads(pickle.dumps(other))] == 2


def test_names_of_a_service_that_are_no_spiffe_ids_match_no_identity() -> None:
    made = service("cart", subject_alt_names=("spiffe://td/ns/a/sa/b", "cart.example", "spiffe://td//"))
    assert made.identities == {SpiffeId.parse("spiffe://td/ns/a/sa/b")}


@pytest.mark.parametrize(
    ("families", "v4", "v6"),
    [
        (IpFamilies.AUTOMATIC, True, True),
        (IpFamilies.DUAL, True, True),
        (IpFamilies.IPV4, True, False),
        (IpFamilies.IPV6, False, True),
    ],
)
def test_ip_families_allow_addresses(families: IpFamilies, v4: bool, v6: bool) -> None:
    assert (families.allows(ip("10.0.0.1")), families.allows(ip("fd00::1"))) == (v4, v6)


def test_a_private_service_is_visible_from_its_own_namespace_and_from_an_unknown_one() -> None:
    made = service("cart", visibility=Visibility.NAMESPACE)
    assert [made.visible_from(ns) for ns in ("shop", "web", None)] == [True, False, True]


def test_a_vip_is_taken_on_the_network_of_the_wanted_family_when_there_is_one() -> None:
    made = service("cart", "n1/10.2.0.1", "n1/fd00::1", "n2/10.3.0.1")
    assert [made.vip("n1", 6), made.vip("n1", 4), made.vip("n2", 6), made.vip("n3", 4)] == [
        ip("fd00::1"),
        ip("10.2.0.1"),
        ip("10.3.0.1"),
        None,
    ]


def test_an_interner_hands_out_the_first_of_equal_values() -> None:
    interner = Interner()
    first = interner.services({"a/b": {80: 8080}})
    assert interner.services({"a/b": {80: 8080}}) is first
    assert interner.ports({80: 8080}) is first["a/b"]
    assert interner.value(Locality(region="eu")) is interner.value(Locality(region="eu"))
    assert interner.labels({"a": "b"}) is interner.labels({"a": "b"})
    assert interner.services({}) is interner.services({})


def test_an_interner_starts_afresh_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interner, "LIMIT", 2)
    interner = Interner()
    for number in range(10):
        assert interner.value(str(number)) == str(number)
        assert interner.ports({number: 1}) == {number: 1}


def test_texts_are_those_of_the_local_file() -> None:
    assert str(NetworkAddress("n1", ip("10.0.0.1"))) == "n1/10.0.0.1"
    assert str(Locality(region="eu", zone="a")) == "eu/a"
    assert str(gateway("infra/wp.example", 15009)) == "infra/wp.example:15009"
    assert Service(name="a", namespace="b", hostname="c").key == "b/c"
