"""A limit on connections of which one direction has ended and the other stands still. Off unless asked for."""

import asyncio
from typing import Protocol

from hbone.errors import ConnectionCut, HboneError
from hbone.net.deadlines import Deadlines


class HalfClosed(Protocol):
    """A connection that is carried."""

    @property
    def carried_bytes(self) -> int:
        """Both ways."""
        ...

    def cut(self, error: HboneError) -> None: ...


class HalfCloses:
    """Cuts those that carry nothing for `limit_s` after one direction has ended; what moves goes on for ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadlines: Deadlines[HalfClosed] = Deadlines(loop, limit_s, self._overdue)
        self._carried: dict[HalfClosed, int] = {}

    def begin(self, connection: HalfClosed) -> None:
        """One direction has ended."""
        self._carried[connection] = connection.carried_bytes
        self._deadlines.start(connection)

    def over(self, connection: HalfClosed) -> None:
        """So has the other. Harmless for one that never began."""
        if self._carried.pop(connection, None) is not None:
            self._deadlines.stop(connection)

    def close(self) -> None:
        self._deadlines.close()
        self._carried.clear()

    def _overdue(self, connection: HalfClosed) -> None:
        if connection.carried_bytes != self._carried[connection]:
            self.begin(connection)
            return
        connection.cut(
            ConnectionCut(
                f"half-closed for {self._limit_s:g} s without a byte",
                why="one side ended its direction and the other went silent",
                fix="set `timeouts.half_close_timeout_s` higher, or to none",
            )
        )
