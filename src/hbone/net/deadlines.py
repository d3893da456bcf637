"""Many waits of one length, with one timer for all of them.

A timer for each connection would cost more than the connection's own bookkeeping. Here a wait is an entry in a
dictionary, which keeps the order in which waits began and thus the order in which they end.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Deadlines(Generic[_T]):
    """Calls `overdue` with whoever waited `limit_s` (up to a tenth more) without having been stopped."""

    __slots__ = ("_limit_s", "_loop", "_overdue", "_timer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, overdue: Callable[[_T], None]) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._overdue = overdue
        self._waiting: dict[_T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, one: _T) -> None:
        """The wait of `one` begins now, even if an earlier one runs."""
        self._waiting.pop(one, None)
        self._waiting[one] = self._loop.time() + self._limit_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._sweep)

    def stop(self, one: _T) -> None:
        """It has happened. Harmless when nothing was waited for."""
        self._waiting.pop(one, None)

    def close(self) -> None:
        """Forget all; nobody is called any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._waiting)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        overdue: list[_T] = []
        next_due: float | None = None
        for one, due in self._waiting.items():
            if due > now:
                next_due = due
                break
            overdue.append(one)
        for one in overdue:
            del self._waiting[one]
        if next_due is not None:
            self._timer = self._loop.call_later(max(next_due - now, self._limit_s / 10), self._sweep)
        for one in overdue:
            self._overdue(one)
