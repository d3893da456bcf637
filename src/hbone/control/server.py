"""The control plane's listeners: identities, discovery and registration on a Unix socket, and on TCP if asked.

    server = ControlServer(plane)
    await server.start(ControlSocket.listen(path))
    server.listen(bound_socket, contexts)      # 15012; contexts None: plaintext
    …
    await server.close()

Who calls is decided by `hbone.control.callers`: on a Unix socket by what the kernel says of the other end, which
nothing that a caller sends can change.
"""

import logging
import socket
from collections.abc import Callable, Sequence

from cryptography import x509

from hbone.control.admin import Admin
from hbone.control.admin_service import AdminService
from hbone.control.ads_service import DiscoveryService, Subscribers, SubscriberView
from hbone.control.attest_unix import UnixAccess
from hbone.control.ca_service import CertificateService, IssueLimits
from hbone.control.callers import Callers
from hbone.control.issue import Issuer
from hbone.control.jwt_mint import JwtMinter
from hbone.control.jwt_service import JwtService
from hbone.control.lease import Lease
from hbone.control.publish import Mesh
from hbone.control.registrations import Registrations
from hbone.control.registry import Registry
from hbone.control.registry_service import RegistryService
from hbone.control.rpc import Peer, RemotePeer, RpcServer, Servable, UnixPeer
from hbone.control.tls_listener import MAX_CONNECTIONS, Contexts, TlsListener
from hbone.control.token_service import TokenService
from hbone.control.tokens import Tokens
from hbone.control.unixsocket import ControlSocket
from hbone.control.workload_server import LocalServices
from hbone.times import Clock
from hbone.values import dataclass

log = logging.getLogger("hbone.control")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """What is served, and to whom."""

    issuer: Issuer
    mesh: Mesh
    registry: Registry
    callers: Callers
    clock: Clock
    tokens: Tokens | None = None
    limits: IssueLimits | None = None
    registrations: Registrations | None = None
    local: LocalServices | None = None
    minter: JwtMinter | None = None
    jwt_limits: IssueLimits | None = None


class ControlServer:
    """Serves a control plane."""

    def __init__(self, plane: ControlPlane, *, max_connections: int = 1024) -> None:
        self._plane = plane
        self._subscribers = Subscribers(plane.mesh, plane.clock)
        self._rpc = RpcServer(self._services, max_connections=max_connections)
        self._remote_rpc = RpcServer(self._services, max_connections=MAX_CONNECTIONS)
        self._remote: list[TlsListener] = []
        self._socket: ControlSocket | None = None
        self._admin: tuple[Admin, UnixAccess] | None = None

    def administer(self, admin: Admin, access: UnixAccess) -> None:
        """Also serve what an operator asks of the CA, to those whom `access` lets."""
        self._admin = (admin, access)

    def on_answer(self, call: Callable[[], None]) -> Callable[[], object]:
        """`call` whenever some subscriber came, answered or went. Returns what ends it."""
        return self._subscribers.on_answer(call)

    async def start(self, listening: ControlSocket) -> None:
        """Serve on a socket that is ours from now on."""
        self._socket = listening
        await self._rpc.start(listening.sock)
        log.info("control plane listens", extra={"socket": str(listening.path)})

    def listen(self, sock: socket.socket, contexts: Contexts | None) -> TlsListener:
        """Also serve on a bound and listening TCP socket, which is ours from now on: TLS, or plaintext without
        `contexts`."""
        listener = TlsListener.of_rpc(self._remote_rpc, contexts)
        listener.start(sock)
        self._remote.append(listener)
        return listener

    def disconnect(self, which: Callable[[tuple[x509.Certificate, ...]], bool]) -> int:
        """End the connections of callers who showed such a certificate chain; how many."""
        return self._remote_rpc.disconnect(
            lambda peer: isinstance(peer, RemotePeer) and bool(peer.chain) and which(peer.chain)
        )

    async def close(self) -> None:
        """End every stream and take the sockets away. Leases end with their streams, unless they are kept on disk."""
        if self._plane.registrations is not None:
            self._plane.registrations.keep()
        for listener in self._remote:
            await listener.close()
        await self._remote_rpc.close()
        await self._rpc.close()
        self._subscribers.close()
        listening, self._socket = self._socket, None
        if listening is not None:
            listening.close()

    def subscribers(self) -> tuple[SubscriberView, ...]:
        """Every connected subscriber: what it was sent, acknowledged and refused."""
        return self._subscribers.views()

    def leases(self) -> tuple[Lease, ...]:
        return self._plane.registry.leases()

    def _services(self, peer: Peer) -> Sequence[Servable]:
        plane = self._plane
        identify = plane.callers.on(peer)
        services: list[Servable] = [
            CertificateService(plane.issuer, identify, plane.limits),
            DiscoveryService(self._subscribers, identify),
            RegistryService(plane.registry, plane.mesh, identify, plane.registrations),
        ]
        if plane.minter is not None:
            services.append(JwtService(plane.minter, identify, plane.jwt_limits))
        if plane.tokens is not None:
            services.append(TokenService(plane.tokens, identify, plane.registry))
        if plane.local is not None and isinstance(peer, UnixPeer):
            services.extend(plane.local.on(peer))
        if self._admin is not None:
            services.append(AdminService(*self._admin, peer))
        return services
