"""Keep-alive for what lasts."""

import asyncio
import socket
from dataclasses import dataclass

from hbone.net.sockets import KeepAlive
from hbone.proxy.keepalive import AFTER_S, KeepAlives, moment_s
from tests.support.tlspeer import tcp_pair

QUICK = KeepAlive(idle_s=1, interval_s=7, probes=3)


@dataclass(eq=False)
class Carried:
    sock: socket.socket | None


def probed(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


async def until_probed(sock: socket.socket) -> None:
    async with asyncio.timeout(10):
        while not probed(sock):  # noqa: ASYNC110 -- the kernel does not tell
            await asyncio.sleep(0.01)


async def test_a_connection_that_lasts_gets_its_probes_and_one_that_is_over_is_left_alone() -> None:
    near, far = tcp_pair()
    keep_alives = KeepAlives(asyncio.get_running_loop(), QUICK)
    keep_alives.begin(lasting := Carried(near))
    keep_alives.begin(short := Carried(far))
    keep_alives.begin(Carried(None))
    keep_alives.over(short)
    keep_alives.over(short)
    assert not probed(near)
    await until_probed(near)
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
    assert not probed(far)
    keep_alives.over(lasting)
    keep_alives.close()
    near.close()
    far.close()


async def test_a_socket_that_is_gone_by_then_is_no_fault() -> None:
    near, far = tcp_pair()
    keep_alives = KeepAlives(asyncio.get_running_loop(), QUICK)
    keep_alives.begin(Carried(near))
    keep_alives.begin(Carried(far))
    near.close()
    await until_probed(far)
    keep_alives.close()
    far.close()


def test_probes_are_there_long_before_the_first_is_due() -> None:
    assert moment_s(KeepAlive()) == AFTER_S
    assert moment_s(QUICK) == 0.5
    assert moment_s(KeepAlive(idle_s=180, user_timeout_s=4)) == 2.0
