"""How programs come in that are not captured: SOCKS5 or HTTP CONNECT, on one port, told apart by the first byte.

Nothing is read beyond the request itself: the payload stays in the socket for the relay.
"""

import asyncio
import errno
import socket
from typing import Final, Protocol

from hbone.addr import Authority
from hbone.errors import (
    ConnectRefused,
    HboneError,
    NoAnswer,
    NoRoute,
    PeerViolation,
    PolicyDenied,
    UpstreamFailed,
    UpstreamTimeout,
)
from hbone.net.poller import Poller
from hbone.protocol import httpconnect, socks5
from hbone.times import Instant
from hbone.values import dataclass


class ProgramEntry(Protocol):
    """What is said to the program when its connection is up, or will not be.

    `optimistic`: its bytes may go before the answer. `tells`: a failure is put in words, which it must get to read.
    """

    optimistic: bool
    tells: bool

    def connected(self, sock: socket.socket) -> None: ...
    def failed(self, sock: socket.socket, error: HboneError) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a program wants to go, and how it is told what became of it."""

    target: Authority
    entry: ProgramEntry


class EntryTimeout(PeerViolation):
    """A program connected and did not say where to."""


class SocksEntry:
    """Answers in SOCKS5. The program speaks after the reply, so nothing may be sent for it before."""

    optimistic = False
    tells = True

    def connected(self, sock: socket.socket) -> None:
        _say(sock, socks5.reply(socks5.Reply.SUCCEEDED))

    def failed(self, sock: socket.socket, error: HboneError) -> None:
        _say(sock, socks5.reply(_socks_code(error)))


class HttpEntry:
    """Answers in HTTP/1.1."""

    optimistic = False
    tells = True

    def connected(self, sock: socket.socket) -> None:
        _say(sock, httpconnect.ESTABLISHED)

    def failed(self, sock: socket.socket, error: HboneError) -> None:
        status = 403 if _denied(error) else 504 if isinstance(error, UpstreamTimeout | NoAnswer) else 502
        _say(sock, httpconnect.refusal(status, str(error)))


class Told:
    """`negotiate` has answered the program already."""

    optimistic = False
    tells = True

    def connected(self, sock: socket.socket) -> None: ...
    def failed(self, sock: socket.socket, error: HboneError) -> None: ...


SOCKS: Final = SocksEntry()
HTTP: Final = HttpEntry()
TOLD: Final = Told()


async def negotiate(poller: Poller, sock: socket.socket, deadline: Instant) -> Wish:
    """Read the request of a program that just connected; raises PeerViolation after having answered it.

    The socket stays the caller's, whatever happens.
    """
    reader = _Reader(poller, sock)
    try:
        async with asyncio.timeout_at(deadline):
            first = await reader.peek(1)
            if first[:1] == bytes((socks5.VERSION,)):
                return Wish(await _socks(reader), SOCKS)
            return Wish(await _http(reader), HTTP)
    except TimeoutError as error:
        raise EntryTimeout(
            "a program connected and did not say where to", fix="speak SOCKS5 or HTTP CONNECT"
        ) from error
    except (socks5.SocksViolation, httpconnect.HttpViolation) as error:
        _say(sock, error.reply)
        raise
    except OSError as error:
        raise PeerViolation("a program went away before it said where to", why=error.strerror or "") from error


async def _socks(reader: "_Reader") -> Authority:
    head = await reader.exactly(2)
    greeting = head + await reader.exactly(socks5.greeting_bytes(head) - 2)
    _say(reader.sock, socks5.answer_greeting(greeting))
    head = await reader.exactly(5)
    return socks5.parse_request(head + await reader.exactly(socks5.request_bytes(head) - 5))


async def _http(reader: "_Reader") -> Authority:
    head = b""
    while True:
        more = await reader.peek(httpconnect.MAX_HEAD_BYTES)
        end = (head + more).find(httpconnect.END)
        if end >= 0:
            head += await reader.exactly(end + len(httpconnect.END) - len(head))
            return httpconnect.parse_head(head)
        head += await reader.exactly(len(more))
        if len(head) > httpconnect.MAX_HEAD_BYTES:
            raise httpconnect.too_large()
        if not head[:1].isalpha():
            raise httpconnect.HttpViolation("neither SOCKS5 nor HTTP", fix="speak SOCKS5 or HTTP CONNECT to this port")


class _Reader:
    """Reads just as much as asked from a non-blocking socket. Raises OSError when the program goes away."""

    def __init__(self, poller: Poller, sock: socket.socket) -> None:
        self.sock = sock
        self._poller = poller

    async def exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            data += await self._recv(n - len(data), 0)
        return data

    async def peek(self, n: int) -> bytes:
        """At least one byte, without taking it."""
        return await self._recv(n, socket.MSG_PEEK)

    async def _recv(self, n: int, flags: int) -> bytes:
        while True:
            try:
                data = self.sock.recv(n, flags)
            except (BlockingIOError, InterruptedError):
                await self._wait_readable()
                continue
            if not data:
                raise OSError(errno.ECONNRESET, "it closed the connection")
            return data

    async def _wait_readable(self) -> None:
        ready: asyncio.Future[None] = self._poller.loop.create_future()
        fd = self.sock.fileno()
        self._poller.add_reader(fd, lambda: _wake(ready))
        try:
            await ready
        finally:
            self._poller.remove_reader(fd)


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _say(sock: socket.socket, text: bytes) -> None:
    """A few bytes into a fresh socket: its buffer takes them. A program that has gone does not hear them."""
    try:
        sock.send(text)
    except OSError:
        pass


def _denied(error: HboneError) -> bool:
    return isinstance(error, PolicyDenied) or (
        isinstance(error, ConnectRefused) and getattr(error, "answer", 0) in {401, 403}
    )


def _socks_code(error: HboneError) -> socks5.Reply:
    if _denied(error):
        return socks5.Reply.NOT_ALLOWED
    if isinstance(error, UpstreamTimeout | NoAnswer | NoRoute):
        return socks5.Reply.HOST_UNREACHABLE
    if isinstance(error, UpstreamFailed):
        codes = {errno.ECONNREFUSED: socks5.Reply.REFUSED, errno.ENETUNREACH: socks5.Reply.NETWORK_UNREACHABLE}
        return codes.get(getattr(error, "errno", 0), socks5.Reply.HOST_UNREACHABLE)
    if isinstance(error, ConnectRefused):
        return socks5.Reply.REFUSED
    return socks5.Reply.FAILED
