"""Endpoint selection: who is a candidate, how close, whose turn."""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from hbone.discovery.model import (
    ApplicationTunnel,
    Endpoint,
    Health,
    HealthPolicy,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    Locality,
    PortMap,
    Scope,
    Workload,
)
from hbone.discovery.select import (
    Candidate,
    Purpose,
    RoundRobin,
    Selector,
    Wanted,
    address_of,
    candidates,
    matching_scopes,
    rank,
    target_port,
)
from hbone.discovery.store import Update
from tests.unit.discovery.builders import CLIENT, gateway, ip, service, store, workload

CART = service("cart")
PREFERENCES = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
HOME = replace(CLIENT, network="n1", node="a", cluster_id="c1", locality=Locality(region="r", zone="z", subzone="s"))


def far(network: str = "n1", region: str = "r", zone: str = "z", **fields: Any) -> Workload:
    return workload("cart", "10.0.0.2", network=network, locality=Locality(region=region, zone=zone), **fields)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (far(), 5),
        (far(zone="x"), 4),
        (far(region="x"), 3),
        (far(region="x", zone="z"), 3),  # a match after a mismatch does not count
        (far(network="n2"), 2),
        (far(network="n2", zone="x"), 1),
        (far(network="n2", region="x"), 0),
    ],
)
def test_any_endpoint_on_the_same_network_outranks_every_other(endpoint: Workload, expected: int) -> None:
    assert rank(HOME, endpoint, PREFERENCES) == expected


@pytest.mark.parametrize(
    ("preferences", "endpoint", "expected"),
    [
        ((), far(), 0),
        ((Scope.REGION, Scope.ZONE), far(), 2),
        ((Scope.REGION, Scope.ZONE), far(region="x"), 0),
        ((Scope.REGION, Scope.NETWORK), far(network="n2"), 1),  # only a leading NETWORK is passed over
        ((Scope.NODE, Scope.CLUSTER), far(node="a", cluster_id="c1"), 2),
        ((Scope.NODE, Scope.CLUSTER), far(node="b", cluster_id="c1"), 0),
        ((Scope.SUBZONE,), far(), 0),
        ((Scope.SUBZONE,), replace(far(), locality=HOME.locality), 1),
    ],
)
def test_scopes_are_compared_in_order_up_to_the_first_difference(
    preferences: tuple[Scope, ...], endpoint: Workload, expected: int
) -> None:
    assert matching_scopes(HOME, endpoint, preferences) == expected


def test_empty_localities_are_equal() -> None:
    assert matching_scopes(CLIENT, workload("x"), (Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.NODE)) == 4


def names(found: tuple[Candidate, ...]) -> list[str]:
    return [candidate.workload.name for candidate in found]


def offered(*workloads: Workload, ports: PortMap | None = None) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(w, ports if ports is not None else {80: 8080}) for w in workloads)


def test_failover_keeps_the_closest_endpoints_and_strict_only_those_that_match_wholly() -> None:
    near, other_zone = far(), replace(far(zone="x"), name="zone", uid="zone")
    remote = replace(far(network="n2", network_gateway=gateway("10.9.0.1")), name="remote", uid="remote")
    both = offered(near, replace(near, name="near2", uid="near2"), other_zone, remote)
    balanced = {
        mode: Wanted(replace(CART, load_balancing=LoadBalancing(mode=mode, routing_preferences=PREFERENCES)), 80)
        for mode in LoadBalancerMode
    }
    assert names(candidates(both, HOME, balanced[LoadBalancerMode.STANDARD])) == ["cart", "near2", "zone", "remote"]
    assert names(candidates(both, HOME, balanced[LoadBalancerMode.FAILOVER])) == ["cart", "near2"]
    assert names(candidates(both[2:], HOME, balanced[LoadBalancerMode.FAILOVER])) == ["zone"]
    assert names(candidates(both[3:], HOME, balanced[LoadBalancerMode.FAILOVER])) == ["remote"]
    assert names(candidates(both, HOME, balanced[LoadBalancerMode.STRICT])) == ["cart", "near2"]
    assert names(candidates(both[2:], HOME, balanced[LoadBalancerMode.STRICT])) == []


