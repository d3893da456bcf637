"""Clocks disagree (users' scenario C5): a minute is nothing, ten are told with all that one needs to see why."""

import re
from contextlib import AbstractAsyncContextManager

import pytest

from hbone.net.clock import SystemClock
from hbone.times import WallTime
from tests.support.mesh import Mesh, Pair, pair
from tests.support.tcp import echo

STAMP = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"


class Behind(SystemClock):
    """A clock that is behind all others."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wall(self) -> WallTime:
        return WallTime(super().wall() - self._seconds)


def late(side: str, seconds: float) -> AbstractAsyncContextManager[Pair]:
    """Two nodes, of which the client's or the server's clock is behind; the CA's is right."""
    clock = {"clock": Behind(seconds)}
    return pair(echo, client=clock) if side == "client" else pair(echo, server=clock)


async def echoes(stage: Pair) -> bool:
    program = await stage.connect()
    try:
        await program.send(b"hello")
        return await program.exactly(5) == b"hello"
    except OSError:
        return False


@pytest.mark.parametrize("side", ["client", "server"])
async def test_c5_a_node_that_is_a_minute_behind_works(side: str) -> None:
    late = {"clock": Behind(60)}
    async with pair(
        echo, client=late if side == "client" else None, server=late if side == "server" else None
    ) as stage:
        assert await echoes(stage)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_c5_a_node_that_is_ten_minutes_behind_refuses_with_both_clocks_and_the_window(side: str) -> None:
    late = {"clock": Behind(600)}
    async with pair(
        echo, client=late if side == "client" else None, server=late if side == "server" else None
    ) as stage:
        assert not await echoes(stage)
        line = await (stage.client if side == "client" else stage.server).line()
    assert "is not yet valid" in line
    found = re.search(
        rf"it is ({STAMP}) here, and was about ({STAMP}) at its CA when it was issued, for ({STAMP}) to ({STAMP})", line
    )
    assert found is not None, line
    here, issued, begins, ends = found.groups()
    assert here < begins < issued < ends
    behind_s = re.search(r"this one is (\d+) s or more behind", line)
    assert behind_s is not None, line
    assert 590 <= int(behind_s[1]) <= 605


async def test_c5_nothing_of_the_program_is_sent_to_a_peer_that_is_not_yet_valid() -> None:
    async with Mesh() as mesh:
        far = await mesh.node("shop/cart", "127.0.1.1")
        near = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:9"}], clock=Behind(600))
        stage = Pair(mesh, None, near, far)  # type: ignore[arg-type]  # no application is reached
        try:
            assert not await echoes(stage)
            assert far.dataplane.inbound.tunnels() == ()
            assert not far.dataplane.connections()
        finally:
            for program in stage.programs:
                program.close()
