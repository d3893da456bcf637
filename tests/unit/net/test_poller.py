import asyncio
import select
import socket
import time
from collections.abc import AsyncGenerator, Callable

import pytest
import pytest_asyncio

from hbone.net.poller import BUSY_EVENTS, Poller, poller_of, release
from tests.support.tcp import Tcp, eventually
from tests.support.tlspeer import tcp_pair

Put = Callable[[], None]


@pytest_asyncio.fixture(params=["the loop's own", "epoll", "the standard library's set"])
async def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Poller]:
    if request.param != "the standard library's set" and not hasattr(select, "epoll"):
        pytest.skip("no epoll on this system")
    if request.param == "the loop's own":
        own = poller_of(asyncio.get_running_loop())
        yield own
        release(own)
        return
    if request.param != "epoll":
        with monkeypatch.context() as patch:
            patch.delattr(select, "epoll", raising=False)
            one = Poller(asyncio.get_running_loop())
    else:
        one = Poller(asyncio.get_running_loop())
    yield one
    one.close()


class Reader:
    """Reads ten bytes at each call, like a relay that takes a piece of what is there."""

    def __init__(self, poller: Poller, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.got = 0
        self.calls = 0
        self.ended: str | None = None
        poller.add_reader(self.fd, self.on_readable)

    def on_readable(self) -> None:
        self.calls += 1
        try:
            n = len(self.sock.recv(10))
        except BlockingIOError:
            return
        except ConnectionResetError:
            n, self.ended = 0, "reset"
        if n == 0:
            self.ended = self.ended or "end"
            self.poller.remove_reader(self.fd)
        self.got += n


async def test_a_reset_behind_unread_bytes_is_seen_in_the_end(poller: Poller) -> None:
    near, far = tcp_pair()
    peer = Tcp(far)
    await peer.send(bytes(35))
    peer.reset()  # before anybody has looked
    reader = Reader(poller, near)
    await eventually(lambda: reader.ended)
    assert (reader.got, reader.ended) == (35, "reset")
    near.close()


async def test_a_reader_that_stopped_is_not_called_again(poller: Poller) -> None:
    near, far = tcp_pair()
    reader = Reader(poller, near)
    async with Tcp(far) as peer:
        await peer.send(b"x")
        await eventually(lambda: reader.got)
        poller.remove_reader(reader.fd)
        poller.remove_reader(reader.fd)
        await peer.send(b"y")
        await asyncio.sleep(0.02)
        assert reader.got == 1
        poller.add_reader(reader.fd, reader.on_readable)
        await eventually(lambda: reader.got == 2)
        poller.remove_reader(reader.fd)
    near.close()
    assert not len(poller)


async def test_a_broken_socket_that_nobody_watches_costs_nothing(poller: Poller) -> None:
    near, far = tcp_pair()
    reader = Reader(poller, near)
    poller.remove_reader(reader.fd)
    Tcp(far).reset()
    before = time.process_time()
    await asyncio.sleep(0.1)
    assert time.process_time() - before < 0.05  # of 0.1 s that a set which tells of the error for ever would take
    near.close()


async def test_reader_and_writer_of_one_socket_are_told_apart(poller: Poller) -> None:
    near, far = tcp_pair()
    near.setblocking(False)
    seen: list[str] = []

    def on_writable() -> None:
        seen.append("write")
        poller.remove_writer(near.fileno())

    def on_readable() -> None:
        seen.append("read")
        near.recv(10)

    poller.add_reader(near.fileno(), on_readable)
    poller.add_writer(near.fileno(), on_writable)
    await eventually(lambda: seen)
    assert seen == ["write"]
    async with Tcp(far) as peer:
        await peer.send(b"x")
        await eventually(lambda: len(seen) > 1)
        assert seen == ["write", "read"]
        poller.forget(near.fileno())
        near.close()


async def test_a_number_that_is_another_sockets_by_now_gets_no_event_of_the_old_one(poller: Poller) -> None:
    """Both are readable at once; whoever is called first closes the other, whose number is taken again."""
    pairs = [tcp_pair() for _ in range(2)]
    called: list[int] = []
    heirs: list[socket.socket] = []

    def close_other(mine: int) -> Put:
        def on_readable() -> None:
            called.append(mine)
            near, other = pairs[mine][0], pairs[1 - mine][0]
            near.recv(10)
            number = other.fileno()
            poller.forget(number)
            other.close()
            heir, far = tcp_pair()
            heirs.extend((heir, far))
            assert number in {heir.fileno(), far.fileno()}
            poller.add_writer(number, lambda: called.append(-1))
            poller.remove_writer(number)
            poller.add_reader(number, lambda: called.append(-2))

        return on_readable

    for mine, (near, far) in enumerate(pairs):
        near.setblocking(False)
        far.send(b"x")
        poller.add_reader(near.fileno(), close_other(mine))
    await asyncio.sleep(0.05)
    assert len(called) == 1
    for sock in heirs:
        poller.remove_reader(sock.fileno())
        sock.close()
    for near, far in pairs:
        if near.fileno() >= 0:
            poller.forget(near.fileno())
        near.close()
        far.close()


async def test_a_forgotten_number_can_be_watched_anew(poller: Poller) -> None:
    near, far = tcp_pair()
    reader = Reader(poller, near)
    number = near.fileno()
    poller.forget(number)
    near.close()
    far.close()
    again, peer = tcp_pair()
    assert number in {again.fileno(), peer.fileno()}
    mine, other = (again, peer) if again.fileno() == number else (peer, again)
    reader = Reader(poller, mine)
    other.send(b"x")
    await eventually(lambda: reader.got)
    poller.forget(number)
    mine.close()
    other.close()


async def test_a_handler_that_fails_is_told_of_and_the_others_are_served(poller: Poller) -> None:
    told: list[dict[str, object]] = []
    poller.loop.set_exception_handler(lambda _, context: told.append(context))
    pairs = [tcp_pair() for _ in range(3)]
    readers = [Reader(poller, near) for near, _ in pairs[1:]]
    broken = pairs[0][0].fileno()

    def fail() -> None:
        poller.remove_reader(broken)
        raise RuntimeError("a fault of ours")

    poller.add_reader(broken, fail)
    for _, far in pairs:
        far.send(b"x")
    await eventually(lambda: all(reader.got for reader in readers))
    assert [str(one["exception"]) for one in told] == ["a fault of ours"]
    for near, far in pairs:
        poller.forget(near.fileno())
        near.close()
        far.close()


async def test_what_is_left_for_the_end_comes_after_all_that_was_ready(poller: Poller) -> None:
    pairs = [tcp_pair() for _ in range(BUSY_EVENTS + 1)]
    order: list[str] = []

    def reads(near: socket.socket) -> Put:
        def on_readable() -> None:
            near.recv(1)
            order.append("read")
            if "end" not in order:
                order.append("asked")
                poller.at_end(lambda: order.append("end"))

        return on_readable

    for near, far in pairs:
        far.send(b"x")
        poller.add_reader(near.fileno(), reads(near))
    poller.at_end(lambda: order.append("outside of a turn"))
    await eventually(lambda: order.count("read") == len(pairs))
    assert order.index("end") > max(place for place, what in enumerate(order) if what == "read")
    await eventually(lambda: "outside of a turn" in order)
    for near, far in pairs:
        poller.forget(near.fileno())
        near.close()
        far.close()


async def test_what_is_asked_for_at_the_end_of_a_turn_needs_no_further_event(poller: Poller) -> None:
    near, far = tcp_pair()
    order: list[str] = []

    def first() -> None:
        order.append("first")
        poller.at_end(lambda: order.append("second"))

    def on_readable() -> None:
        near.recv(1)
        poller.at_end(first)

    poller.add_reader(near.fileno(), on_readable)
    far.send(b"x")
    await eventually(lambda: order == ["first", "second"])
    poller.forget(near.fileno())
    near.close()
    far.close()


async def test_while_much_is_ready_the_loop_still_gets_its_turns(poller: Poller) -> None:
    pairs = [tcp_pair() for _ in range(BUSY_EVENTS)]
    for near, far in pairs:
        far.send(b"x")
        poller.add_reader(near.fileno(), lambda: None)  # never reads it: ready for ever
    await asyncio.wait_for(asyncio.sleep(0.01), 1)
    for near, far in pairs:
        poller.forget(near.fileno())
        near.close()
        far.close()
