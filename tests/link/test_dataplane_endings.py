"""How carried connections end: an end stays an end, a reset stays a reset, and every byte before it arrives."""

import asyncio
import time
from pathlib import Path

import pytest

from hbone.errors import ConnectionCut
from hbone.identity.svid import X509Svid
from hbone.net.dial import Dial
from hbone.protocol.codes import ErrorCode
from hbone.protocol.streams import Stream
from hbone.proxy.inbound_stream import InboundStream
from hbone.proxy.outbound_stream import OutboundStream
from tests.support import h2frames
from tests.support.framepeer import FramePeer, FrameServer, svid_of
from tests.support.garbage import no_garbage
from tests.support.mesh import DirectIssuer, Mesh, forward_of, pair
from tests.support.tcp import App, Tcp, digest, echo, eventually, pattern

MIB = 1 << 20


async def test_the_client_may_end_first_and_still_gets_what_the_server_sends_after() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        await program.send(b"question")
        program.end()
        assert await app.to_end() == b"question"
        await app.send(b"a late ")
        await asyncio.sleep(0.05)
        await app.send(b"answer")
        app.end()
        assert await program.to_end() == b"a late answer"
        assert 'error="' not in await stage.client.line()
        assert 'error="' not in await stage.server.line()


async def test_the_server_may_end_first_and_still_gets_what_the_client_sends_after() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        await app.send(b"that is all")
        app.end()
        assert await program.to_end() == b"that is all"
        await program.send(b"not ")
        await asyncio.sleep(0.05)
        await program.send(b"quite")
        program.end()
        assert await app.to_end() == b"not quite"
        assert 'error="' not in await stage.client.line()
        assert 'error="' not in await stage.server.line()


async def test_an_end_that_comes_with_the_first_bytes_is_carried_too() -> None:
    async with pair(echo) as stage:
        for payload in (b"", b"x", pattern(200_000)):
            program = await stage.connect()
            if payload:
                await program.send(payload)
            program.end()
            assert await program.to_end() == payload
            program.close()


async def test_a_connection_that_ended_leaves_nothing_to_the_collector() -> None:
    async with pair(echo) as stage:
        with no_garbage(InboundStream, OutboundStream, Stream, Dial):
            for ending in ("end", "reset"):
                program = await stage.connect()
                await program.send(b"x")
                assert await program.recv() == b"x"
                if ending == "end":
                    program.end()
                    assert await program.to_end() == b""
                    program.close()
                else:
                    program.reset()
            await stage.client.wait_lines(2)
            await stage.server.wait_lines(2)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_by_one_application_arrives_as_a_reset_at_the_other(who: str) -> None:
    async with pair() as stage:
        program, app = await stage.both()
        await program.send(b"hello")
        assert await app.recv() == b"hello"
        near, far = (program, app) if who == "client" else (app, program)
        near.reset()
        assert await far.ending() == "reset"
        assert 'error="' in await stage.client.line()
        assert 'error="' in await stage.server.line()


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_in_the_middle_of_a_transfer_is_never_taken_for_its_end(who: str) -> None:
    async with pair() as stage:
        program, app = await stage.both()
        sender, receiver = (program, app) if who == "client" else (app, program)
        sending = asyncio.create_task(sender.send(bytes(64 * MIB)))
        await receiver.exactly(MIB)
        sending.cancel()
        sender.reset()
        assert await receiver.ending() == "reset"


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_receiver_that_resets_stops_the_sender_with_a_reset(who: str) -> None:
    async with pair() as stage:
        program, app = await stage.both()
        sender, receiver = (program, app) if who == "client" else (app, program)
        sending = asyncio.create_task(sender.send(bytes(64 * MIB)))
        await receiver.exactly(MIB)
        receiver.reset()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending


async def test_a_server_that_dies_with_our_bytes_unread_shows_as_a_reset() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        await program.send(bytes(MIB))
        await app.recv(10)
        app.close()  # unread bytes: the kernel resets
        assert await program.ending() == "reset"


