"""Trust bundles on the wire: `hbone.control.v1.TrustBundle` to and from what a node judges its peers by. Decides."""

import json
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from hbone.discovery.resources import InvalidResource
from hbone.identity.bundle import JWT_USE, BundleDocument, InvalidBundle, TrustBundle
from hbone.identity.jwk import InvalidKeySet, Jwk, key_set, parse_key_set
from hbone.identity.revocation import KeyHash, Revocations, RevokedIdentity
from hbone.identity.spiffe import DomainNames, InvalidSpiffeId, SpiffeId, TrustDomain, parse_trust_domain
from hbone.identity.svid import is_issued_by
from hbone.proto.trust_pb2 import TrustBundle as Message
from hbone.times import WallTime
from hbone.values import dataclass

TRUST_BUNDLE_TYPE: Final = "type.googleapis.com/hbone.control.v1.TrustBundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainTrust:
    """One trust domain: its roots and revocations, the lists as they were signed, and CAs that are on their way out.

    `issuers` signed the lists, or lie below the roots. `renew`: subject key identifiers of authorities whose
    certificates are to be renewed soon. `aliases`: further names of the same mesh. `jwt_keys`: what JWT-SVIDs are
    checked with. What only the control plane needs, and no node is told: the number of the domain's bundle document,
    which grows with each change of roots and keys alone.
    """

    domain: TrustDomain
    roots: tuple[x509.Certificate, ...]
    issuers: tuple[x509.Certificate, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    revocations: Revocations
    renew: frozenset[bytes] = frozenset()
    sequence: int = 0
    aliases: frozenset[TrustDomain] = frozenset()
    jwt_keys: tuple[Jwk, ...] = ()
    document_sequence: int | None = None

    @property
    def bundle(self) -> TrustBundle:
        aliases = frozenset((alias, self.domain) for alias in self.aliases)
        return TrustBundle(roots={self.domain: self.roots}, revocations=self.revocations, aliases=aliases)

    @property
    def names(self) -> DomainNames:
        return DomainNames(self.domain, self.aliases)

    def document(self, refresh_hint_s: int) -> BundleDocument:
        """As other trust domains take it."""
        return BundleDocument(
            roots=self.roots,
            jwt_keys=self.jwt_keys,
            sequence=self.document_sequence,
            refresh_hint_s=refresh_hint_s,
        )

    def message(self) -> Message:
        message = Message(
            trust_domain=self.domain,
            roots=[_der(root) for root in self.roots],
            issuers=[_der(issuer) for issuer in self.issuers],
            crls=[crl.public_bytes(Encoding.DER) for crl in self.crls],
            renew=sorted(self.renew),
            sequence=self.sequence,
            aliases=sorted(self.aliases),
            jwt_keys=_jwk_set(self.jwt_keys),
        )
        for key, reason in self.revocations.keys.items():
            message.revoked_keys.add(sha256=key, reason=reason)
        for identity, entry in self.revocations.identities.items():
            before = 0 if entry.before is None else int(entry.before)
            message.revoked_identities.add(spiffe_id=str(identity), reason=entry.reason, before=before)
        return message


def decode(name: str, body: bytes) -> DomainTrust:
    """Raises InvalidResource for anything that is not whole and signed by those whom it names.

    A revocation list counts only with the signature of one of the resource's own CAs, and those lead to its roots.
    """
    try:
        return _decode(name, Message.FromString(body))
    except InvalidResource:
        raise
    except (DecodeError, InvalidBundle, InvalidSpiffeId, ValueError, TypeError) as error:
        raise InvalidResource(f"the trust bundle cannot be read: {str(error)[:300]}") from error


def _decode(name: str, message: Message) -> DomainTrust:
    domain = parse_trust_domain(message.trust_domain)
    if domain != name:
        raise InvalidResource(f"it is about {domain}")
    roots = tuple(x509.load_der_x509_certificate(der) for der in message.roots)
    if not roots:
        raise InvalidResource("it has no roots; the former ones stay")
    issuers = tuple(x509.load_der_x509_certificate(der) for der in message.issuers)
    crls = tuple(x509.load_der_x509_crl(der) for der in message.crls)
    for crl in crls:
        _check_crl(crl, issuers, roots)
    keys: dict[KeyHash, str] = {one.sha256: one.reason for one in message.revoked_keys}
    if any(len(key) != 32 for key in keys):
        raise InvalidResource("a revoked key's hash has not 32 bytes")
    names = DomainNames(domain, frozenset(parse_trust_domain(alias) for alias in message.aliases))
    identities = dict(_identity(one.spiffe_id, one.reason, one.before, names) for one in message.revoked_identities)
    trust = DomainTrust(
        domain=domain,
        roots=roots,
        issuers=issuers,
        crls=crls,
        revocations=Revocations.from_crls(crls, keys, identities),
        renew=frozenset(message.renew),
        sequence=message.sequence,
        aliases=names.aliases,
        jwt_keys=_jwt_keys(message.jwt_keys),
    )
    _ = trust.bundle  # too many roots are refused here, and not when somebody connects
    return trust


def _check_crl(
    crl: x509.CertificateRevocationList,
    issuers: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
) -> None:
    for certificate in (*issuers, *roots):
        if certificate.subject != crl.issuer or not _signed(crl, certificate):
            continue
        if certificate in roots or _leads_to_root(certificate, issuers, roots):
            return
    raise InvalidResource(f"the revocation list of {crl.issuer.rfc4514_string()[:200]} is not signed by a CA of ours")


def _leads_to_root(
    certificate: x509.Certificate, issuers: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> bool:
    """By signatures alone: a list of a CA that has ended still says what it says."""
    for _ in range(len(issuers) + 1):
        if any(is_issued_by(certificate, root) for root in roots):
            return True
        above = next((one for one in issuers if one != certificate and is_issued_by(certificate, one)), None)
        if above is None:
            return False
        certificate = above
    return False


def _signed(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]  # other keys: TypeError
    except (TypeError, ValueError):
        return False


def _identity(text: str, reason: str, before: int, names: DomainNames) -> tuple[SpiffeId, RevokedIdentity]:
    identity = SpiffeId.parse(text)
    if identity.trust_domain not in names:
        raise InvalidResource(f"it revokes {identity}, which is of another trust domain")
    return identity, RevokedIdentity(reason=reason, before=WallTime(before) if before else None)


def _jwk_set(keys: Sequence[Jwk]) -> bytes:
    return json.dumps(key_set(((one.kid, one.key) for one in keys), use=JWT_USE)).encode() if keys else b""


def _jwt_keys(document: bytes) -> tuple[Jwk, ...]:
    try:
        return tuple(one for one in parse_key_set(document, use=JWT_USE) if one.kid) if document else ()
    except InvalidKeySet as error:
        raise InvalidResource(f"its keys of JWT-SVIDs cannot be read: {error}") from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
