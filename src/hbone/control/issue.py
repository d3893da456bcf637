"""Certificate requests: which identity is asked for, may this caller have it, sign, record.

The identity asked for is the one named in the request's metadata (`ImpersonatedIdentity`, what a shared node sends);
without it, the URI name inside the CSR (what a dedicated node sends). Whether the caller may have it is not decided
here but by the rule that knows the kind of caller, for example `hbone.control.attest_unix`.
"""

import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hbone.ca.authority import AuthorityEnded, CertificateAuthority, Issued
from hbone.ca.csr import MAX_REQUEST_BYTES, InvalidRequest, KeyKinds, check_request
from hbone.ca.profile import DEFAULT_TTL_S, MAX_TTL_S, new_serial
from hbone.errors import HboneError, PeerViolation, StoreFailed
from hbone.identity.revocation import KeyHash
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain
from hbone.identity.svid import PublicKey
from hbone.times import Clock, Rng
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_MAX_HOLDER_CHARS = 64

Entitlement = Callable[[SpiffeId], str]
"""Why a caller may not have an identity; empty if it may."""

Redeem = Callable[[PublicKey], Awaitable[None]]
"""Uses a one-time proof up, for a certificate of this key; raises if it is used up already."""


class NotEntitled(PeerViolation):
    """The caller may not have the identity that it asks for."""


class CannotSign(HboneError):
    """The CA cannot sign now, whoever asks: it has ended, or what it signs cannot be recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """As it arrived. `ttl_s` 0 or less asks for the default; `impersonated` empty: the CSR names the identity.

    `holder`: what a client of ours calls itself, the same each time, so that the CA knows which certificates are in
    use; empty for others.
    """

    csr: str
    ttl_s: int = 0
    impersonated: str = ""
    holder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whom a certificate is for, once that is known."""

    spiffe_id: SpiffeId
    key_sha256: KeyHash
    caller: str
    holder: str = ""


class Ledger(Protocol):
    """Where it is known what was issued and revoked (`hbone.control.ledger`)."""

    def refusal(self, asked: Asked) -> str:
        """What of this was revoked, empty if nothing."""
        ...

    async def record(self, issued: Issued, asked: Asked) -> None:
        """On disk when this returns; raises StoreFailed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRules:
    """What is granted. `keys`: the kinds of keys that are certified. `aliases`: further names of the trust domain."""

    default_ttl_s: float = DEFAULT_TTL_S
    max_ttl_s: float = MAX_TTL_S
    keys: KeyKinds = KeyKinds.P256
    aliases: frozenset[TrustDomain] = frozenset()


class Issuer:
    """Signs for whoever is entitled. `authority` gives the one in force now; `rules` may be replaced at any time."""

    def __init__(
        self,
        authority: Callable[[], CertificateAuthority],
        *,
        clock: Clock,
        rng: Rng,
        ledger: Ledger | None = None,
        rules: IssueRules | None = None,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._rng = rng
        self._ledger = ledger
        self.rules = rules or IssueRules()

    async def issue(
        self, request: CertificateRequest, *, caller: str, refusal: Entitlement, redeem: Redeem | None = None
    ) -> Issued:
        """Raises NotEntitled, InvalidRequest, CannotSign, and what `redeem` raises; each is logged with its reason.

        `redeem` uses up a proof that is good for one certificate: the last thing that is asked before signing, so
        that a request which is refused anyway costs its sender nothing.
        """
        try:
            spiffe_id = _identity_asked_for(request)
            why = refusal(spiffe_id)
            if why:
                raise NotEntitled(f"no certificate for {spiffe_id}", why=why, fix="ask as a user who may have it")
            asked, key = self._check(request, spiffe_id, caller)
            if redeem is not None:
                await redeem(key)
            issued = self._sign(request, spiffe_id, key)
            await self._record(issued, asked)
        except HboneError as error:
            log.warning("certificate refused", extra={"caller": caller, "error": str(error)[:500]})
            raise
        return issued

    def _check(self, request: CertificateRequest, spiffe_id: SpiffeId, caller: str) -> tuple[Asked, PublicKey]:
        key = check_request(request.csr, spiffe_id, keys=self.rules.keys)
        hashed = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        asked = Asked(spiffe_id=spiffe_id, key_sha256=hashed, caller=caller, holder=request.holder[:_MAX_HOLDER_CHARS])
        why = self._ledger.refusal(asked) if self._ledger is not None else ""
        if why:
            raise NotEntitled(
                f"no certificate for {spiffe_id}",
                why=f"{why} was revoked",
                fix="see `hbone cert list --revoked`, and `hbone cert restore` if that was a mistake",
            )
        return asked, key

    def _sign(self, request: CertificateRequest, spiffe_id: SpiffeId, key: PublicKey) -> Issued:
        ttl_s = request.ttl_s if request.ttl_s > 0 else self.rules.default_ttl_s
        if ttl_s > self.rules.max_ttl_s:
            raise InvalidRequest(
                f"a lifetime of {ttl_s:g} s is too long", fix=f"ask for at most {self.rules.max_ttl_s:g} s"
            )
        try:
            return self._authority().issue(
                key,
                spiffe_id,
                ttl_s=ttl_s,
                now=self._clock.wall(),
                serial=new_serial(self._rng),
                aliases=self.rules.aliases,
            )
        except AuthorityEnded as error:
            raise CannotSign(error.what, why=error.why, fix=error.fix) from error

    async def _record(self, issued: Issued, asked: Asked) -> None:
        if self._ledger is None:
            return
        try:
            await self._ledger.record(issued, asked)
        except StoreFailed as error:
            raise CannotSign(error.what, why=error.why, fix=error.fix) from error


def _identity_asked_for(request: CertificateRequest) -> SpiffeId:
    name = request.impersonated or _name_in(request.csr)
    try:
        return SpiffeId.parse(name)
    except InvalidSpiffeId as error:
        raise InvalidRequest(
            "the request names no SPIFFE ID", why=error.what, fix="put one URI name into the certificate request"
        ) from error


def _name_in(csr: str) -> str:
    """The one URI name of a CSR, empty if there is not exactly one. Its signature is checked before it is signed."""
    if len(csr) > MAX_REQUEST_BYTES:
        raise InvalidRequest(f"a certificate request of {len(csr)} characters", fix=f"send at most {MAX_REQUEST_BYTES}")
    try:
        names = x509.load_pem_x509_csr(csr.encode()).extensions
        uris = names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
    except x509.ExtensionNotFound:
        return ""
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        raise InvalidRequest(
            "the certificate request cannot be read", why=str(error)[:200], fix="send one PEM CERTIFICATE REQUEST"
        ) from error
    return uris[0] if len(uris) == 1 else ""
