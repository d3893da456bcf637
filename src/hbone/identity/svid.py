"""X.509-SVIDs: a certificate chain and its key that prove one SPIFFE ID (X509-SVID standard).

The rules for a leaf are one list, `leaf_faults`: `hbone cert show` prints all of it, the judgement of a peer
(`hbone.identity.verify`) refuses at its first entry. A chain is held leaf first and without its root, as TLS sends it.
"""

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from typing import Self, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hbone.errors import HboneError, PeerRejected
from hbone.identity.pem import NoCertificates, certificates_in
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.times import WallTime
from hbone.values import dataclass

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

MIN_RSA_BITS = 2048  # what OpenSSL's security level 2 and Go's crypto/x509 demand


class InvalidSvid(HboneError):
    """Our own chain and key do not make an SVID."""

    flag = "IDENTITY_ERROR"


class NotAnSvid(PeerRejected):
    """A certificate that breaks a rule of the X.509-SVID standard; `rule` names the section."""

    alert = 42  # bad_certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafFault:
    """One rule of the X.509-SVID standard that a leaf breaks: what is wrong, what its issuer must do, the section."""

    what: str
    fix: str
    section: str


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A chain (leaf first, root excluded), the leaf's key, and the identity that they prove.

    Made by `of` or `from_pem`, which check that it is one. Its repr and its equality leave the key out.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False, compare=False)
    spiffe_id: SpiffeId
    not_after: WallTime = field(init=False, compare=False)
    """When the first certificate of the chain ends: from then on no peer accepts it. Asked for each connection."""

    def __post_init__(self) -> None:
        ends = wall_time(min(certificate.not_valid_after_utc for certificate in self.chain))
        object.__setattr__(self, "not_after", ends)

    @classmethod
    def of(cls, chain: Sequence[x509.Certificate], key: PrivateKey) -> Self:
        """Check and combine; raises InvalidSvid."""
        if not chain:
            raise InvalidSvid("an SVID needs a certificate", fix="give the leaf first, then the intermediates")
        try:
            spiffe_id = spiffe_id_of(chain[0])
        except NotAnSvid as error:
            raise InvalidSvid(error.what, why=error.why, fix=error.fix) from error
        for fault in leaf_faults(chain[0]):
            raise InvalidSvid(f"the certificate of {spiffe_id} is not an SVID", why=fault.what, fix=fault.fix)
        if public_der(chain[0]) != key_der(key):
            raise InvalidSvid(
                f"the key does not belong to the certificate of {spiffe_id}",
                fix="give the key that the first certificate of the chain was issued for",
            )
        return cls(chain=without_root(chain), key=key, spiffe_id=spiffe_id)

    @classmethod
    def from_pem(cls, chain_pem: bytes, key_pem: bytes) -> Self:
        """From the contents of a chain file and of an unencrypted key file; raises InvalidSvid."""
        try:
            chain = certificates_in(chain_pem)
        except NoCertificates as error:
            raise InvalidSvid("the chain holds no PEM certificates", why=str(error)) from error
        return cls.of(chain, load_key(key_pem))

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def not_before(self) -> WallTime:
        return wall_time(self.leaf.not_valid_before_utc)

    @property
    def serial(self) -> int:
        return self.leaf.serial_number

    def chain_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    def key_pem(self) -> bytes:
        """The key as unencrypted PKCS#8, the one form that ztunnel reads."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"X509Svid({self.spiffe_id}, serial {self.serial:x}, until {self.leaf.not_valid_after_utc:%FT%TZ})"


def load_key(key_pem: bytes) -> PrivateKey:
    """An unencrypted EC or RSA key; raises InvalidSvid, never quoting the text."""
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise InvalidSvid("the key is encrypted", fix="store it decrypted, in a file of mode 0600") from error
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidSvid("the key is not a PEM private key", fix="give PKCS#8: BEGIN PRIVATE KEY") from None
    if not isinstance(key, PrivateKey):
        raise InvalidSvid("the key is neither EC nor RSA", fix="use P-256")
    return key


def wall_time(moment: datetime) -> WallTime:
    return WallTime(moment.timestamp())


def public_der(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo; raises InvalidSvid for a key of an unknown kind."""
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSvid("a certificate's public key cannot be read", why=str(error)) from error


