"""Many streams in one tunnel: they do not disturb each other, and what a stalled one holds is bounded."""

import asyncio
import gc
import time
from typing import Any

import pytest

from hbone.net.relay import StreamRelay
from tests.support.mesh import Pair, forward_of, pair
from tests.support.tcp import App, Tcp, digest, echo, eventually, pattern

MIB = 1 << 20


async def test_a_thousand_streams_at_once_share_one_tunnel() -> None:
    async with pair(echo) as stage:
        programs = [await stage.connect() for _ in range(1000)]

        async def talk(number: int, program: Tcp) -> None:
            data = pattern(3000, seed=number)
            await program.send(data)
            assert await program.exactly(3000) == data

        await asyncio.gather(*(talk(number, program) for number, program in enumerate(programs)))
        (tunnel,) = stage.client.dataplane.tunnels()
        assert tunnel.streams == 1000
        assert len(stage.server.dataplane.tunnels()) == 1
        assert len(stage.server.dataplane.connections()) == 1000
        for program in programs:
            program.close()
        await stage.server.quiet()
        assert all('error="' not in line for line in await stage.server.wait_lines(1000))


async def test_one_reader_that_stops_does_not_stop_the_others_and_resumes_complete() -> None:
    payload = pattern(24 * MIB)

    async def pour(tcp: Tcp) -> None:
        kind = await tcp.exactly(1)
        if kind == b"P":
            await tcp.send(payload)
        else:
            await echo(tcp)

    async with pair(pour) as stage:
        stalled = await stage.connect(receive_buffer=65_536)
        await stalled.send(b"P")
        others = [await stage.connect() for _ in range(49)]
        for other in others:
            await other.send(b"E")

        async def talk(number: int, other: Tcp) -> float:
            slowest_s = 0.0
            for turn in range(5):
                data = pattern(20_000, seed=number * 10 + turn)
                began = time.perf_counter()
                await other.send(data)
                assert await other.exactly(len(data)) == data
                slowest_s = max(slowest_s, time.perf_counter() - began)
            return slowest_s

        slowest = await asyncio.gather(*(talk(number, other) for number, other in enumerate(others)))
        assert max(slowest) < 3, "somebody waited for the stalled one"
        held = held_bytes(stage)
        assert 0 < held <= 4 * MIB, held  # its window, and not a byte more
        assert len(stage.client.dataplane.tunnels()) == 1
        assert await stalled.digest_to_end() == (24 * MIB, digest(payload))


def held_bytes(stage: Pair) -> int:
    """Payload that the client's node keeps for programs that do not take it."""
    return stage.client.dataplane.links.budget.held


async def test_the_bytes_of_a_stalled_stream_are_given_back_when_it_is_cut() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        sending = asyncio.create_task(app.send(bytes(32 * MIB)))
        await eventually(lambda: held_bytes(stage) > MIB)
        program.reset()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
        await stage.client.quiet()
        assert held_bytes(stage) == 0


async def test_all_stalled_streams_together_hold_no_more_than_the_nodes_budget() -> None:
    limits = {"limits": {"max_buffered_bytes": 2 * MIB}, "http2": {"connection_window_bytes": 4 * MIB}}
    payload = pattern(6 * MIB)

    async def pour(tcp: Tcp) -> None:
        await tcp.send(payload)

    async with pair(pour, client=limits) as stage:
        stalled = [await stage.connect(receive_buffer=65_536) for _ in range(12)]  # 48 MiB of stream windows
        await eventually(lambda: held_bytes(stage) > 2 * MIB)
        peak = 0
        for _ in range(50):
            await asyncio.sleep(0.01)
            peak = max(peak, held_bytes(stage))
        assert peak <= 6 * MIB, "the budget, and what one tunnel's window still allows"
        assert all(
            result == (len(payload), digest(payload))
            for result in await asyncio.gather(*(program.digest_to_end() for program in stalled))
        )
        assert held_bytes(stage) == 0


async def test_the_budget_holds_back_the_tunnels_of_stalled_readers_and_no_other() -> None:
    limits: dict[str, Any] = {"limits": {"max_buffered_bytes": MIB}}
    async with pair(client=limits) as stage, App(echo, ip="127.0.1.4") as other_app:
        await stage.mesh.node("shop/other", "127.0.1.4")
        other = await stage.mesh.node("web/web", "127.0.1.5", forwards=[{"to": str(other_app.address)}], **limits)
        program, app = await stage.both()
        sending = asyncio.create_task(app.send(bytes(32 * MIB)))
        await eventually(lambda: held_bytes(stage) > MIB)
        async with await Tcp.connect(forward_of(other)) as healthy:
            data = pattern(8 * MIB)
            echoed = asyncio.create_task(healthy.exactly(len(data)))
            await healthy.send(data)
            assert await echoed == data
        program.reset()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending


async def test_streams_that_have_ended_leave_no_objects_behind() -> None:
    async with pair(echo) as stage:

        async def once() -> None:
            program = await stage.connect()
            await program.send(b"x" * 100)
            program.end()
            assert await program.to_end() == b"x" * 100
            program.close()
            stage.programs.clear()

        for _ in range(50):
            await once()
        await stage.client.quiet()
        await stage.server.quiet()
        await asyncio.sleep(0.15)  # readers that read lately are looked at once more
        gc.collect()
        left = [one for one in gc.get_objects() if isinstance(one, StreamRelay) and one.link in links(stage)]
        assert not left


def links(stage: Pair) -> list[object]:
    return [link for node in (stage.client, stage.server) for link in node.dataplane.links.open]


async def test_every_byte_arrives_in_order_with_many_streams_both_ways() -> None:
    async with pair(echo) as stage:

        async def carry(seed: int) -> None:
            program = await stage.connect()
            data = pattern(400_000 + seed * 7919, seed=seed)
            reading = asyncio.create_task(program.to_end())
            await program.send(data)
            program.end()
            assert await reading == data

        await asyncio.gather(*(carry(seed) for seed in range(30)))
