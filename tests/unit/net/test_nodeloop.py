"""The loop of a node: asyncio's promises hold while the data path has its turns."""

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hbone.net.poller import BUSY_EVENTS, LONG_S, Poller, poller_of, release
from tests.support.tcp import eventually
from tests.support.tlspeer import tcp_pair

if not hasattr(select, "epoll"):
    pytest.skip("no epoll on this system", allow_module_level=True)

from hbone.net.nodeloop import NodeLoop


@pytest.fixture
def loop() -> Iterator[NodeLoop]:
    one = NodeLoop()
    yield one
    one.close()


class Always:
    """Sockets that can always be read, as on a node whose callers never stop."""

    def __init__(self, poller: Poller, count: int = 1) -> None:
        self.pairs = [tcp_pair() for _ in range(count)]
        self.poller = poller
        self.calls = 0
        for near, far in self.pairs:
            far.send(b"x")
            poller.add_reader(near.fileno(), self.on_readable)

    def on_readable(self) -> None:
        self.calls += 1

    def close(self) -> None:
        for near, far in self.pairs:
            self.poller.forget(near.fileno())
            near.close()
            far.close()


@pytest.mark.parametrize("count", [1, BUSY_EVENTS + 2])
def test_timers_come_in_time_while_sockets_are_always_ready(loop: NodeLoop, count: int) -> None:
    busy = Always(loop.poller, count)

    async def wait() -> float:
        began = time.monotonic()
        await asyncio.sleep(0.05)
        return time.monotonic() - began

    took = loop.run_until_complete(wait())
    assert 0.05 <= took < 1.0
    assert busy.calls > count, "the data path had its turns meanwhile"
    busy.close()


@pytest.mark.parametrize("count", [1, BUSY_EVENTS + 2])
def test_the_loops_own_descriptors_are_served_beside_busy_sockets(loop: NodeLoop, count: int) -> None:
    busy = Always(loop.poller, count)
    reading, writing = os.pipe()

    async def wait() -> bytes:
        came: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(reading, lambda: came.set_result(os.read(reading, 10)))
        os.write(writing, b"own")
        try:
            return await asyncio.wait_for(came, 5)
        finally:
            loop.remove_reader(reading)

    assert loop.run_until_complete(wait()) == b"own"
    busy.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("how", ["soon", "later", "a task"])
def test_what_a_handler_asks_of_an_idle_loop_is_done_at_once(loop: NodeLoop, how: str) -> None:
    near, far = tcp_pair()

    async def wait() -> float:
        came: asyncio.Future[float] = loop.create_future()

        def done() -> None:
            came.set_result(time.monotonic())

        async def work() -> None:
            done()

        def on_readable() -> None:
            near.recv(10)
            match how:
                case "soon":
                    loop.call_soon(done)
                case "later":
                    loop.call_later(0.01, done)
                case _:
                    tasks.append(loop.create_task(work()))

        tasks: list[asyncio.Task[None]] = []
        loop.poller.add_reader(near.fileno(), on_readable)
        await asyncio.sleep(0)
        began = time.monotonic()
        threading.Timer(0.02, far.send, (b"x",)).start()  # when the loop has nothing else to wait for
        return await came - began

    assert loop.run_until_complete(asyncio.wait_for(wait(), 5)) < 1.0
    loop.poller.forget(near.fileno())
    near.close()
    far.close()


def test_another_thread_wakes_an_idle_loop(loop: NodeLoop) -> None:
    async def wait() -> str:
        return await asyncio.to_thread(lambda: "done")

    assert loop.run_until_complete(asyncio.wait_for(wait(), 5)) == "done"


def test_a_signal_wakes_an_idle_loop(loop: NodeLoop) -> None:
    async def wait() -> None:
        came = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await came.wait()
        loop.remove_signal_handler(signal.SIGUSR1)

    loop.run_until_complete(asyncio.wait_for(wait(), 5))


def test_a_handler_may_stop_the_loop(loop: NodeLoop) -> None:
    near, far = tcp_pair()
    loop.poller.add_reader(near.fileno(), loop.stop)
    far.send(b"x")
    loop.run_forever()
    loop.poller.forget(near.fileno())
    near.close()
    far.close()


def test_in_a_long_turn_the_end_comes_several_times(loop: NodeLoop) -> None:
    """What one handler has left for the end does not wait for all the others' work."""
    said: list[str] = []
    pairs = [tcp_pair() for _ in range(8)]

    def on_readable(near_fd: int) -> None:
        said.append("work")
        until = time.monotonic() + 2 * LONG_S
        while time.monotonic() < until:
            pass
        loop.poller.at_end(lambda: said.append("end"))
        loop.poller.remove_reader(near_fd)

    async def wait() -> None:
        for near, far in pairs:
            far.send(b"x")
            fd = near.fileno()
            loop.poller.add_reader(fd, partial(on_readable, fd))
        await eventually(lambda: said.count("end") == len(pairs))

    loop.run_until_complete(asyncio.wait_for(wait(), 5))
    assert said == ["work", "end"] * len(pairs)
    for near, far in pairs:
        near.close()
        far.close()


def test_after_a_busy_time_one_event_is_seen_like_any_other(loop: NodeLoop) -> None:
    busy = Always(loop.poller, BUSY_EVENTS + 2)

    loop.run_until_complete(eventually(lambda: busy.calls >= BUSY_EVENTS * 4))
    busy.close()
    assert loop.poller.busy > 0
    one = Always(loop.poller)
    loop.run_until_complete(eventually(lambda: one.calls >= 3))
    one.close()


def test_an_idle_loop_takes_no_cpu_after_a_busy_time(loop: NodeLoop) -> None:
    busy = Always(loop.poller, BUSY_EVENTS + 2)
    loop.run_until_complete(asyncio.sleep(0.01))
    busy.close()
    before = time.process_time()
    loop.run_until_complete(asyncio.sleep(0.2))
    assert time.process_time() - before < 0.1


def test_the_loops_poller_outlives_who_used_it(loop: NodeLoop) -> None:
    used = poller_of(loop)
    assert used is loop.poller
    release(used)
    busy = Always(used)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert busy.calls
    busy.close()


def test_descriptors_are_closed_with_the_loop() -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    one = NodeLoop()
    one.close()
    one.close()
    assert len(list(descriptors.iterdir())) == before
