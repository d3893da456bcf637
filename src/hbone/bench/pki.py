"""Throwaway certificates for one run: a root, an intermediate, and one leaf per proxy.

Both kinds of pair trust the same root. Envoy is given leaf and key files; hbone the CA itself, in the file names
that Istio uses for a plugged-in CA, and issues its own leaves.
"""

import datetime as dt
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hbone.identity.spiffe import SpiffeId, TrustDomain, parse_trust_domain

LIFE = dt.timedelta(days=1)
CLOCK_SKEW = dt.timedelta(minutes=2)
TRUST_DOMAIN = parse_trust_domain("cluster.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A proxy's certificate files: the chain is leaf and intermediate, the key PKCS#8."""

    spiffe_id: SpiffeId
    chain: Path
    key: Path
    root: Path


@dataclass(frozen=True, slots=True)
class _Issuer:
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class BenchPki:
    """Writes its files into `directory` (made with mode 0700)."""

    def __init__(self, directory: Path, domain: TrustDomain = TRUST_DOMAIN) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self.domain = domain
        self._root = _authority("root", None)
        self._issuer = _authority("intermediate", self._root)
        self.root = directory / "root-cert.pem"
        intermediate = _pem(self._issuer.cert)
        self.root.write_bytes(_pem(self._root.cert))
        (directory / "ca-cert.pem").write_bytes(intermediate)
        (directory / "cert-chain.pem").write_bytes(intermediate + _pem(self._root.cert))
        _write_key(directory / "ca-key.pem", self._issuer.key)

    def identity(self, namespace: str, account: str) -> Identity:
        """Issue a leaf for a service account; a second call for the same one replaces its files."""
        spiffe_id = SpiffeId.for_workload(self.domain, namespace, account)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(self._issuer, spiffe_id, key)
        stem = self.directory / f"{namespace}-{account}"
        chain_file, key_file = stem.with_suffix(".pem"), stem.with_suffix(".key")
        chain_file.write_bytes(_pem(leaf) + _pem(self._issuer.cert))
        _write_key(key_file, key)
        return Identity(spiffe_id=spiffe_id, chain=chain_file, key=key_file, root=self.root)


def _authority(name: str, parent: _Issuer | None) -> _Issuer:
    """A CA certificate, by itself (`parent` None) or by `parent`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"hbone bench {name}")])
    signing_key = parent.key if parent else key
    builder = (
        _builder(key, issuer=parent.cert.subject if parent else subject, issuer_key=signing_key)
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(Usage.CERTIFICATES), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Issuer(builder.sign(signing_key, hashes.SHA256()), key)


def _leaf(issuer: _Issuer, spiffe_id: SpiffeId, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        _builder(key, issuer=issuer.cert.subject, issuer_key=issuer.key)
        .subject_name(x509.Name([]))
        .add_extension(name, critical=True)  # the subject is empty (RFC 5280 §4.2.1.6)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(Usage.SIGNATURES), critical=True)
        .add_extension(both_sides, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _builder(
    key: ec.EllipticCurvePrivateKey, *, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(authority, critical=False)
    )


class Usage(Enum):
    """What a key signs."""

    CERTIFICATES = "certificates"
    SIGNATURES = "signatures"


def _usage(usage: Usage) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=usage is Usage.SIGNATURES,
        key_cert_sign=usage is Usage.CERTIFICATES,
        crl_sign=usage is Usage.CERTIFICATES,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
