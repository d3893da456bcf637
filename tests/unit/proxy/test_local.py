"""Whose connections and tunnels are whose, on dedicated and shared nodes."""

from dataclasses import replace

from hbone.addr import SocketAddress, parse_ip
from hbone.discovery.model import Workload
from hbone.discovery.store import Store, Update
from hbone.identity.spiffe import DomainNames, TrustDomain
from hbone.proxy.local import DedicatedWorkload, Exposed, SharedWorkloads
from tests.unit.discovery.builders import workload

LOCAL = SocketAddress.parse("10.0.0.1:15008")
DIALS = Exposed(dials={"shop/cart": {80: SocketAddress.parse("127.0.0.1:3000")}})


def store_of(*workloads: Workload) -> Store:
    store = Store()
    store.apply(Update(workloads=workloads))
    return store


def test_a_dedicated_node_serves_its_one_workload_whatever_the_address() -> None:
    own = workload("cart", "10.0.0.1")
    local = DedicatedWorkload(store_of(own, workload("web", "10.0.0.2")), own, "cart", DIALS)
    for address in ("10.0.0.1:15008", "10.0.0.2:15008", "127.0.0.1:1"):
        served = local.served_at(SocketAddress.parse(address))
        assert served is not None
        assert served.workload == own
        assert served.dials == DIALS.dials["shop/cart"]
    assert local.outbound_source(parse_ip("192.0.2.9")) == own


def test_a_dedicated_node_has_a_stand_in_until_the_mesh_knows_its_workload() -> None:
    store = Store()
    stand_in = workload("cart", uid="stand-in")
    local = DedicatedWorkload(store, stand_in, None, Exposed())
    assert local.outbound_source(parse_ip("10.0.0.1")) == stand_in
    real = workload("cart", "10.0.0.1")
    store.apply(Update(workloads=(real,)))
    assert local.outbound_source(parse_ip("10.0.0.1")) == real
    store.apply(Update(removed=(real.uid,)))
    assert local.outbound_source(parse_ip("10.0.0.1")) == stand_in


def test_a_dedicated_node_never_takes_a_namesake_of_another_account_for_its_own() -> None:
    own = workload("cart", "10.0.0.1")
    namesake = replace(own, uid="other", service_account="thief")
    local = DedicatedWorkload(store_of(namesake), own, "cart", Exposed())
    assert local.outbound_source(parse_ip("10.0.0.1")) == own


def test_a_shared_node_goes_by_address() -> None:
    cart, web = workload("cart", "10.0.0.1"), workload("web", "10.0.0.2")
    local = SharedWorkloads(store_of(cart, web), "", "", DIALS)
    served = local.served_at(LOCAL)
    assert served is not None
    assert served.workload == cart
    assert local.outbound_source(parse_ip("10.0.0.2")) == web
    assert local.outbound_source(parse_ip("10.0.0.3")) is None
    assert local.served_at(SocketAddress.parse("10.0.0.3:15008")) is None


def test_a_shared_node_never_speaks_for_workloads_of_other_nodes() -> None:
    here = workload("cart", "10.0.0.1", node="n1")
    there = workload("web", "10.0.0.2", node="n2")
    anywhere = workload("vm", "10.0.0.3")
    local = SharedWorkloads(store_of(here, there, anywhere), "", "n1", Exposed())
    assert local.outbound_source(parse_ip("10.0.0.1")) == here
    assert local.outbound_source(parse_ip("10.0.0.2")) is None
    assert local.outbound_source(parse_ip("10.0.0.3")) == anywhere
    assert local.source_at(parse_ip("10.0.0.2")) == there, "for the log, anybody is known"


def test_a_change_of_the_mesh_is_seen_at_once() -> None:
    store = store_of(workload("cart", "10.0.0.1"))
    local = SharedWorkloads(store, "", "", Exposed())
    assert local.outbound_source(parse_ip("10.0.0.2")) is None
    web = workload("web", "10.0.0.2")
    store.apply(Update(workloads=(web,)))
    assert local.outbound_source(parse_ip("10.0.0.2")) == web


def test_a_dedicated_node_knows_its_workload_under_every_name_of_its_mesh() -> None:
    own = replace(workload("cart", uid="stand-in"), trust_domain="old.test")
    renamed = replace(workload("cart", "10.0.0.1"), trust_domain="new.test")
    foreign = replace(workload("cart", "10.0.0.2", uid="a"), trust_domain="x.test")
    names = DomainNames(TrustDomain("old.test"), frozenset({TrustDomain("new.test")}))
    local = DedicatedWorkload(store_of(foreign, renamed), own, None, Exposed(), lambda: names)
    assert local.outbound_source(parse_ip("10.0.0.9")) == renamed
    alone = DedicatedWorkload(store_of(foreign, renamed), own, None, Exposed())
    assert alone.outbound_source(parse_ip("10.0.0.9")) == own
