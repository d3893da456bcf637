"""The control plane on TCP: TLS 1.3 with an optional client certificate (15012), or plaintext on loopback (15010).

Each connection gets the context that is the newest when it arrives, so a rotated certificate or root needs no new
listener. A client certificate must lead to a root of ours, or the handshake fails; everything else about it (dates,
names, trust domain, revocation) is judged for each call, where a refusal can be told with its reason.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from cryptography import x509

from hbone.addr import SocketAddress
from hbone.control.rpc import Peer, RemotePeer, RpcServer
from hbone.errors import HboneError
from hbone.net.listener import Listener
from hbone.net.sockets import KeepAlive
from hbone.net.tasks import Tasks

log = logging.getLogger("hbone.control")

HANDSHAKE_S: Final = 10.0
MAX_HALF_OPEN: Final = 1024
MAX_CONNECTIONS: Final = 20_000  # 10,000 nodes, each with a stream for the mesh and now and then a certificate

# a node whose machine lost power leaves a connection that nobody ends; its leases end with it
_KEEP_ALIVE: Final = KeepAlive(idle_s=30, interval_s=10, probes=3)

_ENCODING_DER: Final = 2  # of the private class that Python has for certificates before 3.13

Contexts = Callable[[], ssl.SSLContext]


class TlsListener:
    """One TCP listener of a control plane. `contexts` None: plaintext, for loopback only."""

    def __init__(self, rpc: RpcServer, contexts: Contexts | None, *, handshake_s: float = HANDSHAKE_S) -> None:
        self._rpc = rpc
        self._contexts = contexts
        self._handshake_s = handshake_s
        self._handshakes = Tasks("control handshakes")
        self._listener: Listener | None = None

    def start(self, sock: socket.socket) -> None:
        """Accept on a bound and listening socket, which is ours from now on."""
        self._listener = Listener(
            asyncio.get_running_loop(), sock, self._accepted, name="control", keep_alive=_KEEP_ALIVE
        )
        self._listener.start()
        what = "control plane listens" if self._contexts is not None else "control plane listens in plaintext"
        log.info(what, extra={"address": str(self._listener.address)})

    @property
    def address(self) -> SocketAddress | str:
        assert self._listener is not None, "started"  # noqa: S101 - by its owner
        return self._listener.address

    async def close(self) -> None:
        """Accept no more, give up handshakes. Connections are the RpcServer's."""
        if self._listener is not None:
            self._listener.close()
        await self._handshakes.close()

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._handshakes) >= MAX_HALF_OPEN:
            log.debug("too many handshakes at once", extra={"limit": MAX_HALF_OPEN})
            sock.close()
            return
        self._handshakes.start(self._shake_hands(sock), name="handshake")

    async def _shake_hands(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._contexts is None:
                await loop.connect_accepted_socket(lambda: self._rpc.connection(_plain_peer), sock)
                return
            await loop.connect_accepted_socket(
                lambda: self._rpc.connection(_tls_peer),
                sock,
                ssl=self._contexts(),
                ssl_handshake_timeout=self._handshake_s,
            )
        except (OSError, ConnectionError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self._rpc.by_peers.info("control handshake failed", error=str(error)[:200] or type(error).__name__)
            sock.close()
        except HboneError as error:
            self._rpc.by_peers.warning("control connection refused", error=str(error))
            sock.close()


def _plain_peer(transport: asyncio.BaseTransport) -> Peer:
    return RemotePeer(address=_address(transport))


def _tls_peer(transport: asyncio.BaseTransport) -> Peer:
    found: Any = transport.get_extra_info("ssl_object")
    if found.selected_alpn_protocol() != "h2":
        raise ConnectionError("the client did not offer the ALPN protocol h2")
    return RemotePeer(address=_address(transport), chain=_presented(found))


def _presented(found: Any) -> tuple[x509.Certificate, ...]:
    """The chain that a peer showed. A method of its own came with Python 3.13; before, only the inner object has it."""
    if hasattr(found, "get_unverified_chain"):
        ders = [bytes(der) for der in found.get_unverified_chain() or ()]
    else:
        inner: Any = found._sslobj
        shown = [one for one in inner.get_unverified_chain() or () if one is not None]  # [None] for no certificate
        ders = [bytes(one.public_bytes(_ENCODING_DER)) for one in shown]
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in ders)
    except ValueError as error:
        raise ConnectionError("a certificate that cannot be read") from error


def _address(transport: asyncio.BaseTransport) -> SocketAddress:
    name: object = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        raise ConnectionError("the client is gone")
    return SocketAddress.of(cast("tuple[object, ...]", name))
