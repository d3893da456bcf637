"""The connections that are open now: to be shown, judged again, drained, and cut."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

from hbone.errors import HboneError
from hbone.telemetry.views import ConnectionView


class Connection(Protocol):
    """An open connection, tunnelled or passed through."""

    def cut(self, error: HboneError) -> None:
        """End it at once; both sides see a reset."""

    def view(self) -> ConnectionView: ...


class Registry:
    """Register a connection before judging it: a policy that changes in between is then not missed."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._empty: asyncio.Event | None = None

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def remove(self, connection: Connection) -> None:
        """Harmless when repeated."""
        self._open.discard(connection)
        if not self._open and self._empty is not None:
            self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """A copy, so that connections may be cut while it is walked."""
        return iter(tuple(self._open))

    async def wait_empty(self) -> None:
        """Until the last connection has ended."""
        while self._open:
            self._empty = asyncio.Event()
            await self._empty.wait()

    def cut_all(self, error: HboneError) -> int:
        """Cut what is open; how many that was."""
        connections = tuple(self._open)
        for connection in connections:
            connection.cut(error)
        return len(connections)

    def views(self) -> tuple[ConnectionView, ...]:
        return tuple(connection.view() for connection in self._open)
