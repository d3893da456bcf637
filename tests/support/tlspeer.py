"""Both ends of a TCP connection in one process, and a stranger to speak TLS with: the standard library's ssl."""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from hbone.net import handshake
from hbone.net.tls import WANT, ReadBuffer, TlsStream
from hbone.net.tlscontext import TlsContexts
from hbone.times import Instant


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """(connecting, accepted): a real TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def soon(limit_s: float = 10) -> Instant:
    return Instant(asyncio.get_running_loop().time() + limit_s)


@dataclass
class Meeting:
    """How a handshake between two of ours went: a stream or an error at each end."""

    client: TlsStream | HboneError
    server: TlsStream | HboneError

    def streams(self) -> tuple[TlsStream, TlsStream]:
        assert isinstance(self.client, TlsStream), self.client
        assert isinstance(self.server, TlsStream), self.server
        return self.client, self.server

    def close(self) -> None:
        for end in (self.client, self.server):
            if isinstance(end, TlsStream):
                end.close()


async def meet(client: TlsContexts, server: TlsContexts, *, expected: frozenset[SpiffeId] | None = None) -> Meeting:
    """Shake hands. The client expects the server's own identity unless told otherwise."""
    near, far = tcp_pair()
    wanted = frozenset({server.svid.spiffe_id}) if expected is None else expected

    async def ours(coroutine: Any) -> TlsStream | HboneError:
        try:
            return await coroutine  # type: ignore[no-any-return]
        except HboneError as error:
            return error

    first, second = await asyncio.gather(
        ours(handshake.connect(near, client, expected=wanted, deadline=soon())),
        ours(handshake.accept(far, server, deadline=soon())),
    )
    return Meeting(first, second)


async def refused_client(client: TlsContexts, server: TlsContexts) -> tuple[HboneError | None, HboneError | None]:
    """(what the client learns, why the server refused); None where nothing was wrong.

    The client is done with its handshake before the server has judged it, reads, and closes on what it reads.
    """
    near, far = tcp_pair()
    wanted = frozenset({server.svid.spiffe_id})

    async def connect() -> HboneError | None:
        try:
            stream = await handshake.connect(near, client, expected=wanted, deadline=soon())
        except HboneError as error:
            return error
        try:
            await read(stream)
        except HboneError as error:
            return error
        finally:
            stream.close()
        return None

    async def accept() -> HboneError | None:
        try:
            stream = await handshake.accept(far, server, deadline=soon())
        except HboneError as error:
            return error
        stream.shutdown()
        stream.close()
        return None

    return await asyncio.gather(connect(), accept())


async def read(stream: TlsStream, buffer: ReadBuffer | None = None) -> bytes:
    """The next bytes, b"" after a goodbye."""
    buffer = buffer or ReadBuffer()
    while (count := stream.read_into(buffer, 0)) == WANT:
        await _readable(stream.fd)
    return bytes(buffer.view[:count])


async def _readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(10):
            await ready.wait()
    finally:
        loop.remove_reader(fd)


@dataclass
class Seen:
    """What a stranger saw: the reason of its TLS error ("" for none), bytes read, ALPN and version agreed on."""

    error: str = ""
    data: bytes = b""
    alpn: str | None = None
    version: str | None = None
    session: ssl.SSLSession | None = None


def stranger_context(
    purpose: ssl.Purpose, directory: Path, svid: X509Svid | None, *, alpn: tuple[str, ...] = ("h2",)
) -> ssl.SSLContext:
    """A context that checks nothing about its peer. `purpose` CLIENT_AUTH is the server's side."""
    context = ssl.create_default_context(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if svid is not None:
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(svid.chain_pem())
        key.write_bytes(svid.key_pem())
        context.load_cert_chain(chain, key)
    return context


async def stranger(sock: socket.socket, context: ssl.SSLContext, **options: Any) -> Seen:
    """Shake hands in a thread, say b"hello", read to the end. Takes `sock` over."""
    return await asyncio.to_thread(_stranger, sock, context, options)


def _stranger(sock: socket.socket, context: ssl.SSLContext, options: dict[str, Any]) -> Seen:
    seen = Seen()
    sock.settimeout(10)
    try:
        with context.wrap_socket(sock, **options) as tls:
            seen.alpn, seen.version = tls.selected_alpn_protocol(), tls.version()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                tls.sendall(b"hello")
            while piece := tls.recv(65536):
                seen.data += piece
                seen.session = tls.session
    except ssl.SSLError as error:
        seen.error = error.reason or str(error)  # this Python may not know a newer alert by its code
    except OSError as error:
        seen.error = type(error).__name__
    return seen