@pytest.mark.parametrize("which", ["client", "server"])
async def test_a_tunnel_lost_in_the_middle_of_a_transfer_resets_both_ends(which: str) -> None:
    async with pair() as stage:
        program, app = await stage.both()
        down = asyncio.create_task(app.send(bytes(64 * MIB)))
        await program.exactly(MIB)
        await (stage.client if which == "client" else stage.server).kill()
        assert await program.ending() == "reset"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await down
        for node in (stage.client, stage.server):
            assert 'error="' in await node.line()


async def test_clean_exits_are_ends_and_never_resets() -> None:
    async with pair() as stage:
        idle = [await stage.both() for _ in range(20)]
        for program, app in idle:
            await program.send(b"GET")
            assert await app.exactly(3) == b"GET"
            await app.send(b"200")
            assert await program.exactly(3) == b"200"
        for _, app in idle:
            app.close()
        for program, _ in idle:
            assert await program.ending() == "end"
            program.close()
        for node in (stage.client, stage.server):
            assert all('error="' not in line for line in await node.wait_lines(20))


async def test_a_server_that_writes_and_closes_at_once_loses_nothing_on_a_slow_reader() -> None:
    payload = pattern(16 * MIB)

    async def write_and_close(tcp: Tcp) -> None:
        await tcp.send(payload)

    async with pair(write_and_close) as stage:
        program = await stage.connect(receive_buffer=65_536)
        assert await program.digest_to_end(pause_s=0.002, piece=65_536) == (16 * MIB, digest(payload))
        program.close()
        assert 'error="' not in await stage.client.line()


async def test_a_client_that_writes_and_closes_at_once_loses_nothing_on_a_slow_server() -> None:
    payload = pattern(8 * MIB)
    async with pair() as stage:
        program = await stage.connect()
        sending = asyncio.create_task(program.send(payload))
        app = await stage.app.accept()
        reading = asyncio.create_task(app.digest_to_end(pause_s=0.002, piece=65_536))
        await sending
        program.close()
        assert await reading == (8 * MIB, digest(payload))


async def test_nobody_puts_a_time_limit_on_a_direction_that_goes_on_alone() -> None:
    async with pair(client={"timeouts": {"half_close_timeout_s": 0.1}}) as stage:
        program, app = await stage.both()
        program.end()
        assert await app.to_end() == b""
        for _ in range(12):  # more than a second of small pieces, each well within the limit
            await app.send(b"tick")
            await asyncio.sleep(0.04)
        app.end()
        assert await program.to_end() == b"tick" * 12


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_half_closed_connection_that_goes_silent_is_cut_if_a_limit_is_set(side: str) -> None:
    limit = {"timeouts": {"half_close_timeout_s": 0.1}}
    async with pair(client=limit if side == "client" else None, server=limit if side == "server" else None) as stage:
        program, app = await stage.both()
        program.end()
        assert await app.to_end() == b""
        assert await program.ending() == "reset"
        node = stage.client if side == "client" else stage.server
        assert "half-closed for 0.1 s" in await node.line()


async def test_a_greeting_arrives_at_once_though_the_client_says_nothing() -> None:
    async def greet(tcp: Tcp) -> None:
        await tcp.send(b"220 ready\r\n")
        await tcp.to_end()

    async with pair(greet) as stage:
        first = await stage.connect()
        await first.recv()  # the tunnel is up now
        took_s: list[float] = []
        for _ in range(5):
            began = time.perf_counter()
            program = await stage.connect()
            assert await program.recv() == b"220 ready\r\n"
            took_s.append(time.perf_counter() - began)
            program.close()
        first.close()
        assert sorted(took_s)[2] < 0.02, took_s  # the median: this machine has other work


async def test_an_answer_that_comes_before_the_question_is_whole_arrives_though_the_rest_is_unwanted() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        uploading = asyncio.create_task(program.send(bytes(64 * MIB)))
        await app.exactly(100_000)
        await app.send(b"413 too large")
        app.end()
        assert await program.exactly(13) == b"413 too large"
        uploading.cancel()
        program.close()


async def cart_of(mesh: Mesh) -> X509Svid:
    return await svid_of(DirectIssuer(mesh.authority), "shop/cart")


