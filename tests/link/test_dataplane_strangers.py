"""Peers that break every rule: a bounded answer, one access line that says why, and nobody else is disturbed."""

import asyncio
import os
import socket
import ssl
import struct
from typing import Self

import pytest

from hbone.protocol.codes import ErrorCode
from tests.support import h2frames
from tests.support.framepeer import FramePeer, connect_to, svid_of, tls_context
from tests.support.h2frames import PREFACE
from tests.support.mesh import Pair, pair
from tests.support.tcp import Tcp, echo, eventually

CALM = ErrorCode.ENHANCE_YOUR_CALM


async def client_of(stage: Pair) -> FramePeer:
    address = stage.server.dataplane.address("inbound")
    return await FramePeer.connect(address, await svid_of(stage.server.issuer, "web/web"))


class Witness:
    """A connection that lives through it all."""

    def __init__(self, stage: Pair) -> None:
        self._stage = stage

    async def __aenter__(self) -> Self:
        self._program = await self._stage.connect()
        await self.check()
        return self

    async def check(self) -> None:
        data = os.urandom(1000)
        await self._program.send(data)
        assert await self._program.exactly(1000) == data

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.check()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT 127.0.1.1:80 HTTP/1.1\r\n\r\n",
        PREFACE + h2frames.settings(),
        b"\x16\x03\x01\x00\x05hello",
        b"SSH-2.0-OpenSSH_9\r\n",
    ],
)
async def test_garbage_instead_of_tls_gets_one_access_line(garbage: bytes) -> None:
    async with pair(echo) as stage, Witness(stage):
        async with await Tcp.connect(stage.server.dataplane.address("inbound")) as stranger:
            await stranger.send(garbage)
            await stranger.ending()
            own = stranger.sock.getsockname()
        line = await stage.server.line()
        assert "connection failed" in line
        assert f"src.addr={own[0]}:{own[1]}" in line
        assert "error=" in line


async def test_who_connects_and_says_nothing_is_turned_away_at_the_deadline() -> None:
    async with pair(echo, server={"timeouts": {"handshake_timeout_s": 0.1}}) as stage, Witness(stage):
        async with await Tcp.connect(stage.server.dataplane.address("inbound")) as stranger:
            assert await stranger.ending() in {"end", "reset"}
        assert "TLS handshake was not done in time" in await stage.server.line()


async def test_tls_without_a_certificate_is_refused_with_an_alert() -> None:
    async with pair(echo) as stage, Witness(stage):
        async with await FramePeer.connect(stage.server.dataplane.address("inbound"), None) as stranger:
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                while True:
                    await stranger.reader.readexactly(1)
        assert "no certificate" in (await stage.server.line()).lower()


async def test_tls_without_h2_is_refused() -> None:
    async with pair(echo) as stage, Witness(stage):
        context = tls_context(ssl.Purpose.SERVER_AUTH, await svid_of(stage.server.issuer, "web/web"))
        context.set_alpn_protocols(["http/1.1"])
        address = stage.server.dataplane.address("inbound")
        with pytest.raises((ssl.SSLError, OSError)):
            _, writer = await asyncio.open_connection(str(address.ip), address.port, ssl=context, server_hostname="")
            writer.transport.abort()
        assert "h2" in await stage.server.line() or "application protocol" in await stage.server.line()


async def test_http1_inside_tls_ends_that_tunnel_alone() -> None:
    async with pair(echo) as stage, Witness(stage):
        svid = await svid_of(stage.server.issuer, "web/web")
        async with await FramePeer.connect(stage.server.dataplane.address("inbound"), svid, greet=False) as stranger:
            stranger.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            frames = await stranger.rest()
        assert frames[-1].name == "GOAWAY"
        assert frames[-1].code == ErrorCode.PROTOCOL_ERROR
        assert "does not speak HTTP/2" in await stage.server.line()


