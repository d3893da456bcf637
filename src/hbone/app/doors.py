"""Who may enter a control plane, and by which door: TLS and tokens for other machines, rules for processes of this one.

Made before the server, which is given `callers`, `tokens` and `local`; `open` then opens the listeners.
"""

import logging
import socket
from contextlib import AsyncExitStack
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.serialization import Encoding

from hbone.addr import InvalidAddress, IpAddress, SocketAddress, parse_host
from hbone.app.options import open_listener
from hbone.app.processes import process_rules
from hbone.config.model import ControlSettings, JwtIssuer
from hbone.control.attest_process import Attestor
from hbone.control.attest_unix import UnixAccess
from hbone.control.callers import Callers, UnixProcesses
from hbone.control.caplane import CaPlane
from hbone.control.issue import Issuer
from hbone.control.jwks import FileKeys, UrlKeys
from hbone.control.jwt_auth import JwtBearers, JwtRule
from hbone.control.jwt_mint import JwtMinter, OwnJwt
from hbone.control.jwt_source import JwtSvids
from hbone.control.local_ca import LocalCa
from hbone.control.local_workloads import LocalWorkloads, local_trust
from hbone.control.nodes import Placement
from hbone.control.publish import Mesh
from hbone.control.remote import CertificateHolders, RemoteRules
from hbone.control.renew import IdentityKeeper
from hbone.control.server import ControlServer
from hbone.control.serving import ISTIOD_NAMES, ServerNames, ServingContexts, anchor_of
from hbone.control.tls_listener import TlsListener
from hbone.control.token_store import SqliteTokens
from hbone.control.tokens import Entrance, TokenBearers, Tokens
from hbone.control.trust_resource import DomainTrust
from hbone.control.unixsocket import EVERYONE, ControlSocket
from hbone.control.workload_server import LocalServices, WorkloadServer
from hbone.errors import UsageError
from hbone.net.sockets import bound_address, local_address
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

WORKLOAD_SOCKET: Final = "workload.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the doors belong to."""

    settings: ControlSettings
    ca: CaPlane
    mesh: Mesh
    access: UnixAccess


class Doors:
    """All of one control plane. `listener` is the one of other machines, None while there is none."""

    def __init__(self, house: House, sockets: "_Sockets", tokens: Tokens) -> None:
        self._house = house
        self._sockets = sockets
        self._placement = Placement(house.mesh)
        self.tokens = tokens
        self.listener: TlsListener | None = None
        self.local: LocalServices | None = None
        self.keeper: IdentityKeeper | None = None
        self.callers = self._callers()

    @classmethod
    def make(cls, house: House) -> Self:
        """Take the ports, read the keys; raises UsageError, InvalidConfiguration, with no port taken."""
        sockets = _Sockets.take(house.settings)
        try:
            store = SqliteTokens(house.ca.store)
            entrance = Entrance(
                trust_domain=house.ca.place.trust_domain,
                address=house.settings.advertise or sockets.advertised(),
                pin=lambda: _fingerprint(house.ca),
            )
            tokens = Tokens(store, entrance, house.ca.place.clock, house.ca.place.rng)
            return cls(house, sockets, tokens)
        except BaseException:
            sockets.close()
            raise

    def serve_processes(self, issuer: Issuer, minter: JwtMinter) -> None:
        """Have the processes of this machine served identities, if any rule gives them one."""
        settings, place = self._house.settings, self._house.ca.place
        self.keeper = IdentityKeeper(LocalCa(issuer), place.clock, place.rng)
        trust, access = self._house.ca.trust, self._house.access
        workloads = LocalWorkloads(
            trust_domain=place.trust_domain,
            attestor=Attestor(process_rules(settings.attest, place.trust_domain)),
            keeper=self.keeper,
            trust=lambda: local_trust(trust.known),
            clock=place.clock,
            jwt=JwtSvids(OwnJwt(lambda: minter), place.clock),
        )
        self.local = LocalServices(
            workloads=workloads, entitled=lambda peer, identity: access.refusal(peer.uid, identity)
        )

    async def open(self, server: ControlServer, undo: AsyncExitStack) -> None:
        """Serve by every door until `undo`."""
        self._open_tcp(server)
        undo.callback(self._house.ca.trust.on_change(lambda now: _cut(server, now)))
        if self.local is not None and self.keeper is not None:
            await undo.enter_async_context(self.keeper)
            workloads, trust = self.local.workloads, self._house.ca.trust
            undo.callback(workloads.start())
            undo.callback(trust.on_change(lambda now: self._trust_changed(now, workloads)))
            path = self._workload_socket()
            if path is not None:
                own = WorkloadServer(self.local)
                # open to all: what the kernel says of a process decides what it gets
                await own.start(ControlSocket.listen(path, mode=EVERYONE))
                undo.push_async_callback(own.close)

    def close(self) -> None:
        """Give the ports back. Harmless when repeated."""
        self._sockets.close()
        self._placement.close()

    def lines(self) -> list[str]:
        """For the person who started it: where it can be entered."""
        found = [f"  other machines   {self.listener.address}"] if self.listener is not None else []
        path = self._workload_socket()
        return [*found, f"  workload API     unix://{path}"] if path is not None else found

    def _callers(self) -> Callers:
        settings, place = self._house.settings, self._house.ca.place
        remote = RemoteRules(place.trust_domain, self._placement, place.aliases)
        nodes = frozenset((one.namespace, one.service_account) for one in settings.node_accounts)
        rules = [_rule(issuer) for issuer in settings.jwt_issuers]
        return Callers(
            [
                CertificateHolders(remote, lambda: self._house.ca.trust.bundle, place.clock),
                TokenBearers(self.tokens, remote),
                JwtBearers(rules, remote, place.clock, node_accounts=nodes),
                UnixProcesses(self._house.access),
            ]
        )

    def _open_tcp(self, server: ControlServer) -> None:
        ca, sockets = self._house.ca, self._sockets
        if sockets.tls is not None:
            contexts = ServingContexts(
                lambda: ca.authorities.signing,
                lambda: ca.trust.bundle,
                server_names(self._house.settings, sockets.tls),
                clock=ca.place.clock,
                rng=ca.place.rng,
            )
            contexts.current()  # a CA that has ended is told now, and not to the first node
            self.listener = server.listen(sockets.tls, contexts.current)
        if sockets.plaintext is not None:
            server.listen(sockets.plaintext, None)

    def _trust_changed(self, now: DomainTrust, workloads: LocalWorkloads) -> None:
        if self.keeper is not None:
            self.keeper.trust_changed(now.revocations, now.renew)
        if workloads.jwt is not None:
            workloads.jwt.trust_changed(now.revocations)
        workloads.changes.wake()

    def _workload_socket(self) -> Path | None:
        settings = self._house.settings
        if settings.workload_socket is not None:
            return settings.workload_socket
        return self._house.ca.place.directory / WORKLOAD_SOCKET if settings.attest else None


