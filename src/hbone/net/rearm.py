"""Readers that the event loop may have dropped are put back.

uvloop ends a registration when its socket reports an error (a reset has come): it calls the reader once more and
then never again, even when that call has read only part of what came before the reset. The end of the connection
would then never be seen. The selector loop of the standard library, being level-triggered, goes on calling.

Reading until the socket has no more would avoid that, but costs a failed system call for each message. Instead,
whoever has read is noted, and registered again a little later: where the registration is whole that takes no system
call, and it happens no more often than ten times a second.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

REARM_S: Final = 0.1


class Rearmed(Protocol):
    """A reader, noted at most once until it is called."""

    def rearm(self) -> None:
        """Register again with `watch_again` if it still reads."""


class Rearm:
    """The readers of a loop that have read lately."""

    __slots__ = ("_loop", "_noted", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._noted: list[Rearmed] = []
        self._timer: asyncio.TimerHandle | None = None

    def note(self, reader: Rearmed) -> None:
        self._noted.append(reader)
        if self._timer is None:
            self._timer = self._loop.call_later(REARM_S, self._sweep)

    def close(self) -> None:
        self._noted.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        noted, self._noted = self._noted, []
        for reader in noted:
            reader.rearm()


def watch_again(
    loop: asyncio.AbstractEventLoop,
    fd: int,
    on_readable: Callable[[], object],
    on_writable: Callable[[], object] | None,
) -> None:
    """Register the reader of `fd`, and its writer if it has one, though they may be registered already."""
    try:
        loop.add_reader(fd, on_readable)
    except RuntimeError:  # uvloop keeps the ended registration until it is removed
        loop.remove_reader(fd)
        loop.add_reader(fd, on_readable)
        if on_writable is not None:
            loop.add_writer(fd, on_writable)
