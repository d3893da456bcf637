"""The life of a node, of one process or of several: ports before anything runs, a start that is whole or undone."""

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from typing import Protocol

from hbone import __version__
from hbone.telemetry.views import ListenerView, ProcessView, WorkerView
from hbone.times import Clock


class Ports(Protocol):
    """A set of listening sockets: taken all or none (UsageError), and given back for a start that failed."""

    def bind(self) -> None: ...
    def unbind(self) -> None: ...


class Life:
    """How far a node is: what it holds, what it waits for (`pending`), and since when.

    `draining` is for its owner to set, before it lets go of anything.
    """

    def __init__(self, clock: Clock) -> None:
        self.pending: set[str] = set()
        self.draining = False
        self._clock = clock
        self._started, self._started_wall = clock.now(), clock.wall()
        self._bound: ExitStack | None = None
        self._running = AsyncExitStack()

    def bind(self, *sets: Ports) -> None:
        """Take the ports of all sets, or none; raises UsageError."""
        with ExitStack() as taken:
            for ports in sets:
                ports.bind()
                taken.callback(ports.unbind)
            self._bound = taken.pop_all()

    def unbind(self) -> None:
        """Give the ports back, if they are ours."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    async def begin(
        self, bind: Callable[[], Awaitable[None]], start: Callable[[AsyncExitStack], Awaitable[None]]
    ) -> None:
        """`bind` unless that was done, then `start`, which pushes what ends it; a start that fails leaves nothing."""
        if self._bound is None:
            await bind()
        try:
            async with AsyncExitStack() as undo:
                await start(undo)
                self._running = undo.pop_all()
        except BaseException:
            self.unbind()
            raise

    async def end(self) -> None:
        """Undo the start, in reverse."""
        await self._running.aclose()

    def view(
        self,
        *,
        pending: tuple[str, ...],
        listeners: tuple[ListenerView, ...],
        open_fds: int | None,
        workers: Iterable[WorkerView] = (),
    ) -> ProcessView:
        """What is shown of it at this moment."""
        return ProcessView(
            role="node",
            version=__version__,
            pid=os.getpid(),
            state="draining" if self.draining else "starting" if pending else "ready",
            started_at=datetime.fromtimestamp(self._started_wall, UTC).isoformat(timespec="seconds"),
            uptime_s=self._clock.now() - self._started,
            pending=pending,
            listeners=listeners,
            open_fds=open_fds,
            workers=tuple(workers),
        )
