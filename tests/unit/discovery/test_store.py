"""The store: indexes, precedence of sources, and the difference an update makes."""

from dataclasses import replace

import pytest

from hbone.discovery.directory import Found, best_service, own_workload
from hbone.discovery.model import (
    Health,
    MeshState,
    NetworkAddress,
    NetworkMode,
    Protocol,
    Service,
    Visibility,
    Workload,
)
from hbone.discovery.store import Source, Store, Update
from tests.unit.discovery.builders import host, ip, service, store, workload

CART = workload("cart", "10.0.0.2", services={"cart": {80: 8080}})
CART_SERVICE = service("cart", "10.2.0.1")


def test_a_workload_is_found_by_uid_address_and_names() -> None:
    mesh = store(named := replace(CART, hostname="Cart.Example"))
    assert mesh.workload(named.uid) is named
    assert mesh.workload_at("", ip("10.0.0.2")) is named
    assert mesh.workload_at("n2", ip("10.0.0.2")) is None
    assert mesh.workloads_called("shop", "cart") == (named,)
    assert mesh.workloads_with_host("cart.example") == (named,)
    assert own_workload(mesh, "shop", "cart", "cart") is named
    assert own_workload(mesh, "shop", "cart", "other") is None


def test_a_removed_workload_is_found_by_nothing() -> None:
    mesh = store(replace(CART, hostname="cart.example"), CART_SERVICE)
    mesh.apply(Update(removed=(CART.uid,)))
    assert mesh.workload(CART.uid) is None
    assert mesh.workload_at("", ip("10.0.0.2")) is None
    assert mesh.workloads_called("shop", "cart") == ()
    assert mesh.workloads_with_host("cart.example") == ()
    assert mesh.endpoints(CART_SERVICE) == ()
    assert mesh.workloads() == ()


def test_a_renamed_workload_is_not_found_by_its_old_names() -> None:
    mesh = store(replace(CART, hostname="old.example"))
    mesh.apply(Update(workloads=(replace(CART, name="basket", hostname="new.example"),)))
    assert mesh.workloads_called("shop", "cart") == mesh.workloads_with_host("old.example") == ()
    assert [w.name for w in mesh.workloads_with_host("new.example")] == ["basket"]


def test_an_address_that_moved_belongs_to_its_new_workload() -> None:
    mesh = store(CART)
    mesh.apply(Update(workloads=(replace(CART, addresses=(ip("10.0.0.9"),)),)))
    assert mesh.workload_at("", ip("10.0.0.2")) is None
    assert mesh.workload_at("", ip("10.0.0.9")) is not None


def test_an_ipv4_and_an_ipv6_address_of_the_same_number_are_two() -> None:
    four, six = workload("four", "0.0.0.1"), workload("six", "::1")
    mesh = store(four, six)
    assert (mesh.workload_at("", ip("0.0.0.1")), mesh.workload_at("", ip("::1"))) == (four, six)


def test_a_host_network_workload_does_not_own_its_address_and_is_still_an_endpoint() -> None:
    mesh = store(hostly := replace(CART, network_mode=NetworkMode.HOST_NETWORK), CART_SERVICE)
    assert mesh.workload_at("", ip("10.0.0.2")) is None
    assert [e.workload for e in mesh.endpoints(CART_SERVICE)] == [hostly]


@pytest.mark.parametrize(
    ("uids", "protocols", "winner"),
    [
        (("c//Pod/a", "c/x/b"), (Protocol.TCP, Protocol.HBONE), 0),  # a pod beats an HBONE speaker
        (("c/x/a", "c/x/b"), (Protocol.HBONE, Protocol.TCP), 0),
        (("c//Pod/a", "c//Pod/b"), (Protocol.TCP, Protocol.HBONE), 1),
        (("c//Pod/a", "c//Pod/b"), (Protocol.HBONE, Protocol.HBONE), 1),  # the newer of equals
    ],
)
def test_workloads_that_share_an_address_are_ranked(
    uids: tuple[str, str], protocols: tuple[Protocol, Protocol], winner: int
) -> None:
    both = [replace(CART, uid=uid, protocol=protocol) for uid, protocol in zip(uids, protocols, strict=True)]
    mesh = store(*both)
    assert mesh.workload_at("", ip("10.0.0.2")) is both[winner]
    mesh.apply(Update(removed=(both[winner].uid,)))
    assert mesh.workload_at("", ip("10.0.0.2")) is both[1 - winner]


