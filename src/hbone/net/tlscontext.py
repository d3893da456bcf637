"""TLS contexts for one generation of certificates, and the judgement of each peer within the handshake.

OpenSSL's own trust store stays empty. It builds a chain from what the peer presented and checks it as far as that
goes; whether a root of the identity's own trust domain vouches for it, `hbone.identity.verify` decides in the verify
callback, at OpenSSL's first question. So a refusal reaches the peer as the alert that fits, and no root can ever
vouch for another domain. A handshake without a judgement (a resumed one, say) counts as refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Protocol, Self

from cryptography import x509
from OpenSSL import SSL, crypto

from hbone.errors import HboneError, PeerRejected, UsageError
from hbone.identity.bundle import TrustBundle
from hbone.identity.proven import KnownChain, KnownChains, ProvenPath
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import X509Svid
from hbone.identity.verify import BrokenChain, ForeignTrustDomain, PeerSide, judge_peer
from hbone.net import tlsbinding
from hbone.net.clock import SystemClock
from hbone.times import Clock
from hbone.values import dataclass

ALPN = b"h2"
MUTUAL = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
# AES-128 first: 3 % less CPU for bulk than AES-256, and what Envoys choose among themselves; ztunnel has both
CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384")


class Presented(Protocol):
    """What a peer presented (leaf first): the bytes, and the certificates, which may not be readable."""

    def der(self) -> bytes: ...
    def certificates(self) -> Sequence[x509.Certificate]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """What an operator may set. `groups`: empty for OpenSSL's default (X25519MLKEM768 first).

    `client_domains`: trust domains whose clients a server takes, None for all that the bundle has roots for.
    `keylog`: receives the lines of an NSS key log; whoever has them can decrypt everything, so None unless asked for.
    """

    ciphers: tuple[str, ...] = CIPHERS
    groups: tuple[str, ...] = ()
    client_domains: frozenset[TrustDomain] | None = None
    keylog: Callable[[bytes], None] | None = None


@dataclass(slots=True, kw_only=True)
class Judgement:
    """One handshake's view of its peer: what is demanded, and, once judged, who it is or why it was refused."""

    bundle: TrustBundle
    expected: frozenset[SpiffeId] | None
    side: PeerSide
    options: TlsOptions
    clock: Clock
    known: KnownChains
    chain: tuple[x509.Certificate, ...] = ()
    peer: SpiffeId | None = None
    error: HboneError | None = None

    def judge_presented(self, presented: Presented) -> None:
        """Fill in `peer` or `error`, also for a chain that cannot even be read."""
        try:
            der = presented.der()
            known = self.known.find(der)
            chain = tuple(presented.certificates()) if known is None else known.certificates
        except Exception as error:  # OpenSSL could read them, `cryptography` could not: refuse
            self.error = BrokenChain("the peer's certificates cannot be read", why=repr(error)[:300])
        else:
            self._judge(der, chain, None if known is None else known.path)

    def _judge(self, der: bytes, chain: tuple[x509.Certificate, ...], proven: ProvenPath | None) -> None:
        self.chain = chain
        now = self.clock.wall()
        try:
            judged = judge_peer(chain, self.bundle, expected=self.expected, side=self.side, now=now, proven=proven)
            self._check_domain(judged.spiffe_id)
        except PeerRejected as error:
            self.error = error
        else:
            self.peer = judged.spiffe_id
            if judged.path is not proven:
                self.known.keep(der, KnownChain(chain, judged.path))

    def find_fault(self, finding: int) -> None:
        """OpenSSL itself found the chain wrong: refuse even if our judgement was good."""
        if self.error is None:
            self.error = BrokenChain("the peer's certificate chain is not valid", why=tlsbinding.verify_text(finding))
        self.peer = None

    def _check_domain(self, peer: SpiffeId) -> None:
        accepted = self.options.client_domains
        if self.side is PeerSide.CLIENT and accepted is not None and peer.trust_domain not in accepted:
            raise ForeignTrustDomain(
                f"clients of trust domain {peer.trust_domain} are not served here",
                why=f"served are: {', '.join(sorted(accepted)) or 'none'}",
                fix="add the domain to those that this node serves",
                spiffe_id=peer,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The contexts proper, with the callbacks that they point to and the handshakes in progress by SSL*."""

    server: SSL.Context
    client: SSL.Context
    pending: dict[int, Judgement]
    kept: tuple[object, ...] = field(repr=False)


class TlsContexts:
    """`server` and `client` contexts that present `svid` and trust `bundle`; one object per generation of either."""

    __slots__ = ("_made", "bundle", "clock", "known", "options", "svid")

    def __init__(
        self,
        svid: X509Svid,
        bundle: TrustBundle,
        options: TlsOptions | None = None,
        clock: Clock | None = None,
        known: KnownChains | None = None,
    ) -> None:
        """`known`: chains of peers, of several contexts if they share it. Raises UsageError for options that OpenSSL
        does not know."""
        self.svid = svid
        self.bundle = bundle
        self.options = options or TlsOptions()
        self.clock = clock or SystemClock()
        self.known = KnownChains() if known is None else known
        self._made = _make(svid, self.options)

    @property
    def server(self) -> SSL.Context:
        return self._made.server

    @property
    def client(self) -> SSL.Context:
        return self._made.client

    def with_bundle(self, bundle: TrustBundle) -> Self:
        """The same certificate with other roots: cheap, since the roots are not inside OpenSSL."""
        other = object.__new__(type(self))
        other.svid, other.bundle = self.svid, bundle
        other.options, other.clock, other.known, other._made = self.options, self.clock, self.known, self._made
        return other

    def judgement(self, *, side: PeerSide, expected: frozenset[SpiffeId] | None) -> Judgement:
        return Judgement(
            bundle=self.bundle,
            expected=expected,
            side=side,
            options=self.options,
            clock=self.clock,
            known=self.known,
        )

    def begin(self, connection: SSL.Connection, judgement: Judgement) -> None:
        """From now on `judgement` answers for `connection`'s peer, until `end`."""
        if tlsbinding.NATIVE:
            self._made.pending[tlsbinding.address_of(tlsbinding.pointer_of(connection))] = judgement

    def end(self, connection: SSL.Connection) -> None:
        if tlsbinding.NATIVE:
            self._made.pending.pop(tlsbinding.address_of(tlsbinding.pointer_of(connection)), None)

    @property
    def handshakes_in_progress(self) -> int:
        """Those begun and not ended, of all contexts made `with_bundle` from these."""
        return len(self._made.pending)

    def __repr__(self) -> str:
        return f"TlsContexts({self.svid!r}, {sorted(self.bundle.domains)})"


def _make(svid: X509Svid, options: TlsOptions) -> _Made:
    pending: dict[int, Judgement] = {}
    server, client = _context(SSL.TLS_SERVER_METHOD, svid, options), _context(SSL.TLS_CLIENT_METHOD, svid, options)
    client.set_alpn_protos([ALPN])
    kept: list[object] = []
    for context in (server, client):
        if tlsbinding.NATIVE:
            kept.append(tlsbinding.set_judge(context, _judge_for(pending), MUTUAL))
        else:  # judged after the handshake, by `hbone.net.tls`
            context.set_verify(MUTUAL, _later)
    if tlsbinding.NATIVE:
        kept.append(tlsbinding.require_h2(server))
    else:
        server.set_alpn_select_callback(lambda _, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS)
    return _Made(server=server, client=client, pending=pending, kept=tuple(kept))


def _later(_connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, _ok: int) -> bool:
    return True


def _judge_for(pending: dict[int, Judgement]) -> tlsbinding.Judge:
    def judge(ssl: int, presented: Presented, finding: int) -> int:
        judgement = pending[ssl]
        if judgement.peer is None and judgement.error is None:
            judgement.judge_presented(presented)
        if finding:
            judgement.find_fault(finding)
        error = judgement.error
        if error is None:
            return 0
        return error.alert if isinstance(error, PeerRejected) else PeerRejected.alert

    return judge


def _context(method: int, svid: X509Svid, options: TlsOptions) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    # No resumption: a resumed handshake shows no certificate. OP_NO_TICKET is what does it in OpenSSL 4,
    # SESS_CACHE_OFF alone does not. Our own order of suites, whatever the client prefers (ztunnel: AES-256).
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(tlsbinding.NO_AUTO_CHAIN)  # what is sent is the SVID's chain, not looked for in each handshake
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle tunnel keeps no 16 KiB buffers, and speed is the same
    context.clear_mode(tlsbinding.PARTIAL_WRITE)  # one write takes a turn's frames whole
    try:
        context.set_tls13_ciphersuites(":".join(options.ciphers).encode())
    except SSL.Error as error:
        raise UsageError(
            f"unknown TLS 1.3 cipher suites {':'.join(options.ciphers)}", fix=f"use {':'.join(CIPHERS)}"
        ) from error
    if options.groups and not tlsbinding.set_groups(context, ":".join(options.groups)):
        raise UsageError(f"unknown key exchange groups {':'.join(options.groups)}", fix="use X25519MLKEM768:X25519")
    context.use_privatekey(svid.key)
    context.use_certificate(svid.leaf)
    for certificate in svid.chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.check_privatekey()
    keylog = options.keylog
    if keylog is not None:
        context.set_keylog_callback(lambda _, line: keylog(line))
    return context
