"""When the last workload of an identity has left."""

from hypothesis import given
from hypothesis import strategies as st

from hbone.discovery.model import Workload
from hbone.discovery.population import Population
from hbone.discovery.store import Source, Store, Update
from tests.support.controlplane import spiffe


def workload(uid: str, account: str, node: str = "") -> Workload:
    return Workload(uid=uid, name=uid, namespace="shop", service_account=account, node=node)


def test_an_identity_has_left_with_its_last_workload_and_not_before() -> None:
    store = Store()
    store.apply(Update(workloads=(workload("a", "cart"), workload("b", "cart"))), Source.XDS)
    population = Population(store.workloads())
    assert population.left(store.apply(Update(removed=("a",)), Source.XDS)) == frozenset()
    assert population.left(store.apply(Update(removed=("b",)), Source.XDS)) == {spiffe("shop", "cart")}
    assert len(population) == 0


def test_a_workload_of_another_account_now_leaves_its_former_identity() -> None:
    store = Store()
    population = Population()
    assert population.left(store.apply(Update(workloads=(workload("a", "cart"),)), Source.XDS)) == frozenset()
    changed = store.apply(Update(workloads=(workload("a", "web"),)), Source.XDS)
    assert population.left(changed) == {spiffe("shop", "cart")}


def test_on_a_node_with_a_name_a_workload_that_moves_to_another_node_has_left() -> None:
    store = Store()
    population = Population(node="n1")
    population.left(
        store.apply(Update(workloads=(workload("a", "cart", "n1"), workload("b", "job", "n2"))), Source.XDS)
    )
    assert len(population) == 1
    moved = store.apply(Update(workloads=(workload("a", "cart", "n2"),)), Source.XDS)
    assert population.left(moved) == {spiffe("shop", "cart")}


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["cart", "web"])), max_size=3)))
def test_it_knows_exactly_the_identities_of_the_store(steps: list[list[tuple[str, str]]]) -> None:
    store = Store()
    population = Population()
    for step in steps:
        before = {one.identity for one in store.workloads()}
        wanted = {uid: workload(uid, account) for uid, account in step}
        gone = tuple(one.uid for one in store.workloads() if one.uid not in wanted)
        left = population.left(store.apply(Update(workloads=tuple(wanted.values()), removed=gone), Source.XDS))
        after = {one.identity for one in store.workloads()}
        assert left == before - after
        assert len(population) == len(after)
