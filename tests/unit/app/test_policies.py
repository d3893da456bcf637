"""Open connections are judged again, whatever goes wrong with one of them."""

import pytest

from hbone.addr import SocketAddress
from hbone.app.policies import NodePolicies
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Store, Update
from hbone.errors import HboneError
from hbone.net import tasks as tasks_module
from hbone.net.clock import SystemClock
from hbone.net.tasks import Tasks
from hbone.policy.model import Scope, closed
from hbone.proxy.judge import Facts
from hbone.proxy.registry import Registry
from hbone.telemetry.views import ConnectionView
from tests.support.tcp import eventually

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
