"""The TLS handshake on the event loop: steps of a `TlsStream` while its socket is waited for, within a deadline."""

import asyncio
import socket
from typing import Final

from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.verify import PeerSide
from hbone.net import tlsbinding
from hbone.net.tls import PortableTlsStream, TlsStream
from hbone.net.tlsalert import HandshakeTimeout
from hbone.net.tlscontext import Judgement, TlsContexts
from hbone.times import Instant

LINGER_S: Final = 0.5  # how long a refused peer has to take the alert, before close() might reset it away
LINGER_BYTES: Final = 256 * 1024


async def accept(
    sock: socket.socket,
    contexts: TlsContexts,
    *,
    deadline: Instant,
    expected: frozenset[SpiffeId] | None = None,
) -> TlsStream:
    """Serve TLS to the client at `sock`, which may be of any trusted domain unless `expected` is given.

    Raises as `connect` does.
    """
    return await _shake_hands(sock, contexts, PeerSide.CLIENT, expected, deadline)


async def connect(
    sock: socket.socket,
    contexts: TlsContexts,
    *,
    expected: frozenset[SpiffeId] | None,
    deadline: Instant,
) -> TlsStream:
    """Speak TLS to the server at the connected `sock`, which must prove one of the `expected` identities.

    Takes `sock` over: when this raises, it is closed. Raises PeerRejected for a peer that we do not accept, TlsFailure
    for anything else, HandshakeTimeout (one of those) when `deadline` (of the event loop's clock) passes.
    """
    return await _shake_hands(sock, contexts, PeerSide.SERVER, expected, deadline)


async def _shake_hands(
    sock: socket.socket,
    contexts: TlsContexts,
    side: PeerSide,
    expected: frozenset[SpiffeId] | None,
    deadline: Instant,
) -> TlsStream:
    """`side` is what the *peer* is."""
    sock.setblocking(False)
    judgement = contexts.judgement(side=side, expected=expected)
    kind = TlsStream if tlsbinding.NATIVE else PortableTlsStream
    stream = kind(sock, contexts, side)
    contexts.begin(stream.connection, judgement)
    try:
        await _negotiate(stream, judgement, deadline)
        stream.finish(judgement)
    except BaseException as error:
        try:
            if isinstance(error, HboneError) and not isinstance(error, HandshakeTimeout):
                await _linger(sock, deadline)
        finally:
            sock.close()
        raise
    finally:
        contexts.end(stream.connection)
    return stream


async def _negotiate(stream: TlsStream, judgement: Judgement, deadline: Instant) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            while (want := stream.step(judgement)) != 0:
                await _ready(stream.fd, want)
    except TimeoutError as error:
        raise HandshakeTimeout(
            "the TLS handshake was not done in time",
            why="the peer stopped answering in the middle of it",
            fix="check that the port is an HBONE port and that the path carries large packets (MTU)",
        ) from error


async def _ready(fd: int, want: int) -> None:
    """Wait until `fd` can be read (WANT_READ) or written."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    if want == tlsbinding.WANT_READ:
        loop.add_reader(fd, wake)
    else:
        loop.add_writer(fd, wake)
    try:
        await ready
    finally:
        if want == tlsbinding.WANT_READ:
            loop.remove_reader(fd)
        else:
            loop.remove_writer(fd)


async def _linger(sock: socket.socket, deadline: Instant) -> None:
    """Give the peer the time to read our alert: closing with its bytes unread would reset the alert away."""
    loop = asyncio.get_running_loop()
    taken = 0
    try:
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout_at(min(loop.time() + LINGER_S, deadline)):
            while taken < LINGER_BYTES:
                try:
                    got = len(sock.recv(65536))
                except BlockingIOError:
                    await _ready(sock.fileno(), tlsbinding.WANT_READ)
                    continue
                if got == 0:
                    return
                taken += got
    except (OSError, TimeoutError):
        pass  # it is gone, or too slow: either way there is nothing more to tell it
