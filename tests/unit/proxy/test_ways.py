"""What connections of one way share, and what they never do."""

from dataclasses import replace

from hbone.addr import SocketAddress, parse_ip
from hbone.discovery.inbound import InboundContext, Served
from hbone.discovery.model import Workload
from hbone.discovery.outcomes import Refuse, ThroughTunnel
from hbone.discovery.plan import plan_outbound
from hbone.discovery.request import OutboundContext, Unknown
from hbone.discovery.select import Selector
from hbone.discovery.store import Store, Update
from hbone.net.clock import system_rng
from hbone.proxy.deliveries import PLANS_KEPT, Deliveries, Delivery
from hbone.proxy.local import DedicatedWorkload, Exposed
from hbone.proxy.outcome import party_of
from hbone.proxy.ways import WAYS_KEPT, Ways
from tests.unit.discovery.builders import service, workload

WEB, JOB, CART = workload("web", "10.0.0.1"), workload("job", "10.0.0.2"), workload("cart", "10.0.0.9")
TARGET = SocketAddress.parse("10.0.0.9:80")
IP, OTHER_IP = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")


def mesh(*workloads: Workload) -> Store:
    store = Store()
    store.apply(Update(workloads=workloads))
    return store


def tunnel_plan(store: Store, source: Workload = WEB) -> ThroughTunnel:
    plan = plan_outbound(store, source, SocketAddress(TARGET.ip, TARGET.port), Selector(system_rng()))
    assert isinstance(plan, ThroughTunnel)
    return plan


def test_the_next_connection_of_a_way_finds_what_the_first_made() -> None:
    store, ways = mesh(WEB, JOB, CART), Ways()
    assert ways.of(tunnel_plan(store), WEB, IP) is ways.of(tunnel_plan(store), WEB, IP)


def test_no_way_is_shared_by_two_workloads_or_two_addresses() -> None:
    store, ways = mesh(WEB, JOB, CART), Ways()
    plan = tunnel_plan(store)
    keys = {ways.of(plan, source, ip).key for source in (WEB, JOB) for ip in (IP, OTHER_IP)}
    assert {(key.source, key.source_ip) for key in keys} == {
        (source.identity, ip) for source in (WEB, JOB) for ip in (IP, OTHER_IP)
    }


def test_a_workload_that_changed_is_reached_by_another_way() -> None:
    store, ways = mesh(WEB, CART), Ways()
    before = ways.of(tunnel_plan(store), WEB, IP)
    store.apply(Update(workloads=(replace(CART, service_account="other", hbone_port=15018),)))
    after = ways.of(tunnel_plan(store), WEB, IP)
    assert before.key.expected != after.key.expected
    assert (before.key.peer.port, after.key.peer.port) == (15008, 15018)


def test_ways_are_forgotten_before_they_are_too_many() -> None:
    store, ways = mesh(WEB, CART), Ways()
    plan = tunnel_plan(store)
    first = ways.of(plan, WEB, IP)
    for number in range(WAYS_KEPT):
        ways.of(plan, WEB, parse_ip(f"10.1.{number >> 8}.{number & 255}"))
    assert ways.of(plan, WEB, IP) is not first


def test_a_settled_way_needs_no_plan_until_the_mesh_changes() -> None:
    store, ways, context = mesh(WEB, CART), Ways(), OutboundContext()
    target = str(TARGET)
    assert ways.settled(store.version, WEB, context, target) is None
    way = ways.of(tunnel_plan(store), WEB, IP)
    ways.settle(store.version, WEB, context, target, way)
    assert ways.settled(store.version, WEB, context, target) is way
    assert ways.settled(store.version, JOB, context, target) is None
    assert ways.settled(store.version, WEB, OutboundContext(unknown=Unknown.REFUSE), target) is None
    assert ways.settled(store.version, WEB, context, "10.0.0.9:81") is None
    store.apply(Update(workloads=(replace(CART, hbone_port=15018),)))
    assert ways.settled(store.version, WEB, context, target) is None
    ways.settle(store.version, WEB, context, target, ways.of(tunnel_plan(store), WEB, IP))
    settled = ways.settled(store.version, WEB, context, target)
    assert settled is not None
    assert settled.key.peer.port == 15018


def test_a_way_to_one_of_several_endpoints_is_chosen_each_time() -> None:
    store, ways, context = mesh(WEB, CART), Ways(), OutboundContext()
    plan = replace(tunnel_plan(store), service=service("cart", "10.1.0.1"))
    ways.settle(store.version, WEB, context, "10.1.0.1:80", ways.of(plan, WEB, IP))
    assert ways.settled(store.version, WEB, context, "10.1.0.1:80") is None


def test_settled_ways_are_forgotten_before_they_are_too_many() -> None:
    store, ways, context = mesh(WEB, CART), Ways(), OutboundContext()
    way = ways.of(tunnel_plan(store), WEB, IP)
    for port in range(WAYS_KEPT + 1):
        ways.settle(store.version, WEB, context, str(port), way)
    assert ways.settled(store.version, WEB, context, "0") is None
    assert ways.settled(store.version, WEB, context, str(WAYS_KEPT)) is way


def deliveries(store: Store) -> Deliveries:
    local = DedicatedWorkload(store, CART, "cart", Exposed())
    peer, here = SocketAddress(IP, 40_000), SocketAddress(CART.addresses[0], 15008)
    return Deliveries(local, peer, here, Served(workload=CART), WEB.identity)


def test_a_target_is_planned_once_while_the_mesh_stays() -> None:
    store, context = mesh(WEB, CART), InboundContext()
    kept = deliveries(store)
    assert kept.source() == party_of(store.workload(WEB.uid), WEB.identity)
    first = kept.plan(TARGET, None, context)
    assert isinstance(first, Delivery)
    assert (first.deliver.destination, first.authority) == (CART, str(TARGET))
    assert (first.facts.identity, first.facts.source) == (WEB.identity, SocketAddress(IP, 40_000))
    assert kept.plan(SocketAddress.parse(str(TARGET)), None, context) is first
    store.apply(Update(removed=(WEB.uid,)))
    assert kept.source() == party_of(None, WEB.identity)
    assert kept.plan(TARGET, None, context) is not first


def test_a_refusal_is_not_kept_and_neither_are_more_targets_than_a_few() -> None:
    kept, context = deliveries(mesh(WEB, CART)), InboundContext()
    assert isinstance(kept.plan(SocketAddress.parse("10.0.0.1:80"), None, context), Refuse)
    first = kept.plan(TARGET, None, context)
    for port in range(PLANS_KEPT):
        kept.plan(SocketAddress(TARGET.ip, 1000 + port), None, context)
    assert kept.plan(TARGET, None, context) is not first


def test_the_service_that_was_named_makes_another_plan() -> None:
    kept, context = deliveries(mesh(WEB, CART)), InboundContext()
    assert kept.plan(TARGET, "cart.shop", context) is not kept.plan(TARGET, None, context)
