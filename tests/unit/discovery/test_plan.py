"""Outbound plans: from what a program asked for to where its bytes go."""

from dataclasses import replace

import pytest

from hbone.discovery.listeners import OwnListeners
from hbone.discovery.model import (
    ApplicationTunnel,
    GatewayAddress,
    Health,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    NetworkMode,
    Protocol,
    Scope,
    Service,
    Workload,
)
from hbone.discovery.plan import (
    Cause,
    OutboundContext,
    Passthrough,
    Refuse,
    Resolve,
    ThroughTunnel,
    ThroughWaypoint,
    Unknown,
)
from hbone.discovery.select import Selector
from hbone.discovery.store import Update
from hbone.identity.spiffe import SpiffeId
from tests.unit.discovery.builders import gateway, host, ip, plan, service, sock, store, workload

CART = workload("cart", "10.0.0.2", services={"cart": {80: 8080}})
PLAIN = replace(CART, name="plain", uid="plain", addresses=(ip("10.0.0.3"),), protocol=Protocol.TCP)
SERVICE = service("cart", "10.2.0.1")
AS_DIALLED = LoadBalancing(mode=LoadBalancerMode.PASSTHROUGH)


# to addresses


def test_an_unknown_address_is_passed_through_in_clear() -> None:
    assert plan(store(), "192.0.2.1:443") == Passthrough(upstream=sock("192.0.2.1:443"), destination=None, service=None)


def test_an_unknown_address_is_refused_where_only_the_mesh_may_be_reached() -> None:
    found = plan(store(), "192.0.2.1:443", context=OutboundContext(unknown=Unknown.REFUSE))
    assert isinstance(found, Refuse)
    assert found.cause is Cause.UNKNOWN_ADDRESS


def test_an_address_on_another_network_is_unknown() -> None:
    found = plan(store(replace(CART, network="n2")), "10.0.0.2:80")
    assert found == Passthrough(upstream=sock("10.0.0.2:80"), destination=None, service=None)


