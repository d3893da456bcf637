"""The authority itself: a signing certificate with its key, what lies between it and the roots, and the roots."""

from dataclasses import field, replace
from functools import lru_cache
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.csr import InvalidRequest
from hbone.ca.profile import (
    DEFAULT_TTL_S,
    MAX_TTL_S,
    ROOT_TTL_S,
    dated,
    digest_for,
    intermediate_certificate,
    new_serial,
    root_certificate,
    workload_certificate,
)
from hbone.errors import HboneError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.identity.svid import PrivateKey, PublicKey, is_issued_by, key_der, public_der, wall_time
from hbone.times import Rng, WallTime
from hbone.values import dataclass


class AuthorityEnded(HboneError):
    """The signing certificate, or one above it, has ended: nothing can be signed any more."""


class CannotRenew(HboneError):
    """This CA cannot make what was asked of it from the keys that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaKeys:
    """The two keys of a new authority, made by the caller."""

    root: PrivateKey = field(repr=False)
    intermediate: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Of the CA's own certificates. An intermediate never outlives its root."""

    root_s: float = ROOT_TTL_S
    intermediate_s: float = ROOT_TTL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate just signed. `intermediates` lead from it to, but not including, a root of `roots`."""

    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.intermediates)

    def response(self) -> list[str]:
        """Istio's `cert_chain`: leaf, each intermediate, and last all roots in one string."""
        return [_pem(self.certificate), *_above(self.intermediates, self.roots)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateAuthority:
    """Issues for one trust domain.

    `chain` begins with the signing certificate and ends below the root; it is empty when the root itself signs.
    `root_key` is there only if this authority made its root; it is needed for nothing but a new intermediate.
    """

    trust_domain: TrustDomain
    signer: x509.Certificate
    key: PrivateKey = field(repr=False, compare=False)
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    root_key: PrivateKey | None = field(default=None, repr=False, compare=False)

    @classmethod
    def create(
        cls, trust_domain: TrustDomain, keys: CaKeys, *, now: WallTime, rng: Rng, lifetimes: Lifetimes | None = None
    ) -> Self:
        """A new self-signed root and an intermediate below it."""
        lifetimes = lifetimes or Lifetimes()
        root = root_certificate(keys.root, trust_domain, now=now, serial=new_serial(rng), ttl_s=lifetimes.root_s)
        signer = intermediate_certificate(
            keys.intermediate.public_key(),
            trust_domain,
            root=(root, keys.root),
            now=now,
            serial=new_serial(rng),
            ttl_s=lifetimes.intermediate_s,
        )
        return cls(
            trust_domain=trust_domain,
            signer=signer,
            key=keys.intermediate,
            chain=(signer,),
            roots=(root,),
            root_key=keys.root,
        )

    def with_intermediate(self, key: PrivateKey, *, now: WallTime, rng: Rng, ttl_s: float = ROOT_TTL_S) -> Self:
        """The same root with another intermediate, which signs from then on. Raises AuthorityEnded, CannotRenew."""
        if self.root_key is None:
            raise CannotRenew(
                "a new intermediate cannot be made here",
                why="the root's key is not in this CA's hands",
                fix="have the root's owner sign one, and take it with `hbone ca import DIR`",
            )
        root = self.own_root
        if now >= wall_time(root.not_valid_after_utc):
            raise AuthorityEnded(
                f"the root of {self.trust_domain} has ended",
                why=f"at {root.not_valid_after_utc:%FT%TZ}",
                fix="run `hbone ca rotate-root --recover`",
            )
        signer = intermediate_certificate(
            key.public_key(),
            self.trust_domain,
            root=(root, self.root_key),
            now=now,
            serial=new_serial(rng),
            ttl_s=ttl_s,
        )
        return replace(self, signer=signer, key=key, chain=(signer,))

    @property
    def own_root(self) -> x509.Certificate:
        """The root that the signing chain leads to: the one whose key we have, else the one that issued the chain."""
        if self.root_key is not None:
            wanted = key_der(self.root_key)
            for root in self.roots:
                if public_der(root) == wanted:
                    return root
        last = self.chain[-1] if self.chain else self.signer
        return next((root for root in self.roots if last == root or is_issued_by(last, root)), self.roots[0])

    @property
    def key_fits(self) -> bool:
        """Whether the signing key belongs to the signing certificate."""
        return key_der(self.key) == public_der(self.signer)

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle.of(self.trust_domain, self.roots)

    @property
    def not_after(self) -> WallTime:
        """When signing ends: the first end in the signing chain, or of its last root."""
        ends = [wall_time(certificate.not_valid_after_utc) for certificate in (self.signer, *self.chain)]
        return min(*ends, max(wall_time(root.not_valid_after_utc) for root in self.roots))

    def issue(
        self,
        public_key: PublicKey,
        spiffe_id: SpiffeId,
        *,
        ttl_s: float,
        now: WallTime,
        serial: int,
        aliases: frozenset[TrustDomain] = frozenset(),
    ) -> Issued:
        """Sign for an identity that the caller was found entitled to, and a key from `check_request`.

        `ttl_s` 0 or less means 24 h. Never outlives the signing certificate. `aliases`: further names of this trust
        domain, which it signs for too. Raises InvalidRequest (other trust domain, no workload path, lifetime over 90
        days), AuthorityEnded.
        """
        self._check(spiffe_id, ttl_s, DomainNames(self.trust_domain, aliases))
        if now >= self.not_after:
            raise AuthorityEnded(
                f"the CA of {self.trust_domain} has ended",
                why="its signing certificate expired",
                fix="run `hbone ca rotate-root --recover`",
            )
        until = min(now + (ttl_s if ttl_s > 0 else DEFAULT_TTL_S), self.not_after)
        builder = workload_certificate(public_key, spiffe_id, issuer=self.signer, serial=serial)
        certificate = dated(builder, now, until).sign(self.key, digest_for(self.key))
        return Issued(certificate=certificate, intermediates=self.chain, roots=self.roots)

    def _check(self, spiffe_id: SpiffeId, ttl_s: float, names: DomainNames) -> None:
        if spiffe_id.trust_domain not in names:
            raise InvalidRequest(
                f"{spiffe_id} is not of trust domain {self.trust_domain}",
                why="a CA signs for its own domain only",
                fix=f"ask for spiffe://{self.trust_domain}{spiffe_id.path}",
            )
        if not spiffe_id.path:
            raise InvalidRequest(f"{spiffe_id} names no workload", fix="add a path, for example /ns/shop/sa/cart")
        if ttl_s > MAX_TTL_S:
            raise InvalidRequest(
                f"a lifetime of {ttl_s / 3600:g} h is too long", fix=f"ask for at most {MAX_TTL_S / 3600:g} h"
            )


@lru_cache(maxsize=8)
def _above(intermediates: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]) -> tuple[str, ...]:
    """What is the same in every answer until the CA changes."""
    return (*(_pem(certificate) for certificate in intermediates), "".join(_pem(root) for root in roots))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
