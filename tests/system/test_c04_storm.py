"""A CA that comes back after an outage which a whole fleet's half-life fell into (users' scenario C4)."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from hbone.control.ca_client import CaClient
from hbone.control.channel import UnixEndpoint
from hbone.control.credentials import Credentials
from hbone.control.renew import IdentityKeeper
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import SystemClock, system_rng
from tests.support.commands import Running, Sandbox
from tests.support.controlplane import spiffe

NODES = 200
TTL_S = 60.0
DOWN_S, UP_S = 20.0, 45.0  # after the first certificates; half of their life lies between
SPREAD_S = 10.0
CPU_LIMIT_S = 4.0  # 200 certificates take 0.2 s, a start half a second
FDS_LIMIT = 150


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def control(sandbox: Sandbox) -> Running:
    running = sandbox.start("control", "--listen", "off")
    running.wait_for("Ctrl-C ends it")
    return running


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_c4_two_hundred_nodes_come_back_over_more_than_ten_seconds_and_the_ca_hardly_notices(
    sandbox: Sandbox,
) -> None:
    plane = await asyncio.to_thread(control, sandbox)
    came: list[float] = []

    def note(_identity: SpiffeId, _credentials: Credentials) -> None:
        came.append(time.monotonic())

    async with AsyncExitStack() as stack:
        for number in range(NODES):
            source = CaClient(UnixEndpoint(sandbox.state / "control.sock"), ttl_s=TTL_S)
            keeper = IdentityKeeper(source, SystemClock(), system_rng())
            keeper.on_rotation(note)
            await stack.enter_async_context(keeper)
            keeper.prefetch(spiffe("fleet", f"w{number}"))
        async with asyncio.timeout(15):
            while len(came) < NODES:  # noqa: ASYNC110 - of another's making
                await asyncio.sleep(0.05)
        began = time.monotonic()
        came.clear()
        await asyncio.sleep(DOWN_S)
        plane.signal(signal.SIGKILL)
        await asyncio.sleep(began + UP_S - time.monotonic())
        assert not came, "nobody renews before half of the life"
        plane = await asyncio.to_thread(control, sandbox)
        fds = 0
        while len(came) < NODES and time.monotonic() < began + TTL_S + 15:
            fds = max(fds, open_fds(plane.pid))
            await asyncio.sleep(0.02)
        assert len(came) == NODES
        assert came[-1] - came[0] >= SPREAD_S
        assert fds <= FDS_LIMIT
        assert cpu_s(plane.pid) <= CPU_LIMIT_S
