"""Weighted waypoints."""

from collections import Counter
from random import Random

import pytest

from hbone.discovery.model import WeightedWaypoint
from hbone.discovery.plan import OutboundContext, ThroughTunnel, ThroughWaypoint
from hbone.discovery.select import Selector
from hbone.discovery.waypoint import waypoint_of
from tests.unit.discovery.builders import gateway, ip, plan, service, store, workload

CART = workload("cart", "10.0.0.2", services={"cart": {80: 8080}})


def weighted(*weights: int) -> tuple[WeightedWaypoint, ...]:
    return tuple(
        WeightedWaypoint(destination=gateway(f"10.0.1.{number}"), weight=weight)
        for number, weight in enumerate(weights)
    )


def test_weighted_waypoints_are_taken_in_proportion() -> None:
    made = service("cart", "10.2.0.1", weighted_waypoints=weighted(1, 3, 0))
    mesh = store(CART, made, *[workload(f"wp{n}", f"10.0.1.{n}") for n in range(3)])
    selector = Selector(Random(1))
    found = [plan(mesh, "10.2.0.1:80", selector=selector) for _ in range(800)]
    counts = Counter(p.waypoint.name for p in found if isinstance(p, ThroughWaypoint))
    assert set(counts) == {"wp0", "wp1"}
    assert 0.18 < counts["wp0"] / 800 < 0.32


@pytest.mark.parametrize("weights", [(), (0, 0)])
def test_without_any_weight_the_plain_waypoint_is_taken(weights: tuple[int, ...]) -> None:
    made = service("cart", "10.2.0.1", weighted_waypoints=weighted(*weights), waypoint=gateway("10.0.1.9"))
    assert waypoint_of(made, Selector(Random(1))) == gateway("10.0.1.9")


def test_without_any_weight_and_without_a_plain_waypoint_there_is_none() -> None:
    made = service("cart", "10.2.0.1", weighted_waypoints=weighted(0))
    assert isinstance(plan(store(CART, made), "10.2.0.1:80"), ThroughTunnel)


def test_an_instance_of_a_weighted_waypoint_goes_straight_to_the_endpoints() -> None:
    made = service("cart", "10.2.0.1", weighted_waypoints=weighted(1, 1))
    instance = workload("wp1", "10.0.1.1")
    context = OutboundContext(downstream=ip("10.0.1.1"))
    assert isinstance(plan(store(CART, made, instance), "10.2.0.1:80", source=instance, context=context), ThroughTunnel)
