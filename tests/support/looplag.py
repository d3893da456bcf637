"""How long the event loop is kept by one turn: a probe that runs in every turn while it is on."""

import asyncio
import time
from types import TracebackType
from typing import Self


class LoopLag:
    """`async with LoopLag() as lag`: then `lag.longest_s` is the longest turn, `lag.busy_s` all of them together.

    Counted is the CPU time of the loop's thread, not that of the clock on the wall: what another process on the same
    cores takes away says nothing about the program under test.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._last_s = 0.0
        self.longest_s = 0.0
        self.busy_s = 0.0

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        self._last_s = time.thread_time()
        self._handle = self._loop.call_soon(self._turn)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        now_s = time.thread_time()
        took_s = now_s - self._last_s
        self._last_s = now_s
        self.busy_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        self._handle = self._loop.call_soon(self._turn)