async def test_a_server_that_has_answered_and_wants_no_more_is_a_clean_end_for_the_program() -> None:
    answer = pattern(3 * MIB)

    async def answer_early(peer: FramePeer) -> None:
        stream = (await peer.until("HEADERS")).stream_id
        peer.send(h2frames.headers(stream, h2frames.OK))
        await peer.until("DATA", stream)
        peer.send(*(h2frames.data(stream, answer[at : at + 16_384]) for at in range(0, len(answer), 16_384)))
        peer.send(h2frames.data(stream, end=True), h2frames.rst_stream(stream, ErrorCode.NO_ERROR))
        await peer.rest()

    async with (
        Mesh() as mesh,
        FrameServer(await cart_of(mesh), answer_early) as far,
    ):
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=far.address.port)
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}])
        async with await Tcp.connect(forward_of(client), receive_buffer=65_536) as program:
            uploading = asyncio.create_task(program.send(bytes(32 * MIB)))
            assert await program.digest_to_end(pause_s=0.0005, piece=65_536) == (len(answer), digest(answer))
            uploading.cancel()
        assert 'error="' not in await client.line()


async def test_an_application_that_ended_and_then_left_does_not_spoil_its_answer() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        await program.send(b"question")
        await app.exactly(8)
        await app.send(b"answer")
        app.end()
        assert await program.to_end() == b"answer"
        app.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await program.send(bytes(65_536))
        assert 'error="' not in await stage.client.line()
        assert "the application closed before it took everything" in await stage.server.line()


async def test_bytes_that_come_before_the_application_is_connected_wait_for_it() -> None:
    payload = pattern(60_000)
    async with App() as app, Mesh() as mesh:
        full = await app.stop_answering()
        await mesh.node("shop/cart", "127.0.1.1")
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        async with await Tcp.connect(forward_of(client)) as program:
            await program.send(payload)
            program.end()
            await asyncio.sleep(0.05)
            app.answer_again()
            for tcp in full:
                tcp.close()
                (await app.accept()).close()
            server = await app.accept()  # with the kernel's next SYN
            assert await server.to_end() == payload
            await server.send(b"thanks")
            server.close()
            assert await program.to_end() == b"thanks"


async def test_resets_on_the_wire_carry_connect_error_and_cancel() -> None:
    async with pair() as stage:
        program, app = await stage.both()
        app.reset()
        assert await program.ending() == "reset"
        assert "RST_STREAM CONNECT_ERROR" in await stage.client.line()
        second, other = await stage.both()
        for connection in stage.server.dataplane.registry:
            connection.cut(ConnectionCut("a test's whim"))
        assert await second.ending() == "reset"
        assert await other.ending() == "reset"
        assert "RST_STREAM CANCEL" in (await stage.client.wait_lines(2))[1]
        assert "a test's whim" in (await stage.server.wait_lines(2))[1]


async def test_descriptors_and_memory_of_ended_connections_come_back() -> None:
    async with pair(echo) as stage:

        async def round_of(count: int) -> None:
            for number in range(count):
                program = await stage.connect()
                await program.send(b"x" * 100)
                assert await program.exactly(100) == b"x" * 100
                if number % 2:
                    program.reset()
                else:
                    program.close()
            stage.programs.clear()
            for node in (stage.client, stage.server):
                await node.quiet()
            await eventually(lambda: not stage.app.open)

        await round_of(20)
        before = descriptors()
        await round_of(100)
        assert abs(descriptors() - before) <= 5


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_behind_when_connections_end_in_every_way() -> None:
    async with pair() as stage:
        for way in range(40):
            program, app = await stage.both()
            await program.send(b"x" * 1000)
            match way % 4:
                case 0:
                    program.close()
                    await app.ending()
                case 1:
                    app.reset()
                    await program.ending()
                case 2:
                    program.reset()
                    await app.ending()
                case _:
                    program.end()
                    await app.to_end()
                    app.close()
                    await program.ending()
            program.close()
            app.close()
        for node in (stage.client, stage.server):
            await node.quiet()
            assert all(tunnel.streams == 0 for tunnel in node.dataplane.tunnels())
            assert len(await node.wait_lines(40)) == 40
