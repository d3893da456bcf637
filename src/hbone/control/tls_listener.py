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
from typing import Any, Final, Self, cast

from hbone.addr import SocketAddress
from hbone.control.presented import presented_chain
from hbone.control.rpc import Peer, RemotePeer, RpcServer
from hbone.errors import HboneError
from hbone.net.clock import SystemClock
from hbone.net.listener import Listener
from hbone.net.sockets import KeepAlive
from hbone.net.tasks import Tasks
from hbone.telemetry.log import Occasional

log = logging.getLogger("hbone.control")

HANDSHAKE_S: Final = 10.0
MAX_HALF_OPEN: Final = 1024
MAX_CONNECTIONS: Final = 20_000  # 10,000 nodes, each with a stream for the mesh and now and then a certificate

# a node whose machine lost power leaves a connection that nobody ends; its leases end with it
_KEEP_ALIVE: Final = KeepAlive(idle_s=30, interval_s=10, probes=3)

Contexts = Callable[[], ssl.SSLContext]
Connection = Callable[[], asyncio.BaseProtocol]
"""What serves one connection that was accepted."""


class TlsListener:
    """One TCP listener of a control plane. `contexts` None: plaintext, for loopback only. `name` is for the log."""

    def __init__(
        self,
        connection: Connection,
        contexts: Contexts | None,
        *,
        name: str = "control",
        handshake_s: float = HANDSHAKE_S,
        by_peers: Occasional | None = None,
    ) -> None:
        self._connection = connection
        self._contexts = contexts
        self._name = name
        self._by_peers = by_peers or Occasional(log, SystemClock())
        self._handshake_s = handshake_s
        self._handshakes = Tasks(f"{name} handshakes")
        self._listener: Listener | None = None

    @classmethod
    def of_rpc(cls, rpc: RpcServer, contexts: Contexts | None) -> Self:
        """gRPC for other machines."""
        peer_of = _plain_peer if contexts is None else _tls_peer
        return cls(lambda: rpc.connection(peer_of), contexts, by_peers=rpc.by_peers)

    def start(self, sock: socket.socket) -> None:
        """Accept on a bound and listening socket, which is ours from now on."""
        self._listener = Listener(
            asyncio.get_running_loop(), sock, self._accepted, name=self._name, keep_alive=_KEEP_ALIVE
        )
        self._listener.start()
        what = "control plane listens" if self._contexts is not None else "control plane listens in plaintext"
        log.info(what, extra={"listener": self._name, "address": str(self._listener.address)})

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
                await loop.connect_accepted_socket(self._connection, sock)
                return
            await loop.connect_accepted_socket(
                self._connection,
                sock,
                ssl=self._contexts(),
                ssl_handshake_timeout=self._handshake_s,
            )
        except (OSError, ConnectionError, TimeoutError) as error:  # ssl.SSLError is an OSError
            what = str(error)[:200] or type(error).__name__
            self._by_peers.info("control handshake failed", listener=self._name, error=what)
            sock.close()
        except HboneError as error:
            self._by_peers.warning("control connection refused", error=str(error))
            sock.close()


def _plain_peer(transport: asyncio.BaseTransport) -> Peer:
    return RemotePeer(address=_address(transport))


def _tls_peer(transport: asyncio.BaseTransport) -> Peer:
    found: Any = transport.get_extra_info("ssl_object")
    if found.selected_alpn_protocol() != "h2":
        raise ConnectionError("the client did not offer the ALPN protocol h2")
    return RemotePeer(address=_address(transport), chain=presented_chain(found))


def _address(transport: asyncio.BaseTransport) -> SocketAddress:
    name: object = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        raise ConnectionError("the client is gone")
    return SocketAddress.of(cast("tuple[object, ...]", name))
