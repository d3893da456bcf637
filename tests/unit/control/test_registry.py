"""Leases: what is assigned, what is refused, what is left when one ends."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from hbone.control import registry as module
from hbone.control.lease import Conflict, Holder, Lease, OverLimit, RegistrationRefused, ServiceWish, Wish
from hbone.control.registry import LOOPBACK_POOL, Registry
from hbone.discovery.model import Health, Protocol, Workload
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


# members of a WorkloadGroup

MEMBER = Wish(namespace="shop", service_account="cart", hbone_port=15008, group="vms")
VM = Holder(uid="spiffe://…/cart", label="vm", trusted=False, addresses=frozenset({IPv4Address("10.0.0.7")}))
VM_AGAIN = replace(VM, label="vm, connected anew")
CART = {"shop/cart.shop.svc.cluster.local": {80: 8080}}
TEMPLATE = Workload(
    uid="c1/networking.istio.io/WorkloadGroup/shop/vms",
    name="vms",
    namespace="shop",
    network="lan",
    protocol=Protocol.HBONE,
    service_account="cart",
    services=CART,
    capacity=3,
    labels={"app": "cart"},
    workload_name="vms",
)


@pytest.fixture
def grouped(desk: Desk) -> Desk:
    desk.registry.regroup({"shop/vms": TEMPLATE})
    return desk


def test_a_member_is_a_workload_entry_of_its_group_with_its_own_address(grouped: Desk) -> None:
    workload = grouped.take(MEMBER, VM).workload
    assert workload == replace(
        TEMPLATE,
        uid="c1/networking.istio.io/WorkloadEntry/shop/vms",
        name="vms",
        addresses=(IPv4Address("10.0.0.7"),),
    )
    other = replace(VM, addresses=frozenset({IPv4Address("10.0.0.8")}))
    assert grouped.take(MEMBER, other).workload.name == "vms-2"


def test_what_a_member_exposes_itself_is_there_beside_what_its_group_is_of(grouped: Desk) -> None:
    wish = replace(MEMBER, services=(ServiceWish(ports={90: 90}),))
    assert grouped.take(wish, VM).workload.services == {**CART, "shop/vms.shop.mesh.internal": {90: 90}}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (replace(MEMBER, group="vsm"), "there is no WorkloadGroup shop/vsm: there are: shop/vms"),
        (replace(MEMBER, namespace="web"), "there is no WorkloadGroup web/vms"),
        (replace(MEMBER, service_account="db"), "shop/db is no member .* its machines have the service account cart"),
    ],
    ids=["unknown", "of another namespace", "of another account"],
)
def test_who_is_no_member_is_refused(grouped: Desk, wish: Wish, message: str) -> None:
    with pytest.raises(RegistrationRefused, match=message):
        grouped.take(wish, VM)
    assert grouped.store.workloads() == ()


def test_a_lost_member_is_unhealthy_until_its_machine_is_back_without_knowing_its_name(grouped: Desk) -> None:
    lease = grouped.take(MEMBER, VM)
    lost, update = grouped.registry.lose(lease)
    grouped.store.apply(update, Source.REGISTRATIONS)
    (workload,) = grouped.store.workloads()
    assert (workload.health, grouped.registry.is_lost(lost)) == (Health.UNHEALTHY, True)
    assert grouped.take(MEMBER, VM_AGAIN).workload == lease.workload
    assert not grouped.registry.is_lost(lost)
    grouped.end(lost)  # its time is over, but it is somebody's again
    assert grouped.store.workloads() == (lease.workload,)


def test_a_lost_members_place_is_not_for_a_machine_elsewhere_or_of_somebody_else(grouped: Desk) -> None:
    _, update = grouped.registry.lose(grouped.take(MEMBER, VM))
    grouped.store.apply(update, Source.REGISTRATIONS)
    elsewhere = replace(VM, addresses=frozenset({IPv4Address("10.0.0.9")}))
    assert grouped.take(MEMBER, elsewhere).workload.name == "vms-2"
    with pytest.raises(Conflict, match=r"10\.0\.0\.7 is taken"):
        grouped.take(MEMBER, replace(VM, uid="somebody else"))


def test_members_change_with_their_group_leave_with_it_and_come_back_with_it(grouped: Desk) -> None:
    lease = grouped.take(MEMBER, VM)

    def regroup(groups: dict[str, Workload]) -> tuple[Workload, ...]:
        grouped.store.apply(grouped.registry.regroup(groups), Source.REGISTRATIONS)
        return grouped.store.workloads()

    assert regroup({"shop/vms": replace(TEMPLATE, capacity=9)}) == (replace(lease.workload, capacity=9),)
    assert regroup({}) == ()
    assert regroup({"shop/vms": replace(TEMPLATE, service_account="db")}) == (), "not under another identity"
    assert regroup({"shop/vms": TEMPLATE}) == (lease.workload,)


def test_a_name_that_a_manifest_has_is_not_a_members(grouped: Desk) -> None:
    entry = Workload(
        uid="c1/networking.istio.io/WorkloadEntry/shop/vms",
        name="vms",
        namespace="shop",
        addresses=(IPv4Address("10.0.0.1"),),
    )
    grouped.store.apply(Update(workloads=(entry,)), Source.MANIFESTS)
    assert grouped.take(MEMBER, VM).workload.name == "vms-2"