def key_der(key: PrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of a key's public half."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it names itself as issuer and signed itself."""
    return is_issued_by(certificate, certificate)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether it names that issuer and has its signature. Dates and extensions are not looked at."""
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # InvalidSignature, TypeError, ValueError: whichever, that one did not sign it
        return False
    return True


def without_root(chain: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The chain without self-signed certificates above the leaf: a peer has its own roots, or does not trust ours."""
    return (chain[0], *(certificate for certificate in chain[1:] if not is_self_signed(certificate)))


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId:
    """The identity inside a certificate: its one URI SAN (X509-SVID §2). Raises NotAnSvid."""
    uris = _uris(certificate)
    if len(uris) != 1:
        raise NotAnSvid(
            f"the certificate has {len(uris)} URI names" if uris else "the certificate has no SPIFFE ID",
            why=", ".join(uri[:200] for uri in uris[:3]) or "its subject alternative name holds no URI",
            fix="have it issued with exactly one URI name, the SPIFFE ID",
            rule="X509-SVID §2",
        )
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidSpiffeId as error:
        raise NotAnSvid(
            "the certificate's URI name is not a SPIFFE ID", why=error.what, fix=error.fix, rule="SPIFFE-ID §2"
        ) from error
    if not spiffe_id.path:
        raise NotAnSvid(
            f"the certificate's identity {spiffe_id} is a whole trust domain",
            why="that is the name of a signing authority, not of a workload",
            fix="have it issued with a path, for example /ns/shop/sa/cart",
            rule="X509-SVID §4.1",
        )
    return spiffe_id


def leaf_faults(certificate: x509.Certificate) -> tuple[LeafFault, ...]:
    """Every rule for a leaf's extensions that this one breaks, the URI name apart (`spiffe_id_of`).

    Tolerated, as go-spiffe and Envoy do: absent keyUsage, absent extendedKeyUsage, a subject alternative name
    that is not critical, DNS and IP names beside the URI. Raises NotAnSvid where extensions cannot be parsed.
    """
    faults: list[LeafFault] = []
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        faults.append(LeafFault(what="it is a CA certificate", fix="issue leaves with CA:FALSE", section="§4.1"))
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None:
        faults.extend(
            LeafFault(what=f"its key usage has {name}", fix=f"issue leaves without {name}", section="§4.3")
            for name, on in (("keyCertSign", usage.key_cert_sign), ("cRLSign", usage.crl_sign))
            if on
        )
        if not usage.digital_signature:
            faults.append(
                LeafFault(
                    what="its key usage lacks digitalSignature", fix="TLS 1.3 signs with it: add it", section="§4.3"
                )
            )
    weak = _weakness(certificate)
    if weak:
        faults.append(LeafFault(what=weak, fix="use P-256", section="§4"))
    return tuple(faults)


def extended_usage(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier] | None:
    """The OIDs of extendedKeyUsage, None without that extension. Raises NotAnSvid."""
    found = _extension(certificate, x509.ExtendedKeyUsage)
    return None if found is None else frozenset(found)


def authority_key_id(certificate: x509.Certificate) -> bytes:
    """The key identifier of its issuer as it names it (RFC 5280 §4.2.1.1), empty if it does not."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return b""
    return found or b""


def _weakness(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotAnSvid("the certificate's public key cannot be read", why=str(error), rule="X509-SVID §4") from error
    if isinstance(key, rsa.RSAPublicKey):
        return f"its RSA key has {key.key_size} bits" if key.key_size < MIN_RSA_BITS else ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"its key is on the curve {key.curve.name}" if key.key_size < 256 else ""
    return "its key is neither EC nor RSA"


def _uris(certificate: x509.Certificate) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise NotAnSvid(
            "the certificate's extensions cannot be parsed", why=str(error)[:200], rule="RFC 5280 §4.2"
        ) from error
