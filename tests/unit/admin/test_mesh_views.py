"""Workloads and services as they are shown."""

from hbone.addr import Prefix, parse_ip
from hbone.admin.mesh_views import nowhere, service_view, service_views, workload_view, workload_views
from hbone.discovery.model import (
    Endpoint,
    GatewayAddress,
    Health,
    Locality,
    NetworkAddress,
    NetworkPrefix,
    Service,
    WeightedWaypoint,
    Workload,
)
from tests.unit.admin.sample import store

WAYPOINT = GatewayAddress(destination=NetworkAddress("", parse_ip("10.9.9.9")))


def test_a_workload_shows_all_that_is_known_of_it() -> None:
    workload = Workload(
        uid="u",
        name="cart-0",
        namespace="shop",
        service_account="cart",
        addresses=(parse_ip("10.0.0.1"), parse_ip("fd00::1")),
        network="n1",
        node="node-a",
        cluster_id="c1",
        locality=Locality(region="eu", zone="a"),
        waypoint=WAYPOINT,
        health=Health.UNHEALTHY,
        services={"shop/cart.shop": {80: 8080}},
    )
    view = workload_view(workload, served_here=True)
    assert view.addresses == ("10.0.0.1", "fd00::1")
    assert (view.network, view.node, view.cluster, view.locality) == ("n1", "node-a", "c1", "eu/a")
    assert (view.waypoint, view.health, view.served_here) == ("/10.9.9.9:15008", "Unhealthy", True)
    assert view.services == ("shop/cart.shop",)


def test_a_workload_without_addresses_shows_the_name_that_is_resolved() -> None:
    named = Workload(uid="u", name="db", namespace="shop", hostname="db.example")
    assert workload_view(named, served_here=False).addresses == ("db.example",)
    bare = Workload(uid="u", name="db", namespace="shop")
    assert workload_view(bare, served_here=False).addresses == ()


def test_a_service_shows_ranges_and_all_its_waypoints() -> None:
    other = GatewayAddress(destination=NetworkAddress("n1", parse_ip("10.8.8.8")), port=15018)
    service = Service(
        name="cart",
        namespace="shop",
        hostname="cart.shop",
        vips=(NetworkAddress("", parse_ip("10.1.0.1")),),
        cidr_vips=(NetworkPrefix("n1", Prefix.parse("10.2.0.0/16")),),
        ports={80: 8080, 81: 0},
        waypoint=WAYPOINT,
        weighted_waypoints=(WeightedWaypoint(destination=other, weight=1),),
    )
    view = service_view(service, ())
    assert (view.vips, view.ports) == (("/10.1.0.1", "n1/10.2.0.0/16"), ("80:8080", "81:0"))
    assert view.waypoint == "/10.9.9.9:15008, n1/10.8.8.8:15018"


def test_an_endpoint_without_an_address_shows_its_host_name_or_nothing() -> None:
    service = Service(name="db", namespace="shop", hostname="db.shop")
    named = Workload(uid="a", name="a", namespace="shop", hostname="db.example")
    bare = Workload(uid="b", name="b", namespace="shop")
    view = service_view(service, (Endpoint(named, {80: 1}), Endpoint(bare, {})))
    assert [endpoint.address for endpoint in view.endpoints] == ["db.example", None]
    assert view.waypoint is None


def test_a_control_plane_serves_no_workload() -> None:
    assert [view.served_here for view in workload_views(store(), nowhere)] == [False, False]


def test_a_store_that_changes_while_it_is_shown_does_no_harm() -> None:
    from hbone.discovery.store import Update

    mesh = store()
    workloads, services = workload_views(mesh, nowhere), service_views(mesh)
    first = next(workloads)
    mesh.apply(Update(removed=("c1//Pod/web/web-0", "shop/cart.shop")))
    assert [first.name, *(view.name for view in workloads)] == ["cart-0", "web-0"]
    assert list(service_views(mesh)) == []
    assert list(services) == []
