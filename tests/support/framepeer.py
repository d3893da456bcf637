"""HBONE peers made of single frames: the standard library's TLS, and HTTP/2 written out by hand.

They keep no rule that a test does not make them keep. See `tests.support.h2frames` for the frames.
"""

import asyncio
import ssl
import struct
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import hpack

from hbone.addr import SocketAddress
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from tests.support import h2frames
from tests.support.h2frames import NAMES, PREFACE, Fields, Frame
from tests.support.mesh import DirectIssuer
from tests.support.tcp import LIMIT_S


def connect_to(authority: object, *more: tuple[bytes, bytes]) -> Fields:
    """The header list of a CONNECT."""
    return ((b":method", b"CONNECT"), (b":authority", str(authority).encode()), *more)


async def svid_of(issuer: DirectIssuer, account: str) -> X509Svid:
    """A certificate for NAMESPACE/ACCOUNT of the issuer's trust domain."""
    namespace, _, name = account.partition("/")
    return (await issuer.fetch(SpiffeId.parse(f"spiffe://cluster.local/ns/{namespace}/sa/{name}"))).svid


def tls_context(purpose: ssl.Purpose, svid: X509Svid | None) -> ssl.SSLContext:
    """A context that judges nobody. `purpose` CLIENT_AUTH is a server's."""
    context = ssl.create_default_context(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if svid is not None:
        with tempfile.TemporaryDirectory() as place:
            chain, key = Path(place, "chain.pem"), Path(place, "key.pem")
            chain.write_bytes(svid.chain_pem())
            key.write_bytes(svid.key_pem())
            context.load_cert_chain(chain, key)
    return context


class FramePeer:
    """One end of an HTTP/2 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = hpack.Decoder()
        self.settings: dict[int, int] = {}

    @classmethod
    async def connect(cls, address: SocketAddress, svid: X509Svid | None, *, greet: bool = True) -> "FramePeer":
        """As a client of an inbound proxy; with `greet` the preface and empty SETTINGS are sent."""
        context = tls_context(ssl.Purpose.SERVER_AUTH, svid)
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection(
                str(address.ip), address.port, ssl=context, server_hostname="", limit=1 << 24
            )
        peer = cls(reader, writer)
        if greet:
            peer.send(PREFACE + h2frames.settings())
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        with suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    def close(self) -> None:
        self.writer.transport.abort()

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def sent(self) -> None:
        """Until the peer has taken most of what was sent."""
        async with asyncio.timeout(LIMIT_S):
            await self.writer.drain()

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the connection, however it came."""
        try:
            async with asyncio.timeout(LIMIT_S):
                head = await self.reader.readexactly(9)
                kind, flags, stream_id = struct.unpack_from(">BBL", head, 3)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError):
            return None
        frame = Frame(NAMES.get(kind, hex(kind)), stream_id, flags, payload)
        if frame.name == "SETTINGS" and not flags & 1:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from(">HL", payload, at)
                self.settings[key] = value
            self.send(h2frames.settings_ack())
        return frame

    async def until(self, name: str, stream_id: int | None = None) -> Frame:
        """The next frame of this kind, others skipped; fails at the end of the connection."""
        while True:
            frame = await self.frame()
            assert frame is not None, f"the connection ended before {name}"
            if frame.name == name and stream_id in {None, frame.stream_id}:
                return frame

    async def rest(self) -> list[Frame]:
        """All frames until the connection ends."""
        frames: list[Frame] = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    def fields(self, frame: Frame) -> dict[str, str]:
        """The header list of a HEADERS frame; each must be decoded, in order."""
        listed = self._decoder.decode(frame.payload, raw=True)
        return {name.decode(): value.decode() for name, value in listed}

    async def answer(self, stream_id: int) -> dict[str, str]:
        """The response on a stream."""
        return self.fields(await self.until("HEADERS", stream_id))

    async def data(self, stream_id: int, n: int) -> bytes:
        """At least `n` bytes of DATA of one stream, credited as they come."""
        got = bytearray()
        while len(got) < n:
            frame = await self.until("DATA", stream_id)
            got += frame.payload
            if frame.payload:
                size = len(frame.payload)
                self.send(h2frames.window_update(0, size), h2frames.window_update(stream_id, size))
        return bytes(got)


Script = Callable[[FramePeer], Awaitable[None]]


class FrameServer:
    """An HBONE server at `ip` that runs `script` for each tunnel, after having sent its SETTINGS; with `settings` None
    the script sends them."""

    def __init__(
        self,
        svid: X509Svid,
        script: Script,
        ip: str = "127.0.1.1",
        *,
        settings: Mapping[int, int] | None = MappingProxyType({}),
    ) -> None:
        self._context = tls_context(ssl.Purpose.CLIENT_AUTH, svid)
        self._script = script
        self._ip = ip
        self._settings = None if settings is None else dict(settings)
        self.peers: list[FramePeer] = []
        self.failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._ip, 0, ssl=self._context, limit=1 << 24)
        self.address = SocketAddress.of(self._server.sockets[0].getsockname())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for peer in self.peers:
            peer.close()
        await asyncio.sleep(0)
        if kind is None:
            assert not self.failures, self.failures

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = FramePeer(reader, writer)
        self.peers.append(peer)
        try:
            assert await reader.readexactly(len(PREFACE)) == PREFACE
            if self._settings is not None:
                peer.send(h2frames.settings(self._settings))
            await self._script(peer)
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError):
            pass  # the client broke off
        except Exception as error:  # told to the test, which waits elsewhere
            self.failures.append(error)
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's streams would report it as an error
        finally:
            peer.close()


async def echo_script(peer: FramePeer) -> None:
    """Answers each CONNECT with 200 and sends back what comes."""
    while (frame := await peer.frame()) is not None:
        if frame.name == "HEADERS":
            peer.fields(frame)
            peer.send(h2frames.headers(frame.stream_id, h2frames.OK))
        elif frame.name == "DATA":
            size = len(frame.payload)
            if size:
                peer.send(h2frames.window_update(0, size), h2frames.window_update(frame.stream_id, size))
            peer.send(h2frames.data(frame.stream_id, frame.payload, end=bool(frame.flags & 1)))
