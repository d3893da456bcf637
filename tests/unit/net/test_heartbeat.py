import asyncio
import socket
import struct

import pytest

from hbone.errors import HboneError
from hbone.net.clock import SystemClock
from hbone.net.heartbeat import Heartbeat, Path, PingPolicy, path_of, read_info
from tests.support.tcp import eventually
from tests.support.tlspeer import tcp_pair


def tcp_info(*, probes: int = 0, unacked: int = 0, silent_ms: int = 0, not_sent: int = 0) -> bytes:
    info = bytearray(148)
    info[3] = probes
    for at, value in ((24, unacked), (56, silent_ms), (144, not_sent)):
        struct.pack_into("=I", info, at, value)
    return bytes(info)


@pytest.mark.parametrize(
    ("info", "path"),
    [
        (tcp_info(silent_ms=60_000), Path.DELIVERED),
        (tcp_info(unacked=1, silent_ms=19_000), Path.SLOW),
        (tcp_info(unacked=1, silent_ms=20_000), Path.DEAD),
        (tcp_info(not_sent=5000, silent_ms=90_000), Path.SLOW),  # between two window probes
        (tcp_info(not_sent=5000, silent_ms=90_000, probes=1), Path.DOUBTFUL),
        (tcp_info(not_sent=5000, silent_ms=10, probes=1), Path.SLOW),
        (b"\1" * 104, Path.DELIVERED),  # an old kernel tells too little
    ],
)
def test_what_tcp_knows_is_read_right(info: bytes, path: Path) -> None:
    assert read_info(info, 20) is path


def test_a_real_socket_is_delivered_when_idle_and_slow_when_the_peer_does_not_read() -> None:
    near, far = tcp_pair()
    assert path_of(near, 0.0) is Path.DELIVERED
    near.setblocking(False)
    try:
        while True:
            near.send(bytes(65_536))
    except BlockingIOError:
        pass
    assert path_of(near, 60) is Path.SLOW
    near.close()
    far.close()


class Tunnel:
    """Asked; answers if it is told to."""

    def __init__(self) -> None:
        self.near, self.far = tcp_pair()
        self.last_heard = 0.0
        self.pings = 0
        self.ended: list[HboneError | None] = []
        self.answers = False
        self.heart = Heartbeat(
            asyncio.get_running_loop(), self, self.near, PingPolicy(interval_s=0.02, timeout_s=0.06), SystemClock().now
        )

    def ping(self, payload: bytes) -> None:
        assert len(payload) == 8
        self.pings += 1
        if self.answers:
            self.last_heard = SystemClock().now()
            self.heart.answered()

    def lost(self, error: HboneError | None) -> None:
        self.ended.append(error)

    def close(self) -> None:
        self.heart.stop()
        self.near.close()
        self.far.close()


async def test_a_peer_that_has_the_ping_and_does_not_answer_is_given_up_once() -> None:
    tunnel = Tunnel()
    tunnel.heart.start()
    await eventually(lambda: tunnel.ended)
    assert tunnel.pings == 1
    assert "does not answer" in str(tunnel.ended[0])
    await asyncio.sleep(0.1)
    assert len(tunnel.ended) == 1
    tunnel.close()


async def test_a_peer_that_answers_is_asked_again_and_again() -> None:
    tunnel = Tunnel()
    tunnel.answers = True
    tunnel.heart.start()
    await eventually(lambda: tunnel.pings >= 5)
    assert not tunnel.ended
    tunnel.close()
    seen = tunnel.pings
    await asyncio.sleep(0.06)
    assert tunnel.pings == seen


async def test_a_peer_that_sends_anything_at_all_is_not_given_up() -> None:
    tunnel = Tunnel()
    tunnel.heart.start()
    for _ in range(10):
        await asyncio.sleep(0.02)
        tunnel.last_heard = SystemClock().now()
    assert not tunnel.ended
    tunnel.close()


async def test_a_connection_that_ends_while_it_is_asked_is_not_asked_again() -> None:
    tunnel = Tunnel()
    tunnel.answers = True
    stop = tunnel.heart.stop
    tunnel.heart.start()
    original = tunnel.ping

    def ping_and_end(payload: bytes) -> None:
        original(payload)
        stop()
        tunnel.near.close()

    tunnel.ping = ping_and_end  # type: ignore[method-assign]
    await eventually(lambda: tunnel.pings)
    await asyncio.sleep(0.1)
    assert tunnel.pings == 1
    tunnel.close()


async def test_a_full_socket_means_that_the_question_has_not_left_yet() -> None:
    tunnel = Tunnel()
    tunnel.near.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            tunnel.near.send(bytes(65_536))
    tunnel.heart.start()
    await asyncio.sleep(0.3)
    assert not tunnel.ended
    tunnel.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    tunnel.close()
