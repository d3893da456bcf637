"""A place for tasks that must not take each other down: one failing connection never ends a listener.

`asyncio.TaskGroup` stops all when one fails, which is right for the halves of one connection. Here each task has a
name, its failure is logged where it happened, and the group is closed with a deadline. What is never to end (`keep`: a
subscription, the watch over files, the judging of open connections) begins again after a fault of ours: a node that
silently hears of no revocation any more is worse than one that stops.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Self

from hbone.errors import HboneError

CANCEL_AGAIN_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 60.0

log = logging.getLogger("hbone.net")


class Tasks:
    """Owns tasks; use `async with` or call `close()`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it is done or the group closes."""
        task = asyncio.get_running_loop().create_task(self._contained(work, name), name=f"{self._name}: {name}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, work))
        return task

    def keep(self, make: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> asyncio.Task[None]:
        """Run what `make` gives, and once more whenever it fails, after a pause that doubles with each failure."""
        return self.start(self._kept(make, name), name=name)

    async def _kept(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        now = asyncio.get_running_loop().time
        pause_s = FIRST_PAUSE_S
        while True:
            began = now()
            try:
                await make()
            except Exception:
                if now() - began > LAST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
                log.exception("task failed unexpectedly", extra={"task": name, "again_in_s": pause_s})
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _ended(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        work.close()  # one that was cancelled before its first step would be missed, with a warning, by nobody
        self._tasks.discard(task)

    def __len__(self) -> int:
        return len(self._tasks)

    async def _contained(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except HboneError as error:
            log.warning("task failed", extra={"task": name, "error": str(error)})
        except Exception:
            log.exception("task failed unexpectedly", extra={"task": name})

    async def close(self) -> None:
        """Cancel what still runs, and wait for it.

        More than once if need be: grpclib turns a cancellation that comes together with a lost connection into an error
        of that connection, after which the task goes on.
        """
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
