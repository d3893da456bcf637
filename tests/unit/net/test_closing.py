import asyncio
import socket

import pytest

from hbone.net.closing import BRIEF, Closing, Patience
from hbone.net.poller import Poller
from tests.support.tcp import Tcp
from tests.support.tlspeer import tcp_pair

MIB = 1 << 20


def full(sock: socket.socket) -> int:
    """Fill the socket's buffers; how much went in."""
    sock.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(65_536))
    except BlockingIOError:
        return sent


async def test_what_is_on_its_way_arrives_though_the_other_end_still_talks(poller: Poller) -> None:
    closing = Closing(poller)
    near, far = tcp_pair()
    sent = full(near)
    async with Tcp(far) as peer:
        await peer.send(b"unread when we close")
        closing.linger(near, BRIEF)
        assert len(await peer.to_end()) == sent
        peer.close()
    await closing.wait_empty()
    assert near.fileno() == -1


async def test_who_has_everything_and_talks_on_is_not_listened_to_any_longer(poller: Poller) -> None:
    closing = Closing(poller)
    near, far = tcp_pair()
    near.setblocking(False)
    near.send(b"the end")
    async with Tcp(far) as peer:
        closing.linger(near, Patience(time_s=30, max_bytes=MIB))
        assert await peer.to_end() == b"the end"
        assert len(closing) == 1
        await peer.send(b"x")
        await asyncio.wait_for(closing.wait_empty(), 5)
        with pytest.raises(OSError):
            while True:
                await peer.send(b"y")


@pytest.mark.parametrize("patience", [Patience(time_s=0.05, max_bytes=MIB), Patience(time_s=30, max_bytes=1000)])
async def test_patience_has_an_end(patience: Patience, poller: Poller) -> None:
    closing = Closing(poller)
    near, far = tcp_pair()
    full(near)
    async with Tcp(far) as peer:
        closing.linger(near, patience)
        assert len(closing) == 1
        await peer.send(bytes(5000))
        await asyncio.wait_for(closing.wait_empty(), 5)
        assert near.fileno() == -1


async def test_a_socket_whose_other_end_is_gone_is_closed_at_once(poller: Poller) -> None:
    closing = Closing(poller)
    lonely = socket.socket()
    lonely.setblocking(False)
    closing.linger(lonely, BRIEF)
    assert lonely.fileno() == -1
    assert not len(closing)


async def test_a_reset_from_the_other_end_is_the_end(poller: Poller) -> None:
    closing = Closing(poller)
    near, far = tcp_pair()
    near.setblocking(False)
    closing.linger(near, BRIEF)
    Tcp(far).reset()
    await asyncio.wait_for(closing.wait_empty(), 5)


async def test_close_closes_what_is_left(poller: Poller) -> None:
    closing = Closing(poller)
    near, far = tcp_pair()
    near.setblocking(False)
    closing.linger(near, BRIEF)
    closing.close()
    assert near.fileno() == -1
    far.close()
