"""Open connections are judged again, whatever goes wrong with one of them."""

from dataclasses import replace

import pytest

from hbone.addr import SocketAddress
from hbone.app.policies import PASSING_KEPT, NodePolicies
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Store, Update
from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.net import tasks as tasks_module
from hbone.net.clock import SystemClock
from hbone.net.tasks import Tasks
from hbone.policy.model import Scope, closed
from hbone.proxy.judge import Facts
from hbone.proxy.registry import Registry
from hbone.telemetry.views import ConnectionView
from tests.support.tcp import eventually

CALLER = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
CART = Workload(uid="cart", name="cart", namespace="shop", service_account="cart")


class Open:
    """A connection to shop/cart; `faults`: how often cutting it fails for a fault of ours."""

    def __init__(self, registry: Registry, faults: int = 0) -> None:
        self.facts: Facts | None = Facts(
            identity=None,
            source=SocketAddress.parse("127.0.0.9:1"),
            destination=SocketAddress.parse("127.0.0.1:80"),
            workload=CART,
        )
        self._registry = registry
        self._faults = faults
        registry.add(self)

    def cut(self, error: HboneError) -> None:
        if self._faults:
            self._faults -= 1
            raise RuntimeError("a bug")
        self._registry.remove(self)

    def view(self) -> ConnectionView:
        return ConnectionView(direction="inbound", source="a", destination="b")


async def test_a_fault_with_one_connection_does_not_keep_the_others_nor_it_from_being_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "FIRST_PAUSE_S", 0.01)
    store = Store()
    store.apply(Update(workloads=(CART,)), Source.XDS)
    policies, registry = NodePolicies(store, None, SystemClock()), Registry()
    for faults in (0, 2, 0):
        Open(registry, faults)
    async with Tasks("test") as tasks:
        policies.start(tasks, registry)
        policies.replace(Source.XDS, [closed("shop", "nobody", Scope.NAMESPACE, "a test")])
        await eventually(lambda: len(registry) == 0)
    assert caplog.text.count("a bug") >= 2


# --- the same facts again: connections of one tunnel to one target ---------------------------------------------------


def asked(workload: Workload = CART) -> tuple[NodePolicies, Facts, Store]:
    store = Store()
    store.apply(Update(workloads=(workload,)), Source.XDS)
    facts = Facts(
        identity=CALLER,
        source=SocketAddress.parse("127.0.0.9:1"),
        destination=SocketAddress.parse("127.0.0.1:80"),
        workload=workload,
    )
    return NodePolicies(store, None, SystemClock()), facts, store


def test_who_was_let_in_is_kept_out_once_a_policy_says_so() -> None:
    policies, facts, _ = asked()
    assert policies.authorize(facts) is None
    policies.replace(Source.XDS, [closed("shop", "nobody", Scope.NAMESPACE, "a test")])
    assert policies.authorize(facts) is not None
    assert policies.authorize(facts) is not None
    policies.replace(Source.XDS, [])
    assert policies.authorize(facts) is None


def test_who_was_let_in_is_kept_out_once_the_workload_comes_under_a_policy() -> None:
    policies, facts, store = asked()
    policies.replace(Source.XDS, [closed("shop", "nobody", Scope.WORKLOAD_SELECTOR, "a test")])
    assert policies.authorize(facts) is None
    store.apply(Update(workloads=(replace(CART, authorization_policies=("shop/nobody",)),)), Source.XDS)
    assert policies.authorize(facts) is not None


def test_policies_that_watch_count_each_connection() -> None:
    policies, facts, _ = asked()
    watching = replace(closed("shop", "nobody", Scope.NAMESPACE, "a test"), dry_run=True)
    policies.replace(Source.XDS, [watching])
    for _ in range(3):
        assert policies.authorize(facts) is None
    assert sum(count.would_deny for count in policies.engine.dry_run.values()) == 3


def test_what_is_kept_of_those_let_in_is_bounded() -> None:
    policies, facts, _ = asked()
    for port in range(1, PASSING_KEPT + 10):
        assert policies.authorize(replace(facts, source=SocketAddress(facts.source.ip, port))) is None
    assert policies.authorize(facts) is None