def test_an_update_of_the_older_workload_does_not_take_the_address_from_its_successor() -> None:
    old, new = replace(CART, uid="c//Pod/old"), replace(CART, uid="c//Pod/new")
    mesh = store(old, new)
    mesh.apply(Update(workloads=(replace(old, health=Health.UNHEALTHY),)))
    assert mesh.workload_at("", ip("10.0.0.2")) is new


def test_a_registration_cannot_take_the_address_of_a_workload_in_the_manifests() -> None:
    mesh = Store()
    mine = replace(CART, uid="c/networking.istio.io/WorkloadEntry/shop/cart")
    mesh.apply(Update(workloads=(mine,)), Source.MANIFESTS)
    mesh.apply(Update(workloads=(replace(CART, uid="c//Pod/evil"),)), Source.REGISTRATIONS)
    assert mesh.workload_at("", ip("10.0.0.2")) is mine


# endpoints


def test_endpoints_come_whichever_of_workload_and_service_arrives_first() -> None:
    assert store(CART, CART_SERVICE).endpoints(CART_SERVICE) == store(CART_SERVICE, CART).endpoints(CART_SERVICE)


def test_a_service_that_is_deleted_and_added_again_has_its_endpoints() -> None:
    mesh = store(CART, CART_SERVICE)
    mesh.apply(Update(removed=(CART_SERVICE.key,)))
    mesh.apply(Update(services=(CART_SERVICE,)))
    assert [e.workload for e in mesh.endpoints(CART_SERVICE)] == [CART]


def test_a_workload_that_leaves_a_service_is_no_endpoint_any_more() -> None:
    mesh = store(CART, CART_SERVICE)
    mesh.apply(Update(workloads=(replace(CART, services={}),)))
    assert mesh.endpoints(CART_SERVICE) == ()


def test_unhealthy_endpoints_are_kept_and_seen_as_they_are_now() -> None:
    mesh = store(CART, CART_SERVICE)
    mesh.apply(Update(workloads=(sick := replace(CART, health=Health.UNHEALTHY),)))
    assert [e.workload for e in mesh.endpoints(CART_SERVICE)] == [sick]


def test_endpoints_are_the_same_tuple_until_they_change() -> None:
    mesh = store(CART, CART_SERVICE, other := workload("other", "10.0.0.3"))
    before = mesh.endpoints(CART_SERVICE)
    mesh.apply(Update(workloads=(replace(other, node="b"),)))
    assert mesh.endpoints(CART_SERVICE) is before
    mesh.apply(Update(workloads=(replace(CART, node="b"),)))
    assert mesh.endpoints(CART_SERVICE) is not before


def test_endpoints_are_in_order_of_uid() -> None:
    many = [replace(CART, uid=f"u{n}", addresses=(ip(f"10.1.0.{n}"),)) for n in (3, 1, 2)]
    assert [e.workload.uid for e in store(*many).endpoints(CART_SERVICE)] == ["u1", "u2", "u3"]


# services by address and name


def at(mesh: Store, address: str, namespace: str | None = None, network: str = "") -> str | None:
    found = mesh.at(network, ip(address), namespace).service
    return found.name if found is not None else None


def test_of_services_that_share_a_vip_the_one_in_the_clients_namespace_is_meant() -> None:
    mesh = store(
        service("a", "10.2.0.1", namespace="x"),
        service("b", "10.2.0.1", namespace="y"),
        service("c", "10.2.0.1", namespace="z", canonical=True),
    )
    assert [at(mesh, "10.2.0.1", ns) for ns in ("x", "y", "z", "other", None)] == ["a", "b", "c", "c", "c"]