def test_a_workload_that_speaks_hbone_is_reached_through_a_tunnel() -> None:
    assert plan(store(CART), "10.0.0.2:80") == ThroughTunnel(
        peer=sock("10.0.0.2:15008"),
        authority=sock("10.0.0.2:80"),
        expected=frozenset({SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")}),
        destination=CART,
        service=None,
    )


def test_the_tunnel_leads_to_the_hbone_port_of_the_workload() -> None:
    found = plan(store(replace(CART, hbone_port=16008)), "10.0.0.2:80")
    assert isinstance(found, ThroughTunnel)
    assert found.peer == sock("10.0.0.2:16008")


def test_a_workload_that_speaks_plain_tcp_is_passed_through_with_its_labels() -> None:
    found = plan(store(PLAIN), "10.0.0.3:80")
    assert found == Passthrough(upstream=sock("10.0.0.3:80"), destination=PLAIN, service=None)


def test_the_address_of_a_host_network_workload_is_passed_through() -> None:
    found = plan(store(replace(CART, network_mode=NetworkMode.HOST_NETWORK)), "10.0.0.2:80")
    assert found == Passthrough(upstream=sock("10.0.0.2:80"), destination=None, service=None)


def test_ipv6_addresses_are_addresses() -> None:
    found = plan(store(replace(CART, addresses=(ip("fd00::2"),))), "[fd00::2]:80")
    assert isinstance(found, ThroughTunnel)
    assert (str(found.peer), str(found.authority)) == ("[fd00::2]:15008", "[fd00::2]:80")


@pytest.mark.parametrize("target", ["127.0.0.1:15008", "127.0.0.9:15001", "[::1]:15006"])
def test_our_own_listeners_cannot_be_called_on_loopback(target: str) -> None:
    found = plan(store(), target)
    assert isinstance(found, Refuse)
    assert (found.cause, found.what) == (Cause.ILLEGAL_CALL, "attempted recursive call to ourselves")
    assert str(found.error()).startswith("attempted recursive call to ourselves")


@pytest.mark.parametrize("target", ["10.0.0.9:15008", "127.0.0.1:15080", "127.0.0.1:15021"])
def test_other_addresses_and_ports_are_no_calls_to_ourselves(target: str) -> None:
    assert isinstance(plan(store(), target), Passthrough)


def test_the_illegal_ports_are_those_we_listen_on() -> None:
    context = OutboundContext(listeners=OwnListeners(frozenset({sock("127.0.0.1:15080")})))
    assert isinstance(plan(store(), "127.0.0.1:15080", context=context), Refuse)
    assert isinstance(plan(store(), "127.0.0.2:15080", context=context), Passthrough)


# to services


def test_a_service_is_balanced_over_its_endpoints_with_its_target_port_and_identities() -> None:
    named = replace(SERVICE, subject_alt_names=("spiffe://cluster.local/ns/old/sa/cart",))
    mesh, selector = store(CART, PLAIN, named), Selector()
    found = [plan(mesh, "10.2.0.1:80", selector=selector) for _ in range(2)]
    assert found == [
        ThroughTunnel(
            peer=sock("10.0.0.2:15008"),
            authority=sock("10.0.0.2:8080"),
            expected=CART_IDENTITIES,
            destination=CART,
            service=named,
        ),
        Passthrough(upstream=sock("10.0.0.3:8080"), destination=PLAIN, service=named),
    ]


CART_IDENTITIES = frozenset(
    {SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart"), SpiffeId.parse("spiffe://cluster.local/ns/old/sa/cart")}
)


@pytest.mark.parametrize(
    ("values", "target", "why"),
    [
        ((SERVICE,), "10.2.0.1:80", "0 endpoints"),
        ((SERVICE, replace(CART, health=Health.UNHEALTHY)), "10.2.0.1:80", "1 endpoints, 0 of them healthy"),
        ((SERVICE, CART), "10.2.0.1:81", "has no port 81, its ports are: 80"),
        ((replace(SERVICE, ports={}), CART), "10.2.0.1:81", "its ports are: none"),
    ],
)
def test_a_service_that_cannot_be_reached_is_refused_not_passed_through(
    values: tuple[Workload | Service, ...], target: str, why: str
) -> None:
    found = plan(store(*values), target)
    assert isinstance(found, Refuse)
    assert (found.cause, found.what) == (Cause.NO_UPSTREAM, f"no healthy upstream: {target}")
    assert why in found.reason


def test_a_named_target_port_is_the_endpoints_own() -> None:
    other = replace(CART, uid="other", addresses=(ip("10.0.0.9"),), services={SERVICE.key: {80: 9999}})
    mesh, selector = store(CART, other, replace(SERVICE, ports={80: 0})), Selector()
    found = [plan(mesh, "10.2.0.1:80", selector=selector) for _ in range(2)]
    assert {str(p.authority) for p in found if isinstance(p, ThroughTunnel)} == {"10.0.0.2:8080", "10.0.0.9:9999"}


def test_host_network_workloads_are_endpoints() -> None:
    hostly = replace(CART, network_mode=NetworkMode.HOST_NETWORK)
    assert isinstance(plan(store(hostly, SERVICE), "10.2.0.1:80"), ThroughTunnel)


@pytest.mark.parametrize(
    ("families", "dialled", "expected"),
    [
        (IpFamilies.DUAL, "10.2.0.1:80", "10.0.0.2:15008"),
        (IpFamilies.DUAL, "[fd01::1]:80", "[fd00::2]:15008"),
        (IpFamilies.IPV4, "[fd01::1]:80", "10.0.0.2:15008"),
        (IpFamilies.IPV6, "10.2.0.1:80", "[fd00::2]:15008"),
        (IpFamilies.AUTOMATIC, "[fd01::1]:80", "[fd00::2]:15008"),
    ],
)
def test_the_dialled_family_is_kept_where_the_service_allows_it(
    families: IpFamilies, dialled: str, expected: str
) -> None:
    dual = replace(CART, addresses=(ip("10.0.0.2"), ip("fd00::2")))
    made = replace(service("cart", "10.2.0.1", "fd01::1"), ip_families=families)
    found = plan(store(dual, made), dialled)
    assert isinstance(found, ThroughTunnel)
    assert str(found.peer) == expected


def test_a_passthrough_service_leads_to_where_the_program_wanted_to_go() -> None:
    made = replace(SERVICE, load_balancing=AS_DIALLED)
    found = plan(store(made, CART), "10.2.0.1:80")
    assert found == Passthrough(upstream=sock("10.2.0.1:80"), destination=None, service=made)


def test_a_passthrough_range_never_sends_in_clear_what_a_workload_wants_in_a_tunnel() -> None:
    everything = service("all", "10.0.0.0/8", load_balancing=AS_DIALLED)
    assert isinstance(plan(store(everything, CART), "10.0.0.2:80"), ThroughTunnel)
    same = service("same", "10.0.0.2", load_balancing=AS_DIALLED)
    assert isinstance(plan(store(same, CART), "10.0.0.2:80"), ThroughTunnel)


# a service and a workload at one address


def test_a_shared_address_means_the_service_on_its_ports_and_the_workload_on_others() -> None:
    shared = service("cart", "10.0.0.2")
    mesh = store(CART, shared)
    on_port, off_port = plan(mesh, "10.0.0.2:80"), plan(mesh, "10.0.0.2:22")
    assert isinstance(on_port, ThroughTunnel)
    assert isinstance(off_port, ThroughTunnel)
    assert (str(on_port.authority), on_port.service) == ("10.0.0.2:8080", shared)
    assert (str(off_port.authority), off_port.service) == ("10.0.0.2:22", None)


@pytest.mark.parametrize("port", [80, 22])
def test_a_shared_address_is_no_way_around_the_services_waypoint(port: int) -> None:
    mesh = store(CART, service("cart", "10.0.0.2", waypoint=gateway("10.0.0.8")), workload("wp", "10.0.0.8"))
    assert isinstance(plan(mesh, f"10.0.0.2:{port}"), ThroughWaypoint)


# failures before the first byte


def test_after_a_failed_connect_the_next_endpoint_is_tried_until_none_is_left() -> None:
    other = replace(CART, uid="other", name="other", addresses=(ip("10.0.0.9"),))
    mesh, selector, context = store(CART, other, SERVICE), Selector(), OutboundContext()
    seen: list[str] = []
    while isinstance(found := plan(mesh, "10.2.0.1:80", selector=selector, context=context), ThroughTunnel):
        seen.append(found.destination.name)
        context = context.without(found)
    assert sorted(seen) == ["cart", "other"]
    assert isinstance(found, Refuse)
    assert "2 tried in vain" in found.why


def test_a_workload_that_was_dialled_by_its_address_has_no_alternative() -> None:
    mesh, context = store(CART), OutboundContext()
    found = plan(mesh, "10.0.0.2:80", context=context.without(plan(mesh, "10.0.0.2:80")))
    assert isinstance(found, Refuse)
    assert "could not be reached" in found.why


def test_plans_without_an_upstream_of_the_mesh_leave_nothing_to_exclude() -> None:
    context = OutboundContext()
    assert context.without(plan(store(), "192.0.2.1:1")) is context
    assert context.without(plan(store(), "nobody:1")) is context


# to names


def test_a_service_can_be_asked_for_by_name() -> None:
    mesh = store(CART, SERVICE)
    for name in ("cart", "cart.shop", "cart.shop.svc", host("cart"), "CART.shop.svc.cluster.local"):
        found = plan(mesh, f"{name}:80")
        assert isinstance(found, ThroughTunnel)
        assert str(found.authority) == "10.0.0.2:8080"


def test_a_workload_can_be_asked_for_by_name() -> None:
    found = plan(store(CART), "cart.shop:1234")
    assert isinstance(found, ThroughTunnel)
    assert str(found.authority) == "10.0.0.2:1234"


def test_an_unknown_name_is_refused_with_the_name() -> None:
    found = plan(store(), "nobody.example:80")
    assert isinstance(found, Refuse)
    assert (found.cause, found.what) == (Cause.UNKNOWN_HOST, "no service or workload for hostname: nobody.example")


def test_the_name_of_a_passthrough_service_is_looked_up_first() -> None:
    mesh, context = store(service("ext", hostname="*.example.com", load_balancing=AS_DIALLED)), OutboundContext()
    asked = plan(mesh, "db.example.com:80", context=context)
    assert isinstance(asked, Resolve)
    assert asked.host == "db.example.com"
    answered = plan(mesh, "db.example.com:80", context=context.resolved(asked, (ip("192.0.2.7"),)))
    assert isinstance(answered, Passthrough)
    assert answered.upstream == sock("192.0.2.7:80")
    nothing = plan(mesh, "db.example.com:80", context=context.resolved(asked, ()))
    assert isinstance(nothing, Refuse)
    assert nothing.cause is Cause.NO_ADDRESS


# workloads without addresses


def test_a_workload_with_a_host_name_alone_is_looked_up_and_then_still_the_chosen_one() -> None:
    members = [
        workload(n, hostname=f"{n}.example", services={"cart": {80: 8080}}, protocol=Protocol.TCP) for n in ("a", "b")
    ]
    mesh, selector, context = store(SERVICE, *members), Selector(), OutboundContext()
    asked = plan(mesh, "10.2.0.1:80", selector=selector, context=context)
    assert isinstance(asked, Resolve)
    assert (asked.host, asked.destination) == ("a.example", members[0])
    found = plan(
        mesh,
        "10.2.0.1:80",
        selector=selector,
        context=context.resolved(asked, (ip("fd00::7"), ip("192.0.2.7"))),
    )
    assert found == Passthrough(upstream=sock("192.0.2.7:8080"), destination=members[0], service=SERVICE)


def test_a_name_without_addresses_is_refused_and_the_next_endpoint_can_be_tried() -> None:
    lost = workload("a", hostname="a.example", services={"cart": {80: 8080}})
    mesh, context = store(SERVICE, lost), OutboundContext()
    asked = plan(mesh, "10.2.0.1:80", context=context)
    assert isinstance(asked, Resolve)
    found = plan(mesh, "10.2.0.1:80", context=context.resolved(asked, ()))
    assert isinstance(found, Refuse)
    assert found.what == f"no ip addresses were resolved for workload: {lost.uid}"
    mesh.apply(Update(workloads=(replace(CART, uid="z"),)))
    assert isinstance(plan(mesh, "10.2.0.1:80", context=context.without(asked)), ThroughTunnel)


def test_a_workload_without_any_address_is_refused() -> None:
    found = plan(store(workload("a")), "a.shop:80")
    assert isinstance(found, Refuse)
    assert found.cause is Cause.NO_ADDRESS
    assert found.what.startswith("no valid routing destination for workload")


# other networks

REMOTE = workload(
    "remote", network="n2", network_gateway=gateway("10.9.0.1"), services={"cart": {80: 8080}}, uid="a-remote"
)


def test_endpoints_on_this_network_are_taken_before_those_that_cannot_be_reached_yet() -> None:
    mesh, selector = store(CART, REMOTE, SERVICE), Selector()
    for _ in range(4):
        assert isinstance(found := plan(mesh, "10.2.0.1:80", selector=selector), ThroughTunnel)
        assert found.destination is CART


def test_what_is_only_on_another_network_is_refused_with_the_reason() -> None:
    found = plan(store(REMOTE, SERVICE), "10.2.0.1:80")
    assert isinstance(found, Refuse)
    assert found.cause is Cause.OTHER_NETWORK
    assert "east-west gateway" in found.why
    by_name = plan(store(REMOTE), "remote.shop:80")
    assert isinstance(by_name, Refuse)
    assert by_name.cause is Cause.OTHER_NETWORK


# waypoints

WAYPOINT = workload("wp", "10.0.0.8", services={"wp": {15008: 15008}})
WAYPOINT_SERVICE = service(
    "wp", "10.2.0.8", ports={15008: 15008}, subject_alt_names=("spiffe://cluster.local/ns/a/sa/b",)
)
BY_HOST = gateway(f"shop/{host('wp')}")
BY_ADDRESS = gateway("10.0.0.8")


@pytest.mark.parametrize("where", [BY_HOST, BY_ADDRESS, gateway("10.2.0.8")])
def test_a_service_with_a_waypoint_is_asked_for_there_with_the_original_address(where: GatewayAddress) -> None:
    made = replace(SERVICE, waypoint=where)
    found = plan(store(CART, made, WAYPOINT, WAYPOINT_SERVICE), "10.2.0.1:80")
    assert isinstance(found, ThroughWaypoint)
    assert (found.peer, found.authority) == (sock("10.0.0.8:15008"), sock("10.2.0.1:80"))
    assert (found.waypoint, found.destination, found.service) == (WAYPOINT, None, made)
    assert WAYPOINT.identity in found.expected
    assert (SpiffeId.parse("spiffe://cluster.local/ns/a/sa/b") in found.expected) is (where != BY_ADDRESS)
    assert CART.identity not in found.expected


def test_a_waypoint_may_be_a_workload_by_host_name() -> None:
    named = replace(WAYPOINT, hostname="wp.example", services={})
    made = replace(SERVICE, waypoint=gateway("shop/wp.example", 15009))
    found = plan(store(CART, made, named), "10.2.0.1:80")
    assert isinstance(found, ThroughWaypoint)
    assert found.peer == sock("10.0.0.8:15009")


def test_a_workload_with_a_waypoint_is_asked_for_there_when_dialled_by_its_address() -> None:
    guarded = replace(CART, waypoint=BY_HOST)
    found = plan(store(guarded, WAYPOINT, WAYPOINT_SERVICE), "10.0.0.2:8080")
    assert isinstance(found, ThroughWaypoint)
    assert (found.authority, found.destination) == (sock("10.0.0.2:8080"), guarded)


def test_a_workloads_waypoint_is_not_before_its_services() -> None:
    mesh = store(replace(CART, waypoint=BY_HOST), SERVICE, WAYPOINT, WAYPOINT_SERVICE)
    assert isinstance(plan(mesh, "10.2.0.1:80"), ThroughTunnel)


@pytest.mark.parametrize("where", [gateway("shop/none.example"), gateway("10.0.0.77")])
def test_a_waypoint_that_is_not_there_is_never_gone_around(where: GatewayAddress) -> None:
    for mesh, to in (
        (store(CART, replace(SERVICE, waypoint=where)), "10.2.0.1:80"),
        (store(replace(CART, waypoint=where)), "10.0.0.2:80"),
    ):
        found = plan(mesh, to)
        assert isinstance(found, Refuse)
        assert found.cause is Cause.UNKNOWN_WAYPOINT
        assert found.what.startswith("unknown waypoint: waypoint ")


def test_a_waypoint_without_instances_is_never_gone_around() -> None:
    found = plan(store(CART, replace(SERVICE, waypoint=BY_HOST), WAYPOINT_SERVICE), "10.2.0.1:80")
    assert isinstance(found, Refuse)
    assert found.cause is Cause.NO_UPSTREAM


def test_a_passthrough_service_with_a_waypoint_goes_through_it() -> None:
    made = replace(SERVICE, waypoint=BY_HOST, load_balancing=AS_DIALLED)
    assert isinstance(plan(store(made, WAYPOINT, WAYPOINT_SERVICE), "10.2.0.1:80"), ThroughWaypoint)


def test_after_a_failed_connect_another_instance_of_the_waypoint_is_tried() -> None:
    second = replace(WAYPOINT, uid="second", name="second", addresses=(ip("10.0.0.18"),))
    mesh = store(CART, replace(SERVICE, waypoint=BY_HOST), WAYPOINT, second, WAYPOINT_SERVICE)
    selector, context = Selector(), OutboundContext()
    seen: set[str] = set()
    while isinstance(found := plan(mesh, "10.2.0.1:80", selector=selector, context=context), ThroughWaypoint):
        seen.add(found.waypoint.name)
        context = context.without(found)
    assert seen == {"wp", "second"}
    alone = store(CART, replace(SERVICE, waypoint=BY_ADDRESS), replace(WAYPOINT, services={}))
    first = plan(alone, "10.2.0.1:80")
    assert isinstance(plan(alone, "10.2.0.1:80", context=OutboundContext().without(first)), Refuse)


def test_a_service_waypoint_with_an_application_tunnel_needs_no_declared_port() -> None:
    tunnelled = replace(WAYPOINT, services={WAYPOINT_SERVICE.key: {}}, application_tunnel=ApplicationTunnel(port=15088))
    mesh = store(CART, replace(SERVICE, waypoint=BY_HOST), tunnelled, replace(WAYPOINT_SERVICE, ports={}))
    found = plan(mesh, "10.2.0.1:80")
    assert isinstance(found, ThroughWaypoint)
    assert found.peer == sock("10.0.0.8:15008")


@pytest.mark.parametrize(
    ("downstream", "account", "through_waypoint"),
    [
        ("10.0.0.8", "wp", False),
        ("10.0.0.99", "wp", True),  # its identity from another address
        ("10.0.0.8", "client", True),  # its address with another identity
        (None, "wp", True),
    ],
)
def test_only_the_waypoint_itself_goes_straight_to_the_workload(
    downstream: str | None, account: str, through_waypoint: bool
) -> None:
    source = replace(WAYPOINT, service_account=account)
    context = OutboundContext(downstream=ip(downstream) if downstream else None)
    for where in (BY_HOST, BY_ADDRESS):
        mesh = store(replace(CART, waypoint=where), WAYPOINT, WAYPOINT_SERVICE)
        found = plan(mesh, "10.0.0.2:8080", source=source, context=context)
        assert isinstance(found, ThroughWaypoint) is through_waypoint
        mesh = store(CART, replace(SERVICE, waypoint=where), WAYPOINT, WAYPOINT_SERVICE)
        found = plan(mesh, "10.2.0.1:80", source=source, context=context)
        assert isinstance(found, ThroughWaypoint) is through_waypoint


def test_a_waypoint_on_another_network_is_refused() -> None:
    away = replace(WAYPOINT, network="n2", services={}, hostname="wp.example")
    found = plan(store(CART, replace(SERVICE, waypoint=gateway("shop/wp.example")), away), "10.2.0.1:80")
    assert isinstance(found, Refuse)
    assert found.cause is Cause.OTHER_NETWORK


def test_a_waypoint_without_an_address_is_looked_up() -> None:
    named = replace(WAYPOINT, addresses=(), hostname="wp.example", services={})
    mesh, context = store(CART, replace(SERVICE, waypoint=gateway("shop/wp.example")), named), OutboundContext()
    asked = plan(mesh, "10.2.0.1:80")
    assert isinstance(asked, Resolve)
    found = plan(mesh, "10.2.0.1:80", context=context.resolved(asked, (ip("10.0.0.8"),)))
    assert isinstance(found, ThroughWaypoint)
    assert found.peer == sock("10.0.0.8:15008")


@pytest.mark.parametrize(
    ("made", "authority"),
    [
        (service("cart", "10.2.0.1", "fd01::1", waypoint=BY_HOST), "10.2.0.1:80"),
        (service("cart", waypoint=BY_HOST), f"{host('cart')}:80"),
        (service("cart", "n9/10.2.0.1", waypoint=BY_HOST), f"{host('cart')}:80"),
    ],
)
def test_a_name_is_turned_into_an_address_for_the_waypoint_where_there_is_one(made: Service, authority: str) -> None:
    found = plan(store(CART, made, WAYPOINT, WAYPOINT_SERVICE), "cart:80")
    assert isinstance(found, ThroughWaypoint)
    assert str(found.authority) == authority


def test_the_name_of_a_workload_is_turned_into_its_address_for_the_waypoint() -> None:
    mesh = store(replace(CART, waypoint=BY_HOST), WAYPOINT, WAYPOINT_SERVICE)
    found = plan(mesh, "cart.shop:80")
    assert isinstance(found, ThroughWaypoint)
    assert str(found.authority) == "10.0.0.2:80"
    nameless = store(replace(CART, addresses=(), waypoint=BY_HOST), WAYPOINT, WAYPOINT_SERVICE)
    found = plan(nameless, "cart.shop:80")
    assert isinstance(found, ThroughWaypoint)
    assert str(found.authority) == "cart.shop:80"


def test_failover_prefers_this_network_and_reaches_for_the_rest_by_locality() -> None:
    ranked = LoadBalancing(mode=LoadBalancerMode.FAILOVER, routing_preferences=(Scope.NETWORK,))
    mesh = store(REMOTE, replace(SERVICE, load_balancing=ranked), CART)
    assert isinstance(plan(mesh, "10.2.0.1:80"), ThroughTunnel)
    mesh.apply(Update(removed=(CART.uid,)))
    assert isinstance(plan(mesh, "10.2.0.1:80"), Refuse)
