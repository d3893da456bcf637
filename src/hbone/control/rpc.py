"""Serving gRPC: who is at the other end, how much a message may hold, how it all ends.

This is the one place that knows grpclib's insides. What is added to it:

- the services are made per connection and know who is at its other end (`Peer`), so no handler asks a transport;
- a message has a length limit, which is looked at before it is read;
- a response may be bytes that are encoded already;
- nothing that a peer sends can end in a traceback;
- closing ends connections too, where grpclib waits for the clients to go.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from cryptography import x509
from google.protobuf.message import DecodeError, Message
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.const import Handler as Method
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchServerEvents  # pyright: ignore[reportPrivateUsage]  # Handler takes no other
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Stream
from h2.config import H2Configuration
from h2.events import UnknownFrameReceived
from h2.exceptions import H2Error

from hbone.addr import SocketAddress
from hbone.control.unixsocket import BACKLOG
from hbone.errors import HboneError
from hbone.net.clock import SystemClock
from hbone.telemetry.log import Occasional
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_Message = TypeVar("_Message", bound=Message)

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
_PREFIX = struct.Struct(">?I")  # compressed or not, length (gRPC over HTTP/2, "Length-Prefixed-Message")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixPeer:
    """The process at the other end of a Unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePeer:
    """The other end of a TCP connection. `chain`: the certificates it showed in the TLS handshake, leaf first; they
    lead to one of our roots, and nothing else is known of them. Empty without TLS or without a certificate."""

    address: SocketAddress
    chain: tuple[x509.Certificate, ...] = ()

    def __str__(self) -> str:
        return str(self.address)


Peer = UnixPeer | RemotePeer


class Servable(Protocol):
    """What grpclib generates for a service."""

    def __mapping__(self) -> dict[str, Method]: ...


