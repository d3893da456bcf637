"""A control plane on TCP in the test's own process: TLS with its own CA, every kind of proof."""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.serialization import Encoding

from hbone.addr import SocketAddress
from hbone.ca.authority import CertificateAuthority
from hbone.control.attest_unix import UnixAccess
from hbone.control.callers import Callers, UnixProcesses
from hbone.control.channel import UnixEndpoint
from hbone.control.issue import Issuer
from hbone.control.jwt_auth import JwtBearers, JwtRule
from hbone.control.nodes import Placement, control_identity
from hbone.control.publish import Mesh
from hbone.control.registry import Registry
from hbone.control.remote import CertificateHolders, RemoteRules
from hbone.control.server import ControlPlane, ControlServer
from hbone.control.serving import ServerNames, ServingContexts, anchor_of
from hbone.control.tls_endpoint import Roots, TlsEndpoint
from hbone.control.tls_listener import TlsListener
from hbone.control.tokens import Entrance, TokenBearers, TokenRecord, Tokens, TokenStore, used
from hbone.control.unixsocket import ControlSocket
from hbone.identity.svid import X509Svid
from hbone.net.clock import SystemClock, system_rng
from hbone.net.sockets import bind_listener
from hbone.times import Clock, WallTime
from tests.support.controlplane import DOMAIN, make_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a test wants of its control plane."""

    rules: Sequence[JwtRule] = ()
    node_accounts: frozenset[tuple[str, str]] = field(default_factory=frozenset[tuple[str, str]])
    names: ServerNames = field(default_factory=ServerNames)
    clock: Clock = field(default_factory=SystemClock)
    mesh: Mesh = field(default_factory=Mesh)
    store: TokenStore | None = None
    port: int = 0
    authority: CertificateAuthority | None = None


@dataclass(slots=True, kw_only=True)
class Remote:
    """A control plane that listens on a Unix socket and on 127.0.0.1."""

    wanted: Wanted
    authority: CertificateAuthority
    tokens: Tokens
    rules: RemoteRules
    server: ControlServer
    listener: TlsListener
    unix: UnixEndpoint

    @property
    def address(self) -> SocketAddress:
        assert isinstance(self.listener.address, SocketAddress)
        return self.listener.address

    @property
    def mesh(self) -> Mesh:
        return self.wanted.mesh

    def endpoint(self, *, credential: str = "", svid: X509Svid | None = None) -> TlsEndpoint:
        """As a client that knows this mesh's root sees it."""
        return TlsEndpoint(
            host=str(self.address.ip),
            port=self.address.port,
            roots=Roots(self.authority.bundle.pem(DOMAIN).decode()),
            identity=control_identity(DOMAIN),
            authorization=(lambda: credential) if credential else None,
            certificate=(lambda: svid) if svid is not None else None,
        )


class MemoryTokens:
    """A TokenStore that forgets all at the end."""

    def __init__(self) -> None:
        self._records: dict[str, TokenRecord] = {}

    async def add(self, record: TokenRecord) -> None:
        self._records[record.token_id] = record

    async def find(self, token_id: str) -> TokenRecord | None:
        return self._records.get(token_id)

    async def use(self, token_id: str, key_sha256: str, now: WallTime) -> bool:
        record = self._records.get(token_id)
        after = used(record, key_sha256, now) if record is not None else None
        if after is not None:
            self._records[token_id] = after
        return after is not None

    async def all(self) -> Sequence[TokenRecord]:
        return tuple(self._records.values())

    async def remove(self, token_id: str) -> bool:
        return self._records.pop(token_id, None) is not None


@asynccontextmanager
async def remote(directory: Path, wanted: Wanted | None = None) -> AsyncGenerator[Remote]:
    """Up for as long as the context lasts."""
    wanted = wanted or Wanted()
    authority, clock, mesh = wanted.authority or make_authority(wanted.clock), wanted.clock, wanted.mesh
    sock = bind_listener(SocketAddress.of(("127.0.0.1", wanted.port)))
    entrance = Entrance(
        trust_domain=DOMAIN,
        address=str(SocketAddress.of(sock.getsockname())),
        pin=lambda: sha256(anchor_of(authority).public_bytes(Encoding.DER)).digest(),
    )
    tokens = Tokens(wanted.store or MemoryTokens(), entrance, clock, system_rng())
    placement = Placement(mesh)
    rules = RemoteRules(DOMAIN, placement)
    plane = ControlPlane(
        issuer=Issuer(lambda: authority, clock=clock, rng=Random(1)),
        mesh=mesh,
        registry=Registry(mesh.store, DOMAIN),
        callers=Callers(
            [
                CertificateHolders(rules, lambda: authority.bundle, clock),
                TokenBearers(tokens, rules),
                JwtBearers(wanted.rules, rules, clock, node_accounts=wanted.node_accounts),
                UnixProcesses(UnixAccess(trust_domain=DOMAIN, owner_uid=os.geteuid())),
            ]
        ),
        clock=clock,
        tokens=tokens,
    )
    server = ControlServer(plane)
    contexts = ServingContexts(lambda: authority, lambda: authority.bundle, wanted.names, clock=clock, rng=Random(3))
    unix = UnixEndpoint(directory / "control.sock")
    await server.start(ControlSocket.listen(unix.path))
    try:
        yield Remote(
            wanted=wanted,
            authority=authority,
            tokens=tokens,
            rules=rules,
            server=server,
            listener=server.listen(sock, contexts.current),
            unix=unix,
        )
    finally:
        await server.close()
        placement.close()
