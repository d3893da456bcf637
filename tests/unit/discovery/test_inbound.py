"""Inbound plans: what a CONNECT may reach, and what it may not."""

from dataclasses import replace

import pytest

from hbone.discovery.inbound import Deliver, InboundContext, InboundPlan, Served, asked_service, plan_inbound, served_at
from hbone.discovery.listeners import OwnListeners
from hbone.discovery.model import ApplicationTunnel, GatewayAddress, TunnelProtocol, Visibility, WeightedWaypoint
from hbone.discovery.outcomes import Cause, Refuse
from hbone.discovery.store import Store
from tests.unit.discovery.builders import gateway, host, ip, service, sock, store, target, workload

CART = workload("cart", "10.0.0.2", services={"cart": {80: 8080}})
SERVICE = service("cart", "10.2.0.1")
LOCAL = sock("10.0.0.2:15008")
PROXY = ApplicationTunnel(protocol=TunnelProtocol.PROXY, port=15088)


def arrive(
    mesh: Store, authority: str, *served: Served, local: str = "10.0.0.2:15008", context: InboundContext | None = None
) -> InboundPlan:
    return plan_inbound(
        mesh, served or (Served(workload=CART),), sock(local), target(authority), context or InboundContext()
    )


def refused(found: InboundPlan) -> tuple[Cause, int]:
    assert isinstance(found, Refuse)
    return found.cause, found.status


def test_a_connect_for_the_address_it_came_to_is_delivered_there() -> None:
    assert arrive(store(CART), "10.0.0.2:8080") == Deliver(
        upstream=sock("10.0.0.2:8080"), judged=sock("10.0.0.2:8080"), destination=CART, service=None
    )


def test_a_connect_for_a_foreign_address_is_answered_400() -> None:
    found = arrive(store(CART, workload("other", "10.0.0.3")), "10.0.0.3:8080")
    assert refused(found) == (Cause.IP_MISMATCH, 400)
    assert isinstance(found, Refuse)
    assert found.what == "ip mismatch: 10.0.0.2 != 10.0.0.3"


def test_a_connect_for_another_workload_of_a_shared_node_is_answered_400() -> None:
    other = workload("other", "10.0.0.3")
    found = arrive(store(CART, other), "10.0.0.3:8080", Served(workload=CART), Served(workload=other))
    assert refused(found) == (Cause.IP_MISMATCH, 400)


def test_an_address_of_the_workload_behind_address_translation_is_its_own() -> None:
    found = arrive(store(CART), "10.0.0.2:8080", local="192.168.1.2:15008")
    assert isinstance(found, Deliver)
    assert found.upstream == sock("192.168.1.2:8080")


@pytest.mark.parametrize("port", [15001, 15006, 15008, 16008])
def test_a_connect_for_our_own_listeners_is_answered_503(port: int) -> None:
    found = arrive(store(CART), f"10.0.0.2:{port}", local="10.0.0.2:16008")
    assert refused(found) == (Cause.ILLEGAL_CALL, 503)


OURS = OwnListeners(frozenset({sock("10.0.0.2:15008"), sock("127.0.0.1:15080")}))


@pytest.mark.parametrize(
    ("authority", "dials", "loops"),
    [
        ("10.0.0.2:15008", {}, True),
        ("10.0.0.2:15080", {}, False),  # the same number as one of ours, at another address
        ("10.0.0.2:8080", {8080: "127.0.0.1:15080"}, True),
        ("10.0.0.2:8080", {8080: "127.0.0.2:15080"}, False),
        ("10.0.0.2:15080", {15080: "127.0.0.1:3000"}, False),
    ],
)
def test_a_loop_is_told_by_the_address_that_would_be_dialled(
    authority: str, dials: dict[int, str], loops: bool
) -> None:
    exposed = Served(workload=CART, dials={port: sock(to) for port, to in dials.items()})
    found = arrive(store(CART), authority, exposed, context=InboundContext(listeners=OURS))
    if loops:
        assert refused(found) == (Cause.ILLEGAL_CALL, 503)
    else:
        assert isinstance(found, Deliver)


def test_the_served_workload_is_the_one_with_the_address_that_was_connected_to() -> None:
    other = workload("other", "10.0.0.3")
    both = (Served(workload=CART), Served(workload=other))
    assert served_at(both, sock("10.0.0.3:15008")) is both[1]
    assert served_at(both, sock("10.0.0.9:15008")) is None
    assert served_at(both[:1], sock("10.0.0.9:15008")) is both[0]  # a dedicated node has one, wherever it listens
    assert served_at((), LOCAL) is None
    same = tuple(Served(workload=replace(CART, uid=str(p), hbone_port=p)) for p in (16001, 16002))
    assert served_at(same, sock("10.0.0.2:16002")) is same[1]
    assert served_at(same, sock("10.0.0.2:16009")) is same[0]


