"""Tunnels whose peer is gone are found out; tunnels whose peer is merely slow are left alone."""

import asyncio
import socket
from typing import Any

import pytest

from hbone.proxy.inbound_stream import InboundStream
from tests.support import h2frames
from tests.support.framepeer import FramePeer, FrameServer, connect_to, svid_of
from tests.support.mesh import DirectIssuer, Mesh, forward_of, pair
from tests.support.tcp import Tcp, digest, echo, eventually, pattern

MIB = 1 << 20
QUICK: dict[str, Any] = {"timeouts": {"ping_interval_s": 0.1, "ping_timeout_s": 0.3}}
PATIENT: dict[str, Any] = {"timeouts": {"ping_interval_s": 0.1, "ping_timeout_s": 1.0}}
DOZE_S = 2.0  # longer than either


async def awake(peer: FramePeer, stream_id: int, n: int) -> bytes:
    """So many bytes of a stream, by a peer that answers PINGs meanwhile, as each must."""
    got = bytearray()
    while len(got) < n:
        frame = await peer.frame()
        assert frame is not None, f"the connection ended after {len(got)} bytes"
        if frame.name == "PING" and not frame.flags & 1:
            peer.send(h2frames.ping(frame.payload, ack=True))
        elif frame.name == "DATA" and frame.stream_id == stream_id:
            got += frame.payload
    return bytes(got)


async def test_a_server_that_stops_answering_is_dropped_and_its_streams_are_reset() -> None:
    async def fall_silent(peer: FramePeer) -> None:
        frame = await peer.until("HEADERS")
        peer.send(h2frames.headers(frame.stream_id, h2frames.OK))
        while await peer.frame() is not None:  # PINGs too, without an answer
            pass

    async with Mesh() as mesh:
        svid = await svid_of(DirectIssuer(mesh.authority), "shop/cart")
        async with FrameServer(svid, fall_silent) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}], **QUICK)
            async with await Tcp.connect(forward_of(client)) as program:
                await program.send(b"anybody there?")
                assert await program.ending() == "reset"
            line = await client.line()
            assert "the tunnel's peer does not answer" in line
            assert not client.dataplane.tunnels()


async def test_a_client_that_stops_answering_is_dropped_and_the_application_sees_a_reset() -> None:
    async with pair(server=QUICK) as stage:
        address = stage.server.dataplane.address("inbound")
        async with await FramePeer.connect(address, await svid_of(stage.server.issuer, "web/web")) as client:
            client.send(h2frames.headers(1, connect_to(stage.app.address)))
            app = await stage.app.accept()
            assert await app.ending() == "reset"
            assert "PING" in {frame.name for frame in await client.rest()}
        assert "does not answer" in await stage.server.line()


async def test_peers_that_answer_are_kept_however_long_they_are_idle() -> None:
    async with pair(echo, client=QUICK, server=QUICK) as stage:
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        await asyncio.sleep(1.2)
        await program.send(b"y")
        assert await program.exactly(1) == b"y"


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_peer_that_reads_nothing_for_a_while_is_slow_and_not_dead(who: str) -> None:
    payload = pattern(14 * MIB)
    resume = asyncio.Event()

    async def doze(peer: FramePeer) -> None:
        frame = await peer.until("HEADERS")
        peer.send(h2frames.headers(frame.stream_id, h2frames.OK), h2frames.window_update(0, 64 * MIB))
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined] # an SSL transport reads
        await resume.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert digest(await awake(peer, frame.stream_id, len(payload))) == digest(payload)
        peer.send(h2frames.data(frame.stream_id, b"thanks", end=True))
        await peer.rest()

    if who == "server":
        async with Mesh() as mesh:
            svid = await svid_of(DirectIssuer(mesh.authority), "shop/cart")
            async with FrameServer(svid, doze, settings={4: 64 * MIB}) as server:
                mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
                client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}], **PATIENT)
                async with await Tcp.connect(forward_of(client)) as program:
                    sending = asyncio.create_task(program.send(payload))
                    await asyncio.sleep(DOZE_S)
                    assert client.dataplane.tunnels()
                    resume.set()
                    await sending
                    assert await program.to_end() == b"thanks"
        return
    async with pair(server=PATIENT) as stage:
        address = stage.server.dataplane.address("inbound")
        async with await FramePeer.connect(address, await svid_of(stage.server.issuer, "web/web"), greet=False) as peer:
            peer.send(h2frames.PREFACE + h2frames.settings({4: 64 * MIB}), h2frames.window_update(0, 64 * MIB))
            peer.send(h2frames.headers(1, connect_to(stage.app.address)))
            app = await stage.app.accept()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sending = asyncio.create_task(app.send(payload))
            await asyncio.sleep(DOZE_S)
            assert stage.server.dataplane.tunnels()
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert digest(await awake(peer, 1, len(payload))) == digest(payload)
            await sending


async def test_the_first_ping_waits_for_its_interval() -> None:
    async with pair(server=QUICK) as stage:
        address = stage.server.dataplane.address("inbound")
        async with await FramePeer.connect(address, await svid_of(stage.server.issuer, "web/web")) as client:
            began = asyncio.get_running_loop().time()
            first = await client.until("PING")
            assert asyncio.get_running_loop().time() - began > 0.05
            client.send(h2frames.ping(first.payload, ack=True))
            second = await client.until("PING")
            assert second.payload != first.payload
        await eventually(lambda: not stage.server.dataplane.tunnels())


async def test_a_connection_to_an_application_that_lasts_is_probed_as_the_settings_say() -> None:
    tcp = {"keepalive_time_s": 2, "keepalive_interval_s": 7, "keepalive_retries": 3}
    async with pair(echo, server={"tcp": tcp}) as stage, await stage.connect() as program:
        await program.send(b"x")
        await program.exactly(1)
        (carried,) = stage.server.dataplane.registry
        assert isinstance(carried, InboundStream)
        sock = carried.sock
        assert sock is not None
        await eventually(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [2, 7, 3]


async def test_without_keepalive_no_connection_to_an_application_is_probed() -> None:
    async with pair(echo, server={"tcp": {"keepalive_enabled": False}}) as stage, await stage.connect() as program:
        await program.send(b"x")
        await program.exactly(1)
        assert stage.server.dataplane.inbound.parts.keep_alives is None
        (carried,) = stage.server.dataplane.registry
        assert isinstance(carried, InboundStream)
        assert carried.sock is not None
        assert not carried.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
