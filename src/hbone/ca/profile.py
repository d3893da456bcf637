"""What is inside the certificates that we sign: root, intermediate, workload (X509-SVID §4, RFC 5280 §4.2)."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import PrivateKey, PublicKey
from hbone.times import Rng, WallTime

CLOCK_SKEW_S = 120.0  # notBefore lies this far back, so that a peer whose clock is behind accepts at once (as istiod)
ROOT_TTL_S = 10 * 365 * 86400.0  # istiod's self-signed root: 87600 h
DEFAULT_TTL_S = 24 * 3600.0
MAX_TTL_S = 90 * 86400.0  # istiod's MAX_WORKLOAD_CERT_TTL


def new_serial(rng: Rng) -> int:
    """A positive serial number of at most 16 bytes, 127 bits of chance (RFC 5280 §4.1.2.2)."""
    return rng.getrandbits(127) or 1


def root_certificate(
    key: PrivateKey, domain: TrustDomain, *, now: WallTime, serial: int, ttl_s: float = ROOT_TTL_S
) -> x509.Certificate:
    """Self-signed; may have one level of CAs below, and sign revocation lists."""
    name = _name(domain, "root", serial)
    builder = _authority(name, name, key.public_key(), serial, path_length=1)
    return dated(builder, now, now + ttl_s).sign(key, digest_for(key))


def intermediate_certificate(
    public_key: PublicKey,
    domain: TrustDomain,
    *,
    root: tuple[x509.Certificate, PrivateKey],
    now: WallTime,
    serial: int,
    ttl_s: float = ROOT_TTL_S,
) -> x509.Certificate:
    """Signs workloads only. Ends with its root at the latest."""
    issuer, issuer_key = root
    builder = _authority(issuer.subject, _name(domain, "intermediate", serial), public_key, serial, path_length=0)
    builder = builder.add_extension(authority_key_of(issuer), critical=False)
    until = min(now + ttl_s, issuer.not_valid_after_utc.timestamp())
    return dated(builder, now, until).sign(issuer_key, digest_for(issuer_key))


def workload_certificate(
    public_key: PublicKey, spiffe_id: SpiffeId, *, issuer: x509.Certificate, serial: int
) -> x509.CertificateBuilder:
    """An X.509-SVID, dates and signature still missing."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    # keyEncipherment has no meaning for EC (RFC 8813 §3); Istio's Envoys want it of RSA leaves under TLS 1.2
    usage = _usage("digital_signature", *(("key_encipherment",) if isinstance(public_key, rsa.RSAPublicKey) else ()))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(serial)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(authority_key_of(issuer), critical=False)
        .add_extension(names, critical=True)  # RFC 5280 §4.2.1.6: the subject is empty
    )


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def authority_key_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What ties a certificate to its issuer's key; the issuer's own identifier where it has one."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, PublicKey)  # noqa: S101 - of the authority itself, checked when it was made
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _authority(
    issuer: x509.Name, subject: x509.Name, public_key: PublicKey, serial: int, *, path_length: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def dated(builder: x509.CertificateBuilder, now: WallTime, until: float) -> x509.CertificateBuilder:
    """Valid from a little before `now` until `until` (Unix seconds)."""
    begin = datetime.fromtimestamp(now, UTC) - timedelta(seconds=CLOCK_SKEW_S)
    return builder.not_valid_before(begin).not_valid_after(datetime.fromtimestamp(until, UTC))


def _name(domain: TrustDomain, role: str, serial: int) -> x509.Name:
    """Distinct for each authority made: verifiers look issuers up by name."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"hbone {role} {serial % (1 << 32):08x}"),
        ]
    )


def _usage(*on: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in on for name in names})