def test_an_address_where_nobody_is_served_is_answered_400() -> None:
    other = workload("other", "10.0.0.3")
    found = arrive(store(), "10.0.0.9:80", Served(workload=CART), Served(workload=other), local="10.0.0.9:15008")
    assert refused(found) == (Cause.NOT_SERVED, 400)


# where the application really is


def test_an_exposed_port_is_dialled_where_it_is_and_judged_as_the_workloads() -> None:
    exposed = Served(workload=CART, dials={8080: sock("127.0.0.1:3000")})
    assert arrive(store(CART), "10.0.0.2:8080", exposed) == Deliver(
        upstream=sock("127.0.0.1:3000"), judged=sock("10.0.0.2:8080"), destination=CART, service=None
    )


def test_nothing_but_the_exposed_ports_can_be_reached() -> None:
    exposed = Served(workload=CART, dials={8080: sock("127.0.0.1:3000")})
    found = arrive(store(CART), "10.0.0.2:22", exposed)
    assert refused(found) == (Cause.NO_PORT, 503)
    assert isinstance(found, Refuse)
    assert "8080" in found.fix


# waypoints, before a workload or a service, by host name or address

WAYPOINT = workload("wp", "10.0.0.8", services={"wp": {15008: 15008}})
WAYPOINT_SERVICE = service("wp", "10.2.0.8", ports={15008: 15008})
BY_HOST = gateway(f"shop/{host('wp')}")
BY_ADDRESS = gateway("10.0.0.8")
OTHER_WAYPOINT = gateway("10.0.0.88")


@pytest.mark.parametrize("where", [BY_HOST, BY_ADDRESS])
@pytest.mark.parametrize("authority", ["10.0.0.2:8080", "10.2.0.1:80"])
def test_a_waypoint_takes_connects_for_what_it_stands_before(where: GatewayAddress, authority: str) -> None:
    mesh = store(replace(CART, waypoint=where), replace(SERVICE, waypoint=where), WAYPOINT, WAYPOINT_SERVICE)
    found = arrive(mesh, authority, Served(workload=WAYPOINT), local="10.0.0.8:15008")
    assert isinstance(found, Deliver)
    assert found.upstream == sock(f"10.0.0.8:{authority.rpartition(':')[2]}")


@pytest.mark.parametrize("authority", ["10.0.0.2:8080", "10.2.0.1:80", "10.99.0.1:80"])
def test_a_waypoint_takes_nothing_that_it_does_not_stand_before(authority: str) -> None:
    mesh = store(
        replace(CART, waypoint=OTHER_WAYPOINT), replace(SERVICE, waypoint=OTHER_WAYPOINT), WAYPOINT, WAYPOINT_SERVICE
    )
    found = arrive(mesh, authority, Served(workload=WAYPOINT), local="10.0.0.8:15008")
    assert refused(found) == (Cause.IP_MISMATCH, 400)


def test_a_weighted_waypoint_takes_connects_too() -> None:
    mesh = store(replace(SERVICE, weighted_waypoints=(WeightedWaypoint(destination=BY_HOST, weight=1),)), WAYPOINT)
    mesh = store(*mesh.services(), WAYPOINT, WAYPOINT_SERVICE)
    assert isinstance(arrive(mesh, "10.2.0.1:80", Served(workload=WAYPOINT), local="10.0.0.8:15008"), Deliver)
    assert isinstance(arrive(mesh, f"{host('cart')}:80", Served(workload=WAYPOINT), local="10.0.0.8:15008"), Deliver)


# application tunnels


@pytest.mark.parametrize(
    ("tunnel", "context", "upstream", "header"),
    [
        (PROXY, InboundContext(), "127.0.0.1:15088", "10.9.9.9:80"),
        (PROXY, InboundContext(localhost_tunnels=False), "10.0.0.2:15088", "10.9.9.9:80"),
        (ApplicationTunnel(port=15088), InboundContext(), "10.0.0.2:15088", None),
        (ApplicationTunnel(), InboundContext(), "10.0.0.2:80", None),
        (ApplicationTunnel(protocol=TunnelProtocol.PROXY), InboundContext(), "127.0.0.1:80", "10.9.9.9:80"),
    ],
)
def test_an_application_tunnel_takes_any_address_and_says_where_and_how(
    tunnel: ApplicationTunnel, context: InboundContext, upstream: str, header: str | None
) -> None:
    found = arrive(store(), "10.9.9.9:80", Served(workload=replace(CART, application_tunnel=tunnel)), context=context)
    assert isinstance(found, Deliver)
    assert str(found.upstream) == upstream
    assert found.proxy_header == (sock(header) if header else None)
    assert found.judged == sock(f"10.0.0.2:{upstream.rpartition(':')[2]}")