@pytest.mark.parametrize(
    ("endpoint", "taken"),
    [
        (workload("a", "10.0.0.2"), True),
        (workload("a"), False),  # nowhere to go
        (workload("a", hostname="a.example"), True),
        (workload("a", "10.0.0.2", health=Health.UNHEALTHY), False),
        (workload("a", "10.0.0.2", capacity=0), False),
        (workload("a", network="n2", network_gateway=gateway("10.9.0.1")), True),
        (workload("a", network="n2"), False),
        (workload("a", network_gateway=gateway("10.9.0.1")), False),  # a gateway of its own network is none
    ],
)
def test_endpoints_have_to_be_healthy_and_reachable(endpoint: Workload, taken: bool) -> None:
    assert bool(candidates(offered(endpoint), CLIENT, Wanted(CART, 80))) is taken


def test_a_service_may_allow_unhealthy_endpoints() -> None:
    sick = workload("a", "10.0.0.2", health=Health.UNHEALTHY)
    lenient = replace(CART, load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
    assert names(candidates(offered(sick), CLIENT, Wanted(lenient, 80))) == ["a"]


def test_an_endpoint_without_an_address_of_the_services_family_is_left_out() -> None:
    both = offered(workload("four", "10.0.0.2"), workload("six", "fd00::2"))
    assert names(candidates(both, CLIENT, Wanted(replace(CART, ip_families=IpFamilies.IPV6), 80))) == ["six"]


TUNNELLED = workload("t", "10.0.0.2", application_tunnel=ApplicationTunnel(port=15088))
UNTUNED = workload("t", "10.0.0.2", application_tunnel=ApplicationTunnel())


@pytest.mark.parametrize(
    ("endpoint", "own", "declared", "purpose", "expected"),
    [
        (workload("a"), {80: 8080}, {80: 9090}, Purpose.TRAFFIC, 8080),  # the endpoint's own number first
        (workload("a"), {}, {80: 9090}, Purpose.TRAFFIC, 9090),
        (workload("a"), {80: 8080}, {80: 0}, Purpose.TRAFFIC, 8080),
        (workload("a"), {}, {80: 0}, Purpose.TRAFFIC, None),  # a named port that it does not have
        (workload("a"), {80: 8080}, {}, Purpose.TRAFFIC, None),  # not a port of the service
        (TUNNELLED, {}, {}, Purpose.TRAFFIC, None),
        (TUNNELLED, {}, {}, Purpose.WAYPOINT, 80),
        (UNTUNED, {}, {}, Purpose.WAYPOINT, None),
        (workload("a"), {80: 8080}, {}, Purpose.WAYPOINT, None),
        (workload("a"), {}, {80: 8080}, Purpose.WAYPOINT, 8080),
    ],
)
def test_a_service_port_leads_to_the_endpoints_port(
    endpoint: Workload, own: PortMap, declared: PortMap, purpose: Purpose, expected: int | None
) -> None:
    assert target_port(Endpoint(endpoint, own), Wanted(replace(CART, ports=declared), 80, purpose)) == expected


# turns


def made(*capacities: int) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(workload(chr(97 + n), "10.0.0.2", uid=chr(97 + n), capacity=capacity), 8080)
        for n, capacity in enumerate(capacities)
    )


def turns(robin: RoundRobin, count: int, tried: tuple[str, ...] = ()) -> str:
    return "".join(c.workload.name if (c := robin.next(tried)) else "-" for _ in range(count))


