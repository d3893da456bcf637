"""Certificates as people look at them: read from files, shown field by field."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hbone.ca.material import KUBERNETES_TLS, PLUGGED_IN
from hbone.cli.output import Style, duration, styled
from hbone.errors import UsageError
from hbone.identity.bundle import BundleDocument
from hbone.identity.pem import NoCertificates, certificates_in
from hbone.identity.svid import NotAnSvid, extended_usage, leaf_faults, spiffe_id_of
from hbone.values import dataclass

MAX_FILE_BYTES = 1024 * 1024
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_EXTENDED = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
_KINDS = {"UniformResourceIdentifier": "URI", "DNSName": "DNS", "IPAddress": "IP", "RFC822Name": "email"}
_USAGES = (
    ("digital_signature", "digitalSignature"),
    ("content_commitment", "nonRepudiation"),
    ("key_encipherment", "keyEncipherment"),
    ("data_encipherment", "dataEncipherment"),
    ("key_agreement", "keyAgreement"),
    ("key_cert_sign", "keyCertSign"),
    ("crl_sign", "cRLSign"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """One certificate in words. `identity` is None for a CA, and for one that has no valid SPIFFE ID.

    `left_s` is negative once it has ended. `problems`: why peers would refuse it now, each with its remedy.
    """

    identity: str | None
    kind: str
    subject: str
    issuer: str
    serial: str
    not_before: str
    not_after: str
    left_s: float
    key: str
    names: tuple[str, ...]
    usage: tuple[str, ...]
    fingerprint: str
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        return found | {name: list(found[name]) for name in ("names", "usage", "problems")}  # YAML has no tuples

    def lines(self) -> list[str]:
        left = f"{duration(self.left_s)} left" if self.left_s > 0 else f"ended {duration(-self.left_s)} ago"
        rows = (
            ("identity", self.identity or "none"),
            ("kind", self.kind),
            ("valid", f"{self.not_before} to {self.not_after}, {left}"),
            ("serial", self.serial),
            ("subject", self.subject or "empty"),
            ("issuer", self.issuer),
            ("key", self.key),
            ("names", ", ".join(self.names) or "none"),
            ("usage", ", ".join(self.usage) or "not limited"),
            ("sha256", self.fingerprint),
        )
        problems = [styled(f"problem      {problem}", Style.BAD, sys.stdout) for problem in self.problems]
        return [*(f"{name:<11}  {value}" for name, value in rows), *(problems or ["problems     none"])]


def view_of(certificate: x509.Certificate, now: datetime) -> CertificateView:
    """Never raises for anything that a certificate can contain, as long as it could be read at all."""
    authority = _is_authority(certificate)
    identity, problems = (None, []) if authority else _workload(certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        problems.append("it has ended; renew it")
    if now < begin:
        problems.append("it is not valid yet; check this machine's clock")
    return CertificateView(
        identity=identity,
        kind="CA" if authority else "workload",
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        not_before=f"{begin:%FT%TZ}",
        not_after=f"{end:%FT%TZ}",
        left_s=(end - now).total_seconds(),
        key=_key(certificate),
        names=tuple(_names(certificate)),
        usage=tuple(_usage(certificate)),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        problems=tuple(problems),
    )


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The PEM certificates of a file, `-` for standard input; raises UsageError, OSError."""
    content = _content(path)
    try:
        return certificates_in(content)
    except NoCertificates as error:
        if b"PRIVATE KEY-----" in content:
            raise UsageError(f"{path} is a private key", fix="name the file of its certificate") from error
        raise UsageError(
            f"{path} holds no certificates", why=str(error), fix="give a file with BEGIN CERTIFICATE blocks"
        ) from error


def read_roots(path: Path) -> tuple[x509.Certificate, ...]:
    """Roots of a bundle file, PEM or a SPIFFE bundle document; raises UsageError, InvalidBundle, OSError."""
    content = _content(path)
    if content.lstrip().startswith(b"{"):
        return BundleDocument.from_json(content).roots
    return tuple(read_certificates(path))


def roots_of_ca(directory: Path) -> tuple[x509.Certificate, ...]:
    """The roots of a CA's directory; its keys are not looked at. Raises UsageError, OSError."""
    for name in (KUBERNETES_TLS.roots, PLUGGED_IN.roots):
        if (directory / name).exists():
            return tuple(read_certificates(directory / name))
    raise UsageError(
        f"{directory} has no roots", why=f"there is no {PLUGGED_IN.roots} in it", fix="name the directory of a CA"
    )


def moment() -> datetime:
    return datetime.now(UTC)


def _content(path: Path) -> bytes:
    if str(path) == "-":
        content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{path} has over {MAX_FILE_BYTES} bytes", fix="name a file of certificates")
    return content


def _is_authority(certificate: x509.Certificate) -> bool:
    """A CA certificate, unless it claims to be a workload too (which is then a problem of that workload)."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        spiffe_id_of(certificate)
    except NotAnSvid:
        return True
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return False
    return False


def _workload(certificate: x509.Certificate) -> tuple[str | None, list[str]]:
    """The identity, and what keeps the certificate from being an SVID."""
    identity, problems = None, list[str]()
    try:
        identity = str(spiffe_id_of(certificate))
    except NotAnSvid as error:
        problems.append(str(error))
    try:
        problems += [f"{fault.what} (X509-SVID {fault.section}); {fault.fix}" for fault in leaf_faults(certificate)]
        usage = extended_usage(certificate)
    except NotAnSvid as error:
        return identity, [*problems, str(error)]
    for oid, name in _EXTENDED.items():
        if usage is not None and oid not in usage:
            problems.append(f"its extended key usage lacks {name}; have it issued with serverAuth and clientAuth")
    return identity, problems


def _key(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except Exception as error:  # shown, not judged
        return f"unreadable ({error})"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.removesuffix("PublicKey")


def _names(certificate: x509.Certificate) -> Sequence[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except Exception as error:  # shown, not judged
        return (f"unreadable ({error})",)
    return [f"{_KINDS.get(type(name).__name__, 'other')}:{name.value}" for name in names]


def _usage(certificate: x509.Certificate) -> Sequence[str]:
    found: list[str] = []
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        found += [word for name, word in _USAGES if getattr(usage, name)]
    except x509.ExtensionNotFound:
        pass
    except Exception as error:  # shown, not judged
        return (f"unreadable ({error})",)
    try:
        for oid in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
            found.append(_EXTENDED.get(oid) or str(oid.dotted_string))
    except x509.ExtensionNotFound:
        pass
    return found
