"""The end of a node: open connections finish, new ones are refused, and the deadline cuts the rest with a reset."""

import asyncio
import time

import pytest

from hbone.protocol.codes import ErrorCode
from tests.support import h2frames
from tests.support.framepeer import FramePeer, connect_to, svid_of
from tests.support.mesh import Node, forward_of, pair
from tests.support.tcp import Tcp, digest, echo, eventually, pattern

MIB = 1 << 20


def drain(node: Node, deadline_s: float) -> "asyncio.Task[int]":
    return asyncio.create_task(node.dataplane.drain(deadline_s))


@pytest.mark.parametrize("side", ["client", "server"])
async def test_open_connections_finish_and_the_drain_ends_with_the_last_one(side: str) -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"before")
        assert await program.exactly(6) == b"before"
        draining = drain(stage.client if side == "client" else stage.server, 10)
        await asyncio.sleep(0.2)
        await program.send(b"during")
        assert await program.exactly(6) == b"during"
        assert not draining.done()
        program.end()
        assert await program.to_end() == b""
        assert await asyncio.wait_for(draining, 2) == 0
        assert 'error="' not in await stage.client.line()
        assert 'error="' not in await stage.server.line()


async def test_new_connections_are_refused_from_the_first_moment() -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        draining = drain(stage.client, 10)
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            await Tcp.connect(forward_of(stage.client))
        program.close()
        assert await draining == 0


async def test_a_drained_server_takes_no_new_connection_of_a_client_that_has_a_tunnel() -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        draining = drain(stage.server, 10)
        await asyncio.sleep(0.2)
        late = await stage.connect()
        assert await late.ending() == "reset"
        assert "Connection refused" in await stage.client.line()
        program.close()
        assert await draining == 0


@pytest.mark.parametrize("side", ["client", "server"])
async def test_the_deadline_cuts_what_is_left_with_a_reset(side: str) -> None:
    async with pair() as stage:
        program, app = await stage.both()
        node = stage.client if side == "client" else stage.server
        began = time.perf_counter()
        assert await node.dataplane.drain(0.2) == 1
        assert time.perf_counter() - began < 1
        assert await program.ending() == "reset"
        assert await app.ending() == "reset"
        assert "connection closed due to connection drain" in await node.line()


async def test_a_drain_with_nothing_open_is_over_at_once() -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        program.close()
        await stage.client.quiet()
        await stage.server.quiet()
        began = time.perf_counter()
        assert await stage.client.dataplane.drain(10) == 0
        assert await stage.server.dataplane.drain(10) == 0
        assert time.perf_counter() - began < 1.5


async def test_goaway_comes_twice_and_streams_opened_between_are_served() -> None:
    async with pair(echo) as stage:
        address = stage.server.dataplane.address("inbound")
        async with await FramePeer.connect(address, await svid_of(stage.server.issuer, "web/web")) as client:
            client.send(h2frames.headers(1, connect_to(stage.app.address)))
            assert (await client.answer(1))[":status"] == "200"
            draining = drain(stage.server, 10)
            first = await client.until("GOAWAY")
            assert first.payload[:8] == h2frames.goaway(2**31 - 1)[9:17]
            client.send(h2frames.headers(3, connect_to(stage.app.address)))
            assert (await client.answer(3))[":status"] == "200"
            second = await client.until("GOAWAY")
            assert second.payload[:8] == h2frames.goaway(3)[9:17]
            client.send(h2frames.headers(5, connect_to(stage.app.address)))
            assert (await client.until("RST_STREAM", 5)).code == ErrorCode.REFUSED_STREAM
            client.send(h2frames.data(3, b"still here"))
            assert await client.data(3, 10) == b"still here"
            for stream in (1, 3):
                client.send(h2frames.data(stream, end=True))
            rest = await client.rest()
            assert "GOAWAY" not in {frame.name for frame in rest}
            assert await draining == 0


async def test_a_transfer_that_ends_during_the_drain_is_whole() -> None:
    payload = pattern(16 * MIB)

    async def pour(tcp: Tcp) -> None:
        await tcp.send(payload)

    async with pair(pour) as stage:
        program = await stage.connect(receive_buffer=65_536)
        reading = asyncio.create_task(program.digest_to_end(pause_s=0.001, piece=65_536))
        await eventually(stage.server.dataplane.connections)
        draining = drain(stage.server, 20)
        assert await reading == (len(payload), digest(payload))
        program.close()
        assert await draining == 0
        assert 'error="' not in await stage.client.line()


async def test_an_upload_that_ends_during_the_clients_drain_is_whole() -> None:
    payload = pattern(16 * MIB)
    async with pair() as stage:
        program = await stage.connect()
        sending = asyncio.create_task(program.send(payload))
        app = await stage.app.accept()
        draining = drain(stage.client, 20)
        reading = asyncio.create_task(app.digest_to_end(pause_s=0.001, piece=65_536))
        await sending
        program.close()
        assert await reading == (len(payload), digest(payload))
        app.close()
        assert await draining == 0


async def test_a_handshake_that_ends_during_the_drain_gets_goaway_too() -> None:
    async with pair(echo) as stage:
        held = await stage.connect()
        await held.send(b"x")
        assert await held.exactly(1) == b"x"
        address = stage.server.dataplane.address("inbound")
        svid = await svid_of(stage.server.issuer, "web/web")
        connecting = asyncio.create_task(FramePeer.connect(address, svid))
        await eventually(lambda: stage.server.dataplane.inbound.handshakes)
        draining = drain(stage.server, 10)
        async with await connecting as late:
            await late.until("GOAWAY")
        held.close()
        assert await draining == 0


async def test_nothing_of_a_drained_node_is_left() -> None:
    async with pair(echo) as stage:
        for _ in range(5):
            await stage.connect()
        await stage.client.dataplane.drain(0.05)
        await stage.server.dataplane.drain(0.05)
        for node in (stage.client, stage.server):
            assert not node.dataplane.connections()
            assert not node.dataplane.tunnels()
            assert not len(node.dataplane.links.open)
            assert not len(node.dataplane.links.closing)