@pytest.mark.parametrize(
    ("capacities", "start", "expected"),
    [
        ((1, 1, 1), 0.0, "abcabc"),
        ((1, 1, 1), 0.5, "bcabca"),
        ((5, 1, 1), 0.0, "aabacaa"),
        ((3, 3, 3), 0.99, "cabcab"),
        ((), 0.9, "--"),
        ((2,), 0.9, "aaa"),
        ((5, 1, 1), 0.7, "bacaaaab"),
    ],
)
def test_turns_go_round_evenly_in_proportion_to_capacity(
    capacities: tuple[int, ...], start: float, expected: str
) -> None:
    assert turns(RoundRobin(made(*capacities), start), len(expected)) == expected


@pytest.mark.parametrize("capacities", [(1, 1, 1), (5, 1, 1)])
def test_what_was_tried_is_left_out_until_nothing_is_left(capacities: tuple[int, ...]) -> None:
    robin = RoundRobin(made(*capacities))
    assert set(turns(robin, 6, ("a",))) == {"b", "c"}
    assert turns(robin, 2, ("a", "b", "c")) == "--"


def test_a_changed_set_of_endpoints_goes_on_where_the_old_one_was() -> None:
    a, b, c, d = made(1, 1, 1, 1)
    robin = RoundRobin((a, b, c))
    turns(robin, 2)
    assert turns(robin.successor((a, b, c, d)), 3) == "cda"
    assert turns(robin.successor((a, b, d)), 3) == "dab"  # c is gone, the next one is next
    assert turns(robin.successor(()), 1) == "-"


def test_unequal_endpoints_that_are_owed_turns_still_get_them_after_a_change() -> None:
    a, b, c = made(3, 1, 1)
    robin = RoundRobin((a, b, c))
    assert turns(robin, 2) == "ab"
    assert turns(robin.successor((a, b)), 5) == "aaaab"  # b had its turn already
    assert 29 <= turns(robin.successor((a, b)), 40).count("a") <= 31
    assert set(turns(robin.successor(made(1, 1)), 2)) == {"a", "b"}


def test_connections_go_round_over_the_healthy_endpoints_of_a_service() -> None:
    members = [workload(n, f"10.0.0.{i}", services={"cart": {80: 8080}}) for i, n in enumerate("abc", start=2)]
    mesh = store(CART, *members, replace(members[0], uid="sick", name="sick", health=Health.UNHEALTHY))
    selector = Selector()
    picks = [c.workload.name if (c := selector.choose(mesh, CLIENT, Wanted(CART, 80))) else "" for _ in range(7)]
    assert picks == ["a", "b", "c", "a", "b", "c", "a"]
    mesh.apply(Update(removed=(members[1].uid,)))
    picks = [c.workload.name if (c := selector.choose(mesh, CLIENT, Wanted(CART, 80))) else "" for _ in range(3)]
    assert picks == ["c", "a", "c"]


def test_two_services_and_two_ports_have_turns_of_their_own() -> None:
    other = service("other", ports={80: 1, 81: 2})
    members = [
        workload(n, f"10.0.0.{i}", services={"cart": {80: 8080}, "other": {80: 1, 81: 2}})
        for i, n in enumerate("ab", start=2)
    ]
    mesh, selector = store(CART, other, *members), Selector()
    wanted = [Wanted(CART, 80), Wanted(other, 80), Wanted(other, 81)]
    assert [(c.workload.name, c.port) for w in wanted if (c := selector.choose(mesh, CLIENT, w))] == [
        ("a", 8080),
        ("a", 1),
        ("a", 2),
    ]


def test_sources_in_different_places_see_different_endpoints() -> None:
    balancing = LoadBalancing(mode=LoadBalancerMode.FAILOVER, routing_preferences=(Scope.REGION,))
    ranked = replace(CART, load_balancing=balancing)
    members = [
        workload(r, f"10.0.0.{i}", services={"cart": {80: 80}}, locality=Locality(region=r))
        for i, r in enumerate("xy", start=2)
    ]
    mesh, selector = store(ranked, *members), Selector()
    for region in ("x", "y", "x"):
        chosen = selector.choose(mesh, replace(CLIENT, locality=Locality(region=region)), Wanted(ranked, 80))
        assert chosen is not None
        assert chosen.workload.name == region


