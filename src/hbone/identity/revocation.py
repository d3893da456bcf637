"""What has been revoked, and whether a chain is affected.

Three kinds of entries, because a certificate can be made to look different and still be the same key's:

- serial numbers by issuer, as revocation lists (RFC 5280 §5) carry them;
- public keys, by the SHA-256 of SubjectPublicKeyInfo: every certificate of that key, whatever its serial number,
  encoding, issuer or dates;
- identities: every certificate of a SPIFFE ID that begins before a moment, or all of them.

The whole chain is looked at, so that a revoked CA takes all below it along.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from hashlib import sha256
from types import MappingProxyType
from typing import Self

from cryptography import x509

from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import InvalidSvid, NotAnSvid, public_der, spiffe_id_of, wall_time
from hbone.times import WallTime
from hbone.values import dataclass

KeyHash = bytes
"""SHA-256 of a SubjectPublicKeyInfo, 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Why a chain is refused: what was revoked, in words, and the reason that its issuer gave."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedIdentity:
    """Certificates of one identity that begin before `before`; None for all, the future ones too."""

    reason: str = "unspecified"
    before: WallTime | None = None


def key_hash(certificate: x509.Certificate) -> KeyHash:
    """Raises InvalidSvid for a key of an unknown kind."""
    return sha256(public_der(certificate)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """All that is revoked in one trust domain, or in several. Empty by default.

    `serials`: issuer name (DER) → serial number → reason. Equal if they say the same.
    """

    serials: Mapping[bytes, Mapping[int, str]] = field(default_factory=dict[bytes, Mapping[int, str]])
    keys: Mapping[KeyHash, str] = field(default_factory=dict[KeyHash, str])
    identities: Mapping[SpiffeId, RevokedIdentity] = field(default_factory=dict[SpiffeId, RevokedIdentity])

    def __post_init__(self) -> None:
        for name in ("serials", "keys", "identities"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @classmethod
    def from_crls(
        cls,
        crls: Iterable[x509.CertificateRevocationList],
        keys: Mapping[KeyHash, str] | None = None,
        identities: Mapping[SpiffeId, RevokedIdentity] | None = None,
    ) -> Self:
        """Signatures are the caller's business (`check_crl`)."""
        serials: dict[bytes, dict[int, str]] = {}
        for crl in crls:
            found = serials.setdefault(crl.issuer.public_bytes(), {})
            found.update((entry.serial_number, _reason(entry)) for entry in crl)
        return cls(serials=serials, keys=keys or {}, identities=identities or {})

    def __bool__(self) -> bool:
        return bool(self.keys or self.identities or any(self.serials.values()))

    def __len__(self) -> int:
        return len(self.keys) + len(self.identities) + sum(len(found) for found in self.serials.values())

    def is_revoked(self, chain: Sequence[x509.Certificate]) -> Revocation | None:
        """Why a peer with this chain (leaf first) is to be trusted no more; None if nothing is known against it."""
        if not self:
            return None
        if chain and self.identities:
            found = self._identity(chain[0])
            if found is not None:
                return found
        for certificate in chain:
            found = self._certificate(certificate)
            if found is not None:
                return found
        return None

    def of_identity(self, spiffe_id: SpiffeId, begins: WallTime) -> Revocation | None:
        """What is known against a proof of this identity (a certificate, a token) that is good from `begins` on."""
        entry = self.identities.get(spiffe_id)
        if entry is None or (entry.before is not None and begins >= entry.before):
            return None
        return Revocation(what=f"the identity {spiffe_id}", reason=entry.reason)

    def merged(self, other: "Revocations") -> "Revocations":
        """What either says."""
        issuers = {**self.serials, **other.serials}
        serials = {name: {**self.serials.get(name, {}), **other.serials.get(name, {})} for name in issuers}
        return Revocations(
            serials=serials,
            keys={**self.keys, **other.keys},
            identities={**self.identities, **other.identities},
        )

    def _identity(self, leaf: x509.Certificate) -> Revocation | None:
        try:
            spiffe_id = spiffe_id_of(leaf)
        except NotAnSvid:
            return None  # refused elsewhere
        return self.of_identity(spiffe_id, wall_time(leaf.not_valid_before_utc))

    def _certificate(self, certificate: x509.Certificate) -> Revocation | None:
        if self.serials:
            of_issuer = self.serials.get(certificate.issuer.public_bytes())
            reason = of_issuer.get(certificate.serial_number) if of_issuer else None
            if reason is not None:
                return Revocation(what=f"certificate {certificate.serial_number:x}", reason=reason)
        if self.keys:
            try:
                hashed = key_hash(certificate)
            except InvalidSvid:
                return None  # refused elsewhere
            reason = self.keys.get(hashed)
            if reason is not None:
                return Revocation(what=f"the key {hashed.hex()}", reason=reason)
        return None


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except (x509.ExtensionNotFound, ValueError):
        return "unspecified"
