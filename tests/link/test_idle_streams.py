"""What idle connections cost: many are held at once, and each costs little."""

import asyncio
import gc
import resource
import tracemalloc
from pathlib import Path

import pytest

import hbone
from hbone.app.run import raise_open_files_limit
from tests.support.mesh import pair
from tests.support.tcp import Tcp

STREAMS = 2000
A_BATCH = 100
BYTES_EACH = 5_000  # of both nodes together
OURS = [tracemalloc.Filter(inclusive=True, filename_pattern=f"{Path(hbone.__file__).parent}/*")]


def held() -> int:
    gc.collect()
    return sum(one.size for one in tracemalloc.take_snapshot().filter_traces(OURS).statistics("filename"))


async def patient_echo(tcp: Tcp) -> None:
    """Waits for as long as it takes: an idle connection is none that failed."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(tcp.sock, 4096):
        await tcp.send(data)


@pytest.mark.timeout(120)
async def test_two_thousand_idle_streams_are_held_with_little_memory_and_all_still_answer() -> None:
    raise_open_files_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 5 * STREAMS:
        pytest.skip(f"the limit of open files is {soft}; {5 * STREAMS} are needed in this one process")
    async with pair(patient_echo) as stage:

        async def talk(program: Tcp) -> None:
            await program.send(b"still there")
            assert await program.exactly(11) == b"still there"

        await talk(await stage.connect())
        tracemalloc.start()
        try:
            before = held()
            for _ in range(STREAMS // A_BATCH):
                programs = await asyncio.gather(*(stage.connect() for _ in range(A_BATCH)))
                await asyncio.gather(*map(talk, programs))
            cost = (held() - before) / STREAMS
        finally:
            tracemalloc.stop()
        assert len(stage.client.dataplane.connections()) == STREAMS + 1
        assert cost < BYTES_EACH, f"{cost:.0f} bytes for each idle connection"
        for at in range(0, STREAMS, A_BATCH):
            await asyncio.gather(*map(talk, stage.programs[at : at + A_BATCH]))
