"""Leases: what is assigned, what is refused, what is left when one ends."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from hbone.control import registry as module
from hbone.control.registry import (
    LOOPBACK_POOL,
    Conflict,
    Holder,
    Lease,
    OverLimit,
    RegistrationRefused,
    Registry,
    ServiceWish,
    Wish,
)
from hbone.discovery.model import Protocol, Workload
from hbone.discovery.store import Source, Store, Update
from tests.support.controlplane import DOMAIN

ME = Holder(uid=1000, label="uid 1000 (pid 1)", trusted=True)
GUEST = Holder(uid=1001, label="uid 1001 (pid 2)", trusted=False)
WEB = Wish(namespace="shop", service_account="web", hbone_port=15008, services=(ServiceWish(ports={80: 8080}),))


class Desk:
    """A registry and the store that its updates go into."""

    def __init__(self) -> None:
        self.store = Store()
        self.registry = Registry(self.store, DOMAIN, network="lan", cluster_id="c1")

    def take(self, wish: Wish, holder: Holder = ME, instead_of: Lease | None = None) -> Lease:
        lease, update = self.registry.register(wish, holder, instead_of=instead_of)
        self.store.apply(update, Source.REGISTRATIONS)
        return lease

    def end(self, lease: Lease) -> None:
        self.store.apply(self.registry.release(lease), Source.REGISTRATIONS)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_workload_gets_a_name_an_address_and_its_services(desk: Desk) -> None:
    workload = desk.take(WEB).workload
    assert desk.store.workloads() == (workload,)
    assert (workload.name, workload.network, workload.cluster_id) == ("web", "lan", "c1")
    assert (workload.protocol, workload.hbone_port) == (Protocol.HBONE, 15008)
    assert str(workload.identity) == "spiffe://cluster.local/ns/shop/sa/web"
    assert desk.store.service_named("web.shop.mesh.internal") is not None
    (ip,) = workload.addresses
    assert ip in LOOPBACK_POOL
    assert ip.packed[3] not in {0, 255}


def test_the_same_program_gets_the_same_address_again(desk: Desk) -> None:
    first = desk.take(WEB)
    desk.end(first)
    assert desk.take(WEB).workload.addresses == first.workload.addresses
    assert Desk().take(WEB).workload.addresses == first.workload.addresses


def test_addresses_differ_between_workloads(desk: Desk) -> None:
    addresses = {desk.take(Wish(namespace="shop", service_account="job")).workload.addresses for _ in range(200)}
    assert len(addresses) == 200


def test_an_address_that_somebody_else_has_is_passed_over(desk: Desk) -> None:
    (ip,) = Desk().take(WEB).workload.addresses
    other = Workload(uid="m", name="m", namespace="shop", network="lan", addresses=(ip,))
    desk.store.apply(Update(workloads=(other,)), Source.MANIFESTS)
    assert desk.take(WEB).workload.addresses != (ip,)


def test_names_are_made_from_the_service_account_and_numbered(desk: Desk) -> None:
    wish = Wish(namespace="shop", service_account="Web.Front_End")
    assert [desk.take(wish).workload.name for _ in range(3)] == ["web-front-end", "web-front-end-2", "web-front-end-3"]


def test_a_name_of_a_manifest_is_not_taken_over(desk: Desk) -> None:
    there = Workload(uid="m", name="web", namespace="shop")
    desk.store.apply(Update(workloads=(there,)), Source.MANIFESTS)
    with pytest.raises(Conflict, match="it is the workload m"):
        desk.take(replace(WEB, name="web"))
    assert desk.take(WEB).workload.name == "web-2"


def test_a_lease_that_ends_takes_everything_with_it(desk: Desk) -> None:
    lease = desk.take(WEB)
    desk.end(lease)
    assert desk.store.workloads() == ()
    assert desk.store.services() == ()
    assert desk.registry.leases() == ()
    assert desk.registry.release(lease) == Update()  # twice does no harm


def test_a_shared_service_has_the_ports_of_all_and_lives_until_the_last_one_ends(desk: Desk) -> None:
    one = desk.take(replace(WEB, services=(ServiceWish(hostname="f.shop.mesh.internal", ports={80: 1}),)))
    two = desk.take(replace(WEB, services=(ServiceWish(hostname="f.shop.mesh.internal", ports={443: 2}),)))
    service = desk.store.service_named("f.shop.mesh.internal")
    assert service is not None
    assert dict(service.ports) == {80: 1, 443: 2}
    desk.end(one)
    service = desk.store.service_named("f.shop.mesh.internal")
    assert service is not None
    assert dict(service.ports) == {443: 2}
    desk.end(two)
    assert desk.store.services() == ()


def test_a_lease_can_be_changed_in_place(desk: Desk) -> None:
    first = desk.take(WEB)
    second = desk.take(
        replace(WEB, services=(ServiceWish(hostname="new.shop.mesh.internal", ports={1: 1}),)), ME, first
    )
    assert second.workload.uid == first.workload.uid
    assert second.workload.addresses == first.workload.addresses
    assert [service.hostname for service in desk.store.services()] == ["new.shop.mesh.internal"]
    desk.end(second)
    assert desk.store.workloads() == ()


def test_a_refused_change_leaves_the_lease_as_it_was(desk: Desk) -> None:
    first = desk.take(WEB)
    before = desk.store.workloads()
    with pytest.raises(RegistrationRefused):
        desk.take(replace(WEB, services=(ServiceWish(ports={0: 1}),)), ME, first)
    assert desk.store.workloads() == before
    assert desk.registry.leases() == (first,)


def test_a_renamed_lease_leaves_nothing_behind(desk: Desk) -> None:
    first = desk.take(WEB)
    second = desk.take(replace(WEB, name="front"), ME, first)
    assert [w.name for w in desk.store.workloads()] == ["front"]
    assert [service.hostname for service in desk.store.services()] == ["front.shop.mesh.internal"]
    desk.end(second)
    assert desk.store.workloads() == ()


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (replace(WEB, addresses=(IPv4Address("10.0.0.1"),)), "may not register the address"),
        (replace(WEB, services=(ServiceWish(hostname="pay.bank", ports={80: 80}),)), "may not register the host name"),
        (
            replace(WEB, services=(ServiceWish(hostname="shop.mesh.internal", ports={80: 80}),)),
            "may not register the host name",
        ),
    ],
)
def test_a_guest_keeps_to_loopback_and_its_namespace(desk: Desk, wish: Wish, expected: str) -> None:
    with pytest.raises(RegistrationRefused, match=expected):
        desk.take(wish, GUEST)
    desk.take(wish, ME)
    desk.take(replace(WEB, addresses=(IPv4Address("127.1.2.3"),)), GUEST)


@pytest.mark.parametrize("ports", [{}, {0: 1}, {80: 70000}, {n: n for n in range(1, 300)}])
def test_a_service_has_real_ports(desk: Desk, ports: dict[int, int]) -> None:
    with pytest.raises(RegistrationRefused, match="port"):
        desk.take(replace(WEB, services=(ServiceWish(ports=ports),)))


@pytest.mark.parametrize(
    "wish",
    [
        Wish(namespace="a/b", service_account="x"),
        Wish(namespace="", service_account="x"),
        Wish(namespace="shop", service_account="."),
        Wish(namespace="shop", service_account="___"),
        Wish(namespace="shop", service_account="x", name="-x"),
        Wish(namespace="shop", service_account="x", name="x" * 64),
        Wish(namespace="shop", service_account="x", addresses=(IPv4Address("224.0.0.1"),)),
        Wish(namespace="shop", service_account="x", services=tuple(ServiceWish(ports={1: 1}) for _ in range(65))),
    ],
)
def test_what_cannot_be_named_is_refused(desk: Desk, wish: Wish) -> None:
    with pytest.raises(RegistrationRefused):
        desk.take(wish)
    assert desk.registry.leases() == ()


def test_one_user_cannot_take_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEASES_EACH", 3)
    last = [desk.take(WEB) for _ in range(3)][-1]
    with pytest.raises(OverLimit, match="at most 3 of one user"):
        desk.take(WEB)
    desk.take(WEB, GUEST)
    desk.take(WEB, ME, last)  # changing one's own takes no further