def test_a_named_endpoint_is_found_without_taking_a_turn() -> None:
    mesh = store(CART, *[workload(n, f"10.0.0.{i}", uid=n, services={"cart": {80: 80}}) for i, n in enumerate("ab", 2)])
    selector, wanted = Selector(), Wanted(CART, 80)
    assert (found := selector.find(mesh, CLIENT, wanted, "b")) is not None
    assert found.workload.name == "b"
    assert (first := selector.choose(mesh, CLIENT, wanted)) is not None
    assert first.workload.name == "a"
    assert selector.find(mesh, CLIENT, wanted, "zzz") is None
    assert selector.find(mesh, CLIENT, Wanted(service("none"), 80), "b") is None


def test_selectors_with_chance_start_at_different_endpoints() -> None:
    members = [workload(f"w{n}", f"10.0.1.{n}", services={"cart": {80: 80}}) for n in range(20)]
    mesh = store(CART, *members)
    firsts = {c.workload.name for n in range(50) if (c := Selector(Random(n)).choose(mesh, CLIENT, Wanted(CART, 80)))}
    assert len(firsts) > 5


def test_the_turns_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbone.discovery.select.TURNS_KEPT", 3)
    mesh, selector = store(CART, workload("a", "10.0.0.2", services={"cart": {}})), Selector()
    for port in range(1, 20):
        selector.choose(mesh, CLIENT, Wanted(CART, port))
    assert len(selector._turns) == 3  # pyright: ignore[reportPrivateUsage] - a bound cannot be seen from outside


@pytest.mark.parametrize(
    ("weights", "expected"), [((), {None}), ((0, 0), {None}), ((0, 1), {1}), ((1, 3), {0, 1}), ((5,), {0})]
)
def test_sampling_takes_only_what_has_weight(weights: tuple[int, ...], expected: set[int | None]) -> None:
    selector = Selector(Random(1))
    assert {selector.sample(weights) for _ in range(200)} == expected


def test_rounding_never_takes_what_has_no_weight() -> None:
    class Highest(Random):
        def random(self) -> float:
            return 1.0

    assert Selector(Highest()).sample((1, 2, 0)) == 1


def test_sampling_is_in_proportion() -> None:
    selector = Selector(Random(1))
    counts = Counter(selector.sample((1, 3)) for _ in range(4000))
    assert 0.2 < counts[0] / 4000 < 0.3


# addresses


@pytest.mark.parametrize(
    ("addresses", "families", "dialled", "expected"),
    [
        (("10.0.0.2", "fd00::2"), IpFamilies.DUAL, "fd00::2", "fd00::2"),
        (("10.0.0.2", "fd00::2"), IpFamilies.IPV4, "fd00::2", "fd00::2"),  # the dialled one is its own
        (("10.0.0.2", "fd00::2"), IpFamilies.DUAL, "fd00::99", "fd00::2"),
        (("10.0.0.2", "fd00::2"), IpFamilies.DUAL, "10.9.9.9", "10.0.0.2"),
        (("10.0.0.2", "fd00::2"), IpFamilies.IPV4, "fd00::99", "10.0.0.2"),
        (("10.0.0.2", "fd00::2"), IpFamilies.IPV6, "10.9.9.9", "fd00::2"),
        (("10.0.0.2", "fd00::2"), IpFamilies.AUTOMATIC, None, "10.0.0.2"),
        (("fd00::2",), IpFamilies.DUAL, "10.9.9.9", "fd00::2"),
        (("fd00::2",), IpFamilies.IPV4, "10.9.9.9", None),
        ((), IpFamilies.DUAL, "10.9.9.9", None),
    ],
)
def test_the_address_to_dial_depends_on_the_dialled_one_and_the_services_families(
    addresses: tuple[str, ...], families: IpFamilies, dialled: str | None, expected: str | None
) -> None:
    found = address_of(workload("a", *addresses), ip(dialled) if dialled else None, replace(CART, ip_families=families))
    assert found == (ip(expected) if expected else None)