def test_without_a_canonical_one_the_oldest_service_is_meant() -> None:
    mesh = store(service("a", "10.2.0.1", namespace="x"), service("b", "10.2.0.1", namespace="y"))
    assert at(mesh, "10.2.0.1", "other") == "a"
    mesh.apply(Update(services=(service("a", "10.2.0.1", namespace="x", ports={81: 81}),)))
    assert at(mesh, "10.2.0.1", "other") == "a"  # a change is not a new arrival


def test_the_last_canonical_service_is_meant() -> None:
    both = [service(name, namespace=name, canonical=True) for name in ("a", "b")]
    assert best_service(both, "other") is both[1]
    assert best_service([], "other") is None


def test_a_private_service_does_not_hide_a_range_that_the_client_can_see() -> None:
    mesh = store(
        service("secret", "10.2.0.1", namespace="x", visibility=Visibility.NAMESPACE),
        service("range", "10.2.0.0/16", namespace="y"),
    )
    assert [at(mesh, "10.2.0.1", ns) for ns in ("x", "z")] == ["secret", "range"]


@pytest.mark.parametrize(
    ("address", "namespace", "expected"),
    [
        ("10.2.3.4", None, "exact"),
        ("10.2.3.5", None, "long"),
        ("10.2.9.9", None, "short"),
        ("10.9.9.9", None, None),
        ("10.2.3.5", "y", "short"),  # its own namespace beats a longer prefix
        ("fd00::5", None, "six"),
        ("fd01::5", None, None),
    ],
)
def test_address_ranges_match_by_namespace_then_length_and_exact_addresses_first(
    address: str, namespace: str | None, expected: str | None
) -> None:
    mesh = store(
        service("short", "10.2.0.0/16", namespace="y"),
        service("long", "10.2.3.0/24", namespace="x"),
        service("exact", "10.2.3.4", namespace="x"),
        service("six", "fd00::/16", namespace="x"),
    )
    assert at(mesh, address, namespace) == expected


def test_of_equal_ranges_the_canonical_and_then_the_oldest_is_meant() -> None:
    first, second = (service(name, "10.2.0.0/16", namespace=name) for name in ("a", "b"))
    assert at(store(first, second), "10.2.0.1") == "a"
    assert at(store(first, replace(second, canonical=True)), "10.2.0.1") == "b"


def test_ranges_are_on_their_own_network_and_go_with_their_service() -> None:
    ranged = service("a", "n1/10.2.0.0/16")
    mesh = store(ranged)
    assert [at(mesh, "10.2.0.1", network=n) for n in ("n1", "n2")] == ["a", None]
    mesh.apply(Update(removed=(ranged.key,)))
    assert at(mesh, "10.2.0.1", network="n1") is None


def test_a_service_that_changes_its_addresses_is_found_at_the_new_ones_alone() -> None:
    mesh = store(service("a", "10.2.0.1", "10.3.0.0/16"))
    mesh.apply(Update(services=(service("a", "10.2.0.2", "10.4.0.0/16"),)))
    assert [at(mesh, a) for a in ("10.2.0.1", "10.3.0.1", "10.2.0.2", "10.4.0.1")] == [None, None, "a", "a"]


def test_a_workloads_own_address_beats_a_range_and_is_reported_beside_an_exact_vip() -> None:
    mesh = store(CART, service("range", "10.0.0.0/8"))
    assert mesh.at("", ip("10.0.0.2")) == Found(None, CART)
    exact = service("exact", "10.0.0.2")
    mesh.apply(Update(services=(exact,)))
    assert mesh.at("", ip("10.0.0.2")) == Found(exact, CART)
    assert not mesh.at("n9", ip("10.0.0.2"))


def test_services_are_found_by_host_name_in_any_case() -> None:
    mesh = store(loud := service("a", hostname="Api.Example"), service("b", hostname="api.example", namespace="web"))
    assert mesh.service_named("api.example", "shop") is loud
    assert mesh.service("shop", "api.example") is loud
    assert mesh.service("none", "api.example") is None
    assert mesh.service_named("nothing.example") is None


# changes


