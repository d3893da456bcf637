"""The connections that are open now: to be shown, judged again, drained, and cut."""

from collections.abc import Callable
from typing import Protocol

from hbone.errors import HboneError, TunnelFailure
from hbone.net.members import Members
from hbone.proxy.judge import Facts
from hbone.telemetry.views import ConnectionView


class Connection(Protocol):
    """An open connection, tunnelled or passed through."""

    @property
    def facts(self) -> Facts | None:
        """What it was judged by; None for one that nobody judges here (outbound, or not that far yet)."""
        ...

    def cut(self, error: HboneError) -> None:
        """End it at once; both sides see a reset."""

    def view(self) -> ConnectionView: ...


class Registry(Members[Connection]):
    """Register a connection before judging it: a policy that changes in between is then not missed."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int = 65_536) -> None:
        super().__init__()
        self._limit = limit

    def refusal(self, others: int = 0) -> TunnelFailure | None:
        """Why no further connection is taken; None when one is. `others` count, though they are not registered."""
        if len(self._inside) + others < self._limit:
            return None
        return TunnelFailure(
            "too many connections",
            why=f"{self._limit} are carried, as many as allowed",
            fix="raise `limits.max_connections`, or find out who opens so many",
            limit="max_connections",
        )

    def cut_all(self, error: HboneError) -> int:
        """Cut what is open; how many that was."""
        connections = tuple(self)
        for connection in connections:
            connection.cut(error)
        return len(connections)

    def views(self) -> tuple[ConnectionView, ...]:
        return tuple(connection.view() for connection in self)


class CountedRegistry(Registry):
    """One that tells `on_count` how many connections there are, when that changes."""

    __slots__ = ("_on_count",)

    def __init__(self, limit: int, on_count: Callable[[int], object]) -> None:
        super().__init__(limit)
        self._on_count = on_count

    def add(self, member: Connection) -> None:
        super().add(member)
        self._on_count(len(self._inside))

    def remove(self, member: Connection) -> None:
        super().remove(member)
        self._on_count(len(self._inside))
