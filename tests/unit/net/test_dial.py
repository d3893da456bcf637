import asyncio
import errno
import socket

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.errors import HboneError, UpstreamFailed, UpstreamTimeout
from hbone.net.connecting import dial
from hbone.net.dial import Dial, self_connected
from hbone.net.dialoptions import DialOptions
from hbone.net.poller import Poller
from tests.support.tcp import App, Tcp, echo

Outcome = tuple[socket.socket | None, HboneError | None]


async def test_a_connected_socket_does_not_block_and_has_no_delay(poller: Poller) -> None:
    async with App(echo) as app:
        sock = await dial(poller, app.address, DialOptions())
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        async with Tcp(sock) as tcp:
            await tcp.send(b"x")
            assert await tcp.recv() == b"x"


async def test_a_closed_port_is_an_error_with_its_remedy(poller: Poller) -> None:
    async with App() as app:
        address = app.address
    with pytest.raises(UpstreamFailed) as caught:
        await dial(poller, address, DialOptions())
    assert caught.value.errno == errno.ECONNREFUSED  # type: ignore[attr-defined] # set by keyword
    assert f"start what should listen on {address}" in str(caught.value)


async def test_no_answer_is_an_error_after_the_time_limit(poller: Poller) -> None:
    async with App() as app:
        full = await app.stop_answering()
        with pytest.raises(UpstreamTimeout, match=r"0\.05 s"):
            await dial(poller, app.address, DialOptions(timeout_s=0.05))
        with pytest.raises(UpstreamTimeout, match="HBONE port"):
            await dial(poller, app.address, DialOptions(timeout_s=0.05, hbone=True))
        for tcp in full:
            tcp.close()


async def test_a_cancelled_attempt_tells_nobody_and_leaves_nothing(poller: Poller) -> None:
    async with App() as app:
        full = await app.stop_answering()
        outcomes: list[Outcome] = []
        attempt = Dial(
            poller,
            app.address,
            DialOptions(timeout_s=0.05),
            lambda sock, error: outcomes.append((sock, error)),
        )
        attempt.start()
        attempt.cancel()
        attempt.cancel()
        waiting = asyncio.create_task(dial(poller, app.address, DialOptions()))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not outcomes
        for tcp in full:
            tcp.close()


def test_a_socket_that_meets_itself_is_a_refusal() -> None:
    # on loopback a connect may choose the very port that it dials, and TCP then connects the socket to itself
    sock = socket.socket()
    sock.bind(("127.0.3.3", 0))
    sock.connect(sock.getsockname())  # what the kernel may do to us, made to happen
    assert sock.getsockname() == sock.getpeername()
    assert self_connected(sock) == errno.ECONNREFUSED
    sock.close()
    fresh = socket.socket()
    assert self_connected(fresh) == errno.ENOTCONN
    fresh.close()


async def test_the_local_end_can_be_chosen(poller: Poller) -> None:
    async with App() as app:
        sock = await dial(poller, app.address, DialOptions(source=parse_ip("127.0.8.8")))
        assert sock.getsockname()[0] == "127.0.8.8"
        sock.close()
        with pytest.raises(UpstreamFailed):
            await dial(poller, app.address, DialOptions(source=parse_ip("192.0.2.1")))


async def test_ipv6_is_dialled_like_ipv4(poller: Poller) -> None:
    async with App(echo, ip="::1") as app:
        sock = await dial(poller, SocketAddress.parse(f"[::1]:{app.port}"), DialOptions(source=parse_ip("127.0.8.8")))
        assert sock.family == socket.AF_INET6
        sock.close()