def test_a_change_says_what_was_before_and_after() -> None:
    mesh = Store()
    assert [(c.before, c.after) for c in mesh.apply(Update(workloads=(CART,))).workloads] == [(None, CART)]
    newer = replace(CART, node="b")
    change = mesh.apply(Update(workloads=(newer,)))
    assert [(c.before, c.after) for c in change.workloads] == [(CART, newer)]
    gone = mesh.apply(Update(removed=(CART.uid,)))
    assert [(c.before, c.after) for c in gone.workloads] == [(newer, None)]


def test_an_update_that_changes_nothing_is_no_change() -> None:
    mesh = store(CART, CART_SERVICE)
    version = mesh.version
    assert not mesh.apply(Update(workloads=(replace(CART),), services=(replace(CART_SERVICE),), removed=("nobody",)))
    assert mesh.version == version


def test_removal_comes_before_insertion_in_one_update() -> None:
    mesh = store(CART)
    change = mesh.apply(Update(workloads=(newer := replace(CART, node="b"),), removed=(CART.uid,)))
    assert mesh.workload(CART.uid) is newer
    assert [(c.before, c.after) for c in change.workloads] == [(CART, newer)]


@pytest.mark.parametrize(
    ("after", "released"),
    [
        (None, True),
        (replace(CART, node="b"), False),
        (replace(CART, service_account="other"), True),
        (replace(CART, hbone_port=16008), True),
        (replace(CART, protocol=Protocol.TCP), True),
        (replace(CART, addresses=(ip("10.0.0.2"), ip("10.0.0.3"))), False),
        (replace(CART, addresses=(ip("10.0.0.3"),)), True),
        (replace(CART, network="n2"), True),
    ],
)
def test_an_address_is_released_when_another_peer_is_to_be_expected(after: Workload | None, released: bool) -> None:
    mesh = store(CART)
    update = Update(removed=(CART.uid,)) if after is None else Update(workloads=(after,))
    assert mesh.apply(update).released == ({NetworkAddress("", ip("10.0.0.2"))} if released else frozenset())


# sources


def test_the_stronger_source_holds_and_the_weaker_returns_when_it_goes() -> None:
    mesh = Store()
    mesh.apply(Update(workloads=(far := replace(CART, node="xds"),)), Source.XDS)
    mesh.apply(Update(workloads=(near := replace(CART, node="manifest"),)), Source.MANIFESTS)
    assert mesh.workload(CART.uid) is near
    assert not mesh.apply(Update(workloads=(far := replace(far, name="new"),)), Source.XDS)
    change = mesh.apply(Update(removed=(CART.uid,)), Source.MANIFESTS)
    assert mesh.workload(CART.uid) is far
    assert [(c.before, c.after) for c in change.workloads] == [(near, far)]


def test_one_source_cannot_remove_what_another_says() -> None:
    mesh = Store()
    mesh.apply(Update(workloads=(CART,), services=(CART_SERVICE,)), Source.MANIFESTS)
    assert not mesh.apply(Update(removed=(CART.uid, CART_SERVICE.key)), Source.XDS)
    assert mesh.workload(CART.uid) is CART


def test_replacing_a_source_reports_the_difference_alone() -> None:
    mesh = Store()
    other, third = workload("other", "10.0.0.3"), workload("third", "10.0.0.4")
    mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(CART, other), services=(CART_SERVICE,)))
    change = mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(replace(CART), third), services=()))
    assert {(c.before, c.after) for c in change.workloads} == {(other, None), (None, third)}
    assert [(c.before, c.after) for c in change.services] == [(CART_SERVICE, None)]
    assert mesh.workloads() == (CART, third)
    assert mesh.services() == ()


def test_views_are_sorted_by_namespace_and_name() -> None:
    mesh = store(workload("b", namespace="y"), workload("a", namespace="y"), workload("c", namespace="x"))
    assert [w.name for w in mesh.workloads()] == ["c", "a", "b"]
    services = store(service("b"), service("a"), Service(name="z", namespace="a", hostname="q")).services()
    assert [s.hostname for s in services] == ["q", host("a"), host("b")]
