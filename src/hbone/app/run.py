"""Runs one process's work on the event loop until it ends or is told to: signals, loop, limits."""

import asyncio
import gc
import resource
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

Work = Callable[["Stop"], Awaitable[int]]
T = TypeVar("T")

GC_THRESHOLD: Final = 50_000  # the data path makes no cycles; the default of 700 costs 3 % of requests per second


class Stop:
    """Told by SIGTERM, SIGINT or SIGHUP, or by whoever calls `set`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.interrupted = False

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    async def unless_set(self, work: Awaitable[T]) -> T | None:
        """What `work` gives; None when the stop comes first: then `work` was cancelled, and has ended."""
        task, told = asyncio.ensure_future(work), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            task.cancel()
            told.cancel()
            await asyncio.gather(task, told, return_exceptions=True)

    def on_signal(self, number: int) -> None:
        """A second SIGINT ends the process at once: somebody is waiting at the keyboard."""
        if number == signal.SIGINT:
            if self.interrupted:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.raise_signal(signal.SIGINT)
            self.interrupted = True
        self._event.set()


def run(work: Work, *, carries: bool = True) -> int:
    """Run `work` to its end; its exit code. Errors of ours come out as they are, for the command line to tell.

    `carries` says that it is traffic above all. A control plane's is gRPC, at which uvloop is ahead.
    """
    raise_open_files_limit()
    gc.set_threshold(GC_THRESHOLD, 50, 50)  # a large mesh is read before `calm_collector`: 200,000 workloads, 25 %
    forbid_core_dumps()
    with asyncio.Runner(loop_factory=_loop_factory(carries)) as runner:
        return runner.run(_run(work))


async def _run(work: Work) -> int:
    loop = asyncio.get_running_loop()
    stop = Stop()
    numbers = tuple(_endings())
    for number in numbers:
        loop.add_signal_handler(number, stop.on_signal, number)
    try:
        return await work(stop)
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _endings() -> Iterator[signal.Signals]:
    """The signals that end us in good order; that of a closed terminal unless it is to be ignored (`nohup`)."""
    yield signal.SIGTERM
    yield signal.SIGINT
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


def calm_collector() -> None:
    """After start-up: what is there now stays, so the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)


def raise_open_files_limit() -> None:
    """The soft limit to the hard one, as ztunnel does: each carried connection holds descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS names an "infinite" hard limit that it does not grant; the soft one stays


def forbid_core_dumps() -> None:
    """Private keys are in our memory: no image of it is to land on a disk, whatever the limits of our parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _loop_factory(carries: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if carries and hasattr(select, "epoll"):
        from hbone.net.nodeloop import NodeLoop

        return NodeLoop
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None  # slower, and all right
    return uvloop.new_event_loop