FLOODS = {
    "SETTINGS": (h2frames.settings() * 5000, CALM),
    "PING": (h2frames.ping() * 100_000, CALM),
    "rapid reset": (b"", CALM),
    "endless CONTINUATION": (
        h2frames.raw(1, 0, 1, b"\x88") + h2frames.raw(9, 0, 1, b"") * 10_000,
        CALM,
    ),
    "header bomb": (h2frames.raw(1, 4, 1, b"\x40\x01a\x7f\x49" + b"b" * 200 + b"\xbe" * 60_000), CALM),
    "empty DATA": (b"", CALM),
    "PRIORITY": (h2frames.priority(1) * 50_000, CALM),
    "unknown frames": (h2frames.raw(0xEE, 0, 0, b"") * 50_000, CALM),
    "WINDOW_UPDATE overflow": (h2frames.window_update(0, 2**31 - 1) * 2, ErrorCode.FLOW_CONTROL_ERROR),
    "frames before SETTINGS acknowledged out of turn": (h2frames.settings_ack() * 3, ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_the_tunnel_it_comes_in_and_no_other(name: str) -> None:
    flood, code = FLOODS[name]
    async with pair(echo) as stage, Witness(stage):
        connect = h2frames.headers(1, connect_to(stage.app.address))
        match name:
            case "rapid reset":
                block = connect_to(stage.app.address)
                flood = b"".join(h2frames.headers(i, block) + h2frames.rst_stream(i) for i in range(1, 20_001, 2))
            case "empty DATA":
                flood = connect + h2frames.data(1) * 20_000
            case _:
                pass
        async with await client_of(stage) as stranger:
            stranger.send(flood)
            frames = await stranger.rest()
            if frames and frames[-1].name == "GOAWAY":
                assert frames[-1].code == code
        await eventually(lambda: any(code.name in line for line in stage.server.lines()))
        await eventually(lambda: len(stage.server.dataplane.tunnels()) == 1)
        told = [line for line in stage.server.lines() if f"GOAWAY {code.name}" in line and "connection failed" in line]
        assert len(told) == 1, told


async def test_data_after_the_end_costs_the_peer_that_stream_only() -> None:
    async with pair() as stage, await client_of(stage) as stranger:
        stranger.send(h2frames.headers(1, connect_to(stage.app.address)), h2frames.data(1, b"x", end=True))
        app = await stage.app.accept()
        assert await app.to_end() == b"x"
        stranger.send(h2frames.data(1, b"more"))
        assert (await stranger.until("RST_STREAM", 1)).code == ErrorCode.STREAM_CLOSED
        assert await app.ending() == "end"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                await app.send(bytes(65_536))
        stranger.send(h2frames.headers(3, connect_to(stage.app.address)))
        assert (await stranger.answer(3))[":status"] == "200"


async def test_one_byte_windows_are_served_byte_by_byte() -> None:
    async with pair() as stage:
        address = stage.server.dataplane.address("inbound")
        svid = await svid_of(stage.server.issuer, "web/web")
        async with await FramePeer.connect(address, svid, greet=False) as stranger:
            stranger.send(PREFACE + h2frames.settings({4: 1}), h2frames.headers(1, connect_to(stage.app.address)))
            assert (await stranger.answer(1))[":status"] == "200"
            app = await stage.app.accept()
            await app.send(b"drip")
            got = b""
            for _ in range(4):
                frame = await stranger.until("DATA", 1)
                assert len(frame.payload) == 1
                got += frame.payload
                stranger.send(h2frames.window_update(1, 1))
            assert got == b"drip"


async def test_a_window_that_shrinks_below_zero_pauses_and_goes_on() -> None:
    async with pair() as stage, await client_of(stage) as stranger:
        stranger.send(h2frames.headers(1, connect_to(stage.app.address)))
        app = await stage.app.accept()
        sending = asyncio.create_task(app.send(bytes(100_000)))
        assert len((await stranger.until("DATA", 1)).payload) > 0
        stranger.send(h2frames.settings({4: 10}))
        stranger.send(h2frames.window_update(0, 200_000), h2frames.window_update(1, 200_000))
        await sending
        app.end()
        while not (await stranger.until("DATA", 1)).flags & 1:
            pass


async def test_a_thousand_connects_without_a_byte_hold_their_streams_and_no_more() -> None:
    async with (
        pair(server={"http2": {"max_streams_per_connection_inbound": 50}}) as stage,
        await client_of(stage) as peer,
    ):
        block = connect_to(stage.app.address)
        peer.send(*(h2frames.headers(i, block) for i in range(1, 2001, 2)))
        refused = 0
        while refused < 950:
            assert (await peer.until("RST_STREAM")).code == ErrorCode.REFUSED_STREAM
            refused += 1
        assert len(stage.server.dataplane.connections()) == 50
        peer.send(h2frames.ping())
        await peer.until("PING")


async def test_half_open_handshakes_are_bounded_and_the_rest_is_told_why() -> None:
    async with pair(echo, server={"limits": {"max_half_open_handshakes": 3}}) as stage:
        address = stage.server.dataplane.address("inbound")
        silent = [await Tcp.connect(address) for _ in range(3)]
        await asyncio.sleep(0.02)
        async with await Tcp.connect(address) as fourth:
            assert await fourth.ending() in {"end", "reset"}
        assert "the limit max_handshakes is reached" in await stage.server.line()
        for tcp in silent:
            tcp.close()


async def test_a_reset_while_the_handshake_runs_is_one_line_and_no_more() -> None:
    async with pair(echo) as stage, Witness(stage):
        tcp = await Tcp.connect(stage.server.dataplane.address("inbound"))
        await tcp.send(b"\x16\x03\x01\x02\x00\x01")
        tcp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tcp.close()
        assert "connection failed" in await stage.server.line()
