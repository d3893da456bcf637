"""What the processes of this machine are served: their identities' certificates, and whom to trust.

`LocalWorkloads` is what SDS and the Workload API stand on. Streams wait on `changes`, which a rotation, a new bundle or
a new signing key sets off; what is sent then is made anew, so nothing depends on what exactly changed.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field

from cryptography import x509
from grpclib.const import Status

from hbone.control.attest_process import Attestor
from hbone.control.channel import ControlRefused
from hbone.control.credentials import Credentials
from hbone.control.jwt_source import JwtSvids
from hbone.control.renew import IdentityKeeper
from hbone.control.rpc import Refusal
from hbone.control.trust_resource import DomainTrust
from hbone.errors import IdentityUnavailable
from hbone.identity.bundle import TrustBundle
from hbone.identity.jwk import Jwk
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.times import Clock
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrust:
    """Whom to trust now. `crls` are of the own domain, one for each CA below its roots, or none at all: OpenSSL and
    BoringSSL want either. `jwt_keys`: what JWT-SVIDs of each trust domain are checked with."""

    bundle: TrustBundle
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    jwt_keys: Mapping[TrustDomain, tuple[Jwk, ...]] = field(default_factory=dict[TrustDomain, tuple[Jwk, ...]])


def local_trust(known: Sequence[DomainTrust]) -> LocalTrust:
    """As processes take it: our own domain is the first; its lists only if every CA has one."""
    now = known[0]
    issuers = {certificate.subject for certificate in (*now.issuers, *now.roots)}
    whole = issuers <= {crl.issuer for crl in now.crls}
    return LocalTrust(
        bundle=TrustBundle.union(one.bundle for one in known),
        crls=now.crls if whole and now.revocations else (),
        jwt_keys={domain: one.jwt_keys for one in known for domain in (one.domain, *one.aliases)},
    )


class Changes:
    """Wakes every stream. One that is woken looks for itself whether it has anything to send."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def wake(self) -> None:
        for event in self._waiting:
            event.set()

    @contextmanager
    def watched(self) -> Generator[asyncio.Event]:
        """An event that is set by each change."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            yield event
        finally:
            self._waiting.discard(event)

    def __len__(self) -> int:
        return len(self._waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWorkloads:
    """`jwt`: the JWT-SVIDs of these processes, None where nobody signs any."""

    trust_domain: TrustDomain
    attestor: Attestor
    keeper: IdentityKeeper
    trust: Callable[[], LocalTrust]
    clock: Clock
    jwt: JwtSvids | None = None
    changes: Changes = field(default_factory=Changes)

    def start(self) -> Callable[[], object]:
        """Have rotations wake the streams; what is returned ends that. Identities of the rules are asked for."""
        for identity in self.attestor.identities:
            self.keeper.prefetch(identity)
        return self.keeper.on_rotation(lambda _identity, _credentials: self.changes.wake())

    async def credentials(self, identity: SpiffeId) -> Credentials:
        """Raises Refusal: UNAVAILABLE when there are none now, PERMISSION_DENIED when the CA says that we may not have
        them."""
        try:
            return await self.keeper.get(identity)
        except IdentityUnavailable as error:
            cause = error.__cause__
            denied = isinstance(cause, ControlRefused) and not cause.passing
            code = Status.PERMISSION_DENIED if denied else Status.UNAVAILABLE
            raise Refusal(code, error.what, why=error.why, fix=error.fix) from error