def test_an_application_tunnel_over_ipv6_is_dialled_on_its_loopback() -> None:
    six = replace(CART, addresses=(ip("fd00::2"),), application_tunnel=PROXY)
    found = arrive(store(), "[fd00::2]:80", Served(workload=six), local="[fd00::2]:15008")
    assert isinstance(found, Deliver)
    assert found.upstream == sock("[::1]:15088")


def test_a_name_is_told_to_the_application_as_an_address_of_the_service() -> None:
    own = replace(CART, application_tunnel=PROXY)
    found = arrive(store(own, SERVICE), f"{host('cart')}:80", Served(workload=own))
    assert isinstance(found, Deliver)
    assert found.proxy_header == sock("10.2.0.1:80")
    headless = store(own, replace(SERVICE, vips=()))
    assert refused(arrive(headless, f"{host('cart')}:80", Served(workload=own))) == (Cause.NO_ADDRESS, 503)


# names


@pytest.mark.parametrize(
    ("services", "ports", "expected"),
    [
        ({"cart": {80: 8080}}, {80: 9999}, 8080),  # the endpoint's own number
        ({"cart": {}}, {80: 9999}, 9999),
        ({"cart": {80: 8081}}, {80: 0}, 8081),
    ],
)
def test_a_service_name_leads_to_the_port_of_this_endpoint(
    services: dict[str, dict[int, int]], ports: dict[int, int], expected: int
) -> None:
    own = workload("cart", "10.0.0.2", services=services)
    made = replace(SERVICE, ports=ports)
    found = arrive(store(own, made), f"{host('cart')}:80", Served(workload=own))
    assert isinstance(found, Deliver)
    assert (found.upstream, found.service) == (sock(f"10.0.0.2:{expected}"), made)


def test_a_port_that_the_service_has_not_is_answered_503() -> None:
    found = arrive(store(CART, SERVICE), f"{host('cart')}:81")
    assert refused(found) == (Cause.NO_PORT, 503)
    assert isinstance(found, Refuse)
    assert found.what == f"requested service {host('cart')}:81 found, but cannot resolve port"


def test_an_unknown_name_is_answered_503() -> None:
    assert refused(arrive(store(CART), "nobody.example:80")) == (Cause.UNKNOWN_HOST, 503)


def test_a_service_that_the_workload_cannot_see_is_unknown() -> None:
    hidden = service("secret", namespace="web", visibility=Visibility.NAMESPACE)
    assert refused(arrive(store(CART, hidden), f"{host('secret', 'web')}:80")) == (Cause.UNKNOWN_HOST, 503)


def test_a_service_of_which_the_workload_is_no_endpoint_is_answered_400() -> None:
    found = arrive(store(CART, service("other", "10.2.0.9")), f"{host('other')}:80")
    assert refused(found) == (Cause.NOT_SERVED, 400)


def test_the_workloads_own_host_name_means_itself() -> None:
    own = replace(CART, hostname="Cart.Example")
    found = arrive(store(own), "cart.example:8080", Served(workload=own))
    assert isinstance(found, Deliver)
    assert found.upstream == sock("10.0.0.2:8080")


# labels


def test_the_service_of_a_connection_is_guessed_from_the_forwarded_host_and_the_port() -> None:
    own = workload("cart", "10.0.0.2", services={"cart": {80: 8080}, "admin": {81: 8080}, "gone": {80: 8080}})
    mesh = store(own, SERVICE, service("admin", ports={81: 8080}), service("foreign", ports={80: 8080}))
    assert (found := asked_service(mesh, own, 8080, None)) is not None
    assert found.name == "cart"
    assert (found := asked_service(mesh, own, 8080, host("ADMIN"))) is not None
    assert found.name == "admin"
    assert (found := asked_service(mesh, own, 8080, host("foreign"))) is not None
    assert found.name == "cart"  # a host that is not one of its services counts for nothing
    assert asked_service(mesh, own, 9999, None) is None
    delivered = arrive(
        mesh, "10.0.0.2:8080", Served(workload=own), context=InboundContext(forwarded_host=host("admin"))
    )
    assert isinstance(delivered, Deliver)
    assert delivered.service is not None
    assert delivered.service.name == "admin"