@dataclass(slots=True)
class _Sockets:
    """Ports that were taken before anything serves on them."""

    tls: socket.socket | None = None
    plaintext: socket.socket | None = None

    @classmethod
    def take(cls, settings: ControlSettings) -> Self:
        taken, listeners = cls(), settings.listeners
        try:
            if listeners.control_tls is not None:
                taken.tls = open_listener(listeners.control_tls, "listeners.control_tls")
            if listeners.control_plaintext is not None:
                taken.plaintext = open_listener(listeners.control_plaintext, "listeners.control_plaintext")
        except BaseException:
            taken.close()
            raise
        return taken

    def close(self) -> None:
        for sock in (self.tls, self.plaintext):
            if sock is not None:
                sock.close()

    def advertised(self) -> str:
        """Where others reach the TLS listener, as far as this machine can tell; empty without one."""
        bound = bound_address(self.tls) if self.tls is not None else None
        if bound is None:
            return ""
        return str(SocketAddress(local_address(), bound.port) if bound.ip.is_unspecified else bound)


def server_names(settings: ControlSettings, sock: socket.socket) -> ServerNames:
    """What the certificate says: the operator's names, the listener's addresses, and what istiod is called."""
    dns: list[str] = ["localhost", *ISTIOD_NAMES]
    ips: list[IpAddress] = [ip_address("127.0.0.1"), ip_address("::1")]
    for name in (*settings.server_names, settings.advertise.rpartition(":")[0].strip("[]"), socket.gethostname()):
        try:
            ips.append(ip_address(name))
        except ValueError:
            _add_host(dns, name)
    bound = bound_address(sock)
    if bound is not None:
        ips.append(local_address() if bound.ip.is_unspecified else bound.ip)
    return ServerNames(dns=tuple(dict.fromkeys(dns)), ips=tuple(dict.fromkeys(ips)))


def _cut(server: ControlServer, now: DomainTrust) -> None:
    """Nobody stays on a certificate that was revoked."""
    cut = server.disconnect(lambda chain: now.revocations.is_revoked(chain) is not None)
    if cut:
        log.warning("connections of revoked callers cut", extra={"connections": cut})


def _fingerprint(ca: CaPlane) -> bytes:
    return sha256(anchor_of(ca.authorities.signing).public_bytes(Encoding.DER)).digest()


def _rule(issuer: JwtIssuer) -> JwtRule:
    is_url = "://" in issuer.jwks
    subjects = {name: (one.namespace, one.service_account) for name, one in issuer.subjects.items()}
    return JwtRule(
        issuer=issuer.issuer,
        audiences=frozenset(issuer.audiences),
        keys=UrlKeys(url=issuer.jwks, roots=issuer.jwks_roots) if is_url else FileKeys(Path(issuer.jwks)),
        subjects=subjects,
    )


def _add_host(dns: list[str], name: str) -> None:
    try:
        if name:
            dns.append(parse_host(name))
    except InvalidAddress as error:
        raise UsageError(f"server_names: {error.what}", fix=error.fix) from error