class Refusal(HboneError):
    """A request that is answered with a gRPC status, `code`."""

    def __init__(self, code: Status, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.code = code


def peer_credentials(sock: socket.socket) -> UnixPeer:
    """Who is at the other end of a connected Unix socket; raises OSError."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return UnixPeer(pid=pid, uid=uid, gid=gid)


async def receive(stream: Stream[Any, Any], kind: type[_Message], *, max_bytes: int) -> _Message | None:
    """The next message of a stream, None at its end. Raises GRPCError for one that is too long or malformed."""
    body = stream._stream  # pyright: ignore[reportPrivateUsage]  # recv_message would read any length
    try:
        prefix = await body.recv_data(_PREFIX.size)
        if not prefix:
            return None
        compressed, length = _PREFIX.unpack(prefix)
        if compressed:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported")
        if length > max_bytes:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes; the limit is {max_bytes}")
        return kind.FromString(await body.recv_data(length))
    except AssertionError as error:  # how grpclib says that the stream ended inside a message
        raise GRPCError(Status.INVALID_ARGUMENT, "the request ends inside a message") from error
    except DecodeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request is not protobuf") from error


async def answer(stream: Stream[Any, Any], message: Message | bytes) -> None:
    """Send a message, encoded or not."""
    await stream.send_message(message)


class _Codec(ProtoCodec):
    """Takes what is encoded already as it is."""

    def encode(self, message: Any, message_type: Any) -> bytes:
        return message if isinstance(message, bytes) else super().encode(message, message_type)


class _Methods(dict[str, Method]):
    """By path. What is not there is answered by a method too: grpclib's own answer lacks the content-type, which
    makes UNKNOWN of UNIMPLEMENTED at the client."""

    def get(self, key: str, default: object = None) -> Method:
        return self[key] if key in self else Method(_unknown, Cardinality.STREAM_STREAM, Message, Message)


async def _unknown(_: Stream[Any, Any]) -> None:
    raise GRPCError(Status.UNIMPLEMENTED, "method not found")


PeerOf = Callable[[asyncio.BaseTransport], Peer]
"""Who is at the other end of a transport; raises OSError when it is gone."""


def unix_peer(transport: asyncio.BaseTransport) -> Peer:
    return peer_credentials(transport.get_extra_info("socket"))


class _Connection(H2Protocol):
    """One accepted connection. It is given its services once its peer is known."""

    def __init__(self, server: "RpcServer", peer_of: PeerOf) -> None:
        self._server = server
        self._peer_of = peer_of
        self._methods = _Methods()
        self._transport: asyncio.BaseTransport | None = None
        self._ready = False
        super().__init__(
            Handler(self._methods, _Codec(), None, _DispatchServerEvents()),
            Configuration().__for_server__(),
            H2Configuration(
                client_side=False,
                header_encoding="ascii",
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            ),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        try:
            peer = self._peer_of(transport)
        except OSError as error:
            self._server.by_peers.info("control connection without a peer", error=str(error)[:200])
            transport.close()
            return
        if not self._server.admit(self, peer):
            transport.close()
            return
        self._methods.update(self._server.methods(peer))
        super().connection_made(transport)
        # RFC 9113 §5.5: unknown frames are ignored; grpclib raises
        cast("dict[type[object], Callable[[Any], None]]", self.processor.processors)[UnknownFrameReceived] = _ignore
        self._ready = True

    def data_received(self, data: bytes) -> None:
        if not self._ready:
            return
        try:
            super().data_received(data)
        except Exception as error:  # h2 and grpclib raise KeyError and others on what a peer sends
            self._server.by_peers.info("control connection broken", error=repr(error)[:200])
            self.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.dismiss(self)
        if self._ready:
            super().connection_lost(exc)

    def close(self) -> None:
        if self._ready:
            self.processor.close("the server closed the connection")
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop what is still unsent, to a client that does not read."""
        with contextlib.suppress(AttributeError):  # Python 3.11.2's TLS transport, closed twice: it has ended
            cast("asyncio.WriteTransport", self._transport).abort()

    async def wait_closed(self) -> None:
        handler = self.handler
        if isinstance(handler, Handler):
            await handler.wait_closed()


def _ignore(_: object) -> None:
    pass


class RpcServer:
    """Serves connections: those it accepts on one Unix socket (`start`), and those that somebody else hands to a
    `connection`. `services` makes the handlers for a peer."""

    def __init__(self, services: Callable[[Peer], Sequence[Servable]], *, max_connections: int = 1024) -> None:
        self._services = services
        self._max_connections = max_connections
        self._connections: dict[_Connection, Peer] = {}
        self._server: asyncio.AbstractServer | None = None
        self.by_peers = Occasional(log, SystemClock())
        """For what any peer can cause, without proving who it is."""

    async def start(self, listening: socket.socket) -> None:
        """Accept on a bound and listening socket, which is ours from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: self.connection(unix_peer), sock=listening, backlog=BACKLOG
        )

    def connection(self, peer_of: PeerOf) -> asyncio.Protocol:
        """The protocol of one connection that is about to be made."""
        return _Connection(self, peer_of)

    def peers(self) -> tuple[Peer, ...]:
        """Of all open connections."""
        return tuple(self._connections.values())

    def disconnect(self, which: Callable[[Peer], bool]) -> int:
        """End the connections of some peers; how many."""
        found = [connection for connection, peer in self._connections.items() if which(peer)]
        for connection in found:
            connection.close()
        return len(found)

    async def close(self) -> None:
        """Stop accepting, cancel what runs, end every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.wait_closed()
            connection.abort()
        if server is not None:
            await server.wait_closed()

    def admit(self, connection: _Connection, peer: Peer) -> bool:
        """Whether this connection may stay; `dismiss` must follow."""
        if len(self._connections) >= self._max_connections:
            self.by_peers.warning("too many control connections", peer=str(peer), limit=self._max_connections)
            return False
        self._connections[connection] = peer
        return True

    def dismiss(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)

    def methods(self, peer: Peer) -> Mapping[str, Method]:
        methods: dict[str, Method] = {}
        for service in self._services(peer):
            for path, method in service.__mapping__().items():
                handler = cast("Callable[[Any], Awaitable[None]]", method.func)  # pyright: ignore[reportUnknownMemberType]
                methods[path] = method._replace(func=_contained(handler))
        return methods


def _contained(handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """`handler`, whose errors become gRPC statuses: a refusal its own, anything unforeseen INTERNAL."""

    async def contained(stream: Stream[Any, Any]) -> None:
        try:
            await handler(stream)
        except Refusal as refusal:
            raise GRPCError(refusal.code, str(refusal)) from refusal
        except HboneError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        except GRPCError:
            raise
        except (StreamTerminatedError, H2Error) as error:
            raise GRPCError(Status.CANCELLED, "the caller is gone") from error
        except Exception as error:
            log.exception("control request failed unexpectedly")
            raise GRPCError(Status.INTERNAL, "internal error; the server's log says more") from error

    return contained
