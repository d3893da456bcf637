"""The connections that are open."""

from hbone.errors import ConnectionCut, HboneError
from hbone.proxy.judge import Facts
from hbone.proxy.registry import Registry
from hbone.telemetry.views import ConnectionView


class Open:
    facts: Facts | None = None

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.errors: list[HboneError] = []
        registry.add(self)

    def cut(self, error: HboneError) -> None:
        self.errors.append(error)
        self.registry.remove(self)

    def view(self) -> ConnectionView:
        return ConnectionView(direction="inbound", source="a", destination="b")


def test_cutting_all_tells_each_one_why_and_how_many_there_were() -> None:
    registry = Registry()
    connections = [Open(registry) for _ in range(3)]
    assert len(registry.views()) == 3
    error = ConnectionCut("drained")
    assert registry.cut_all(error) == 3
    assert all(one.errors == [error] for one in connections)
    assert registry.cut_all(error) == 0


def test_a_full_registry_says_so_with_the_setting_to_raise() -> None:
    registry = Registry(2)
    Open(registry)
    assert registry.refusal() is None
    assert "limits.max_connections" in str(registry.refusal(1))
    Open(registry)
    assert "2 are carried" in str(registry.refusal())
