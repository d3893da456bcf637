"""Throwaway CAs for tests: right certificates by default, and wrong ones on request."""

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import PrivateKey, X509Svid
from hbone.times import WallTime

BOTH_USAGES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What goes into a certificate. The defaults make a good workload leaf; `replace` fields to break it.

    None leaves an extension out. Times are hours from now.
    """

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    san_critical: bool = True
    subject: str | None = None
    ca: bool | None = False
    path_length: int | None = None
    usage: tuple[str, ...] | None = ("digital_signature",)
    extended: tuple[x509.ObjectIdentifier, ...] | None = BOTH_USAGES
    begins_h: float = -1 / 60
    ends_h: float = 1
    key_identifiers: bool = True
    more: tuple[x509.Extension[Any], ...] = ()


AUTHORITY = Sheet(ca=True, usage=("key_cert_sign", "crl_sign"), extended=None, ends_h=24)


@dataclass
class SpiffeCA:
    """A root (or, made by `intermediate`, a CA below another) that signs certificates with SPIFFE URIs.

    (trustme cannot: it takes host names, addresses and e-mails only.)
    """

    name: str = "test"
    key: PrivateKey = field(default_factory=new_key)
    sheet: Sheet = AUTHORITY
    parent: "SpiffeCA | None" = None
    cert: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        sheet = self.sheet if self.sheet.subject else replace(self.sheet, subject=self.name)
        self.cert = (self.parent or self).sign(sheet, self.key)

    def intermediate(self, name: str = "middle", *, sheet: Sheet = AUTHORITY) -> "SpiffeCA":
        return SpiffeCA(name=name, parent=self, sheet=sheet)

    def sign(self, sheet: Sheet, key: PrivateKey) -> x509.Certificate:
        """A certificate for `key` by the sheet."""
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(sheet.subject))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(hours=sheet.begins_h))
            .not_valid_after(now + dt.timedelta(hours=sheet.ends_h))
        )
        for extension in self._extensions(sheet, key):
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, spiffe_id: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = new_key()
        return key, self.sign(Sheet(uris=(spiffe_id,)), key)

    def svid(self, spiffe_id: str, **changes: Any) -> X509Svid:
        """A workload's SVID with the chain up to below the root. Wrong ones pass: nothing is checked here."""
        key = new_key()
        leaf = self.sign(replace(Sheet(uris=(spiffe_id,)), **changes), key)
        return X509Svid(chain=(leaf, *self.above()), key=key, spiffe_id=SpiffeId.parse(spiffe_id))

    def above(self) -> tuple[x509.Certificate, ...]:
        """This CA and those above it, the root excluded."""
        return (self.cert, *self.parent.above()) if self.parent else ()

    @property
    def root(self) -> x509.Certificate:
        return self.parent.root if self.parent else self.cert

    def bundle(self, domain: str) -> TrustBundle:
        return TrustBundle.of(TrustDomain(domain), [self.root])

    def _extensions(self, sheet: Sheet, key: PrivateKey) -> list[x509.Extension[Any]]:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in sheet.uris]
        names += [x509.DNSName(name) for name in sheet.dns]
        found: list[tuple[bool, x509.ExtensionType | None]] = [
            (sheet.san_critical, x509.SubjectAlternativeName(names) if names else None),
            (
                True,
                None
                if sheet.ca is None
                else x509.BasicConstraints(ca=sheet.ca, path_length=sheet.path_length if sheet.ca else None),
            ),
            (True, None if sheet.usage is None else _usage(*sheet.usage)),
            (False, None if sheet.extended is None else x509.ExtendedKeyUsage(sheet.extended)),
        ]
        if sheet.key_identifiers:
            found.append((False, x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())))
            if sheet.ca:
                found.append((False, x509.SubjectKeyIdentifier.from_public_key(key.public_key())))
        made = [x509.Extension(value.oid, critical, value) for critical, value in found if value is not None]
        return [*made, *sheet.more]


def wall_now() -> WallTime:
    return WallTime(dt.datetime.now(dt.UTC).timestamp())


def _name(text: str | None) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)] if text else [])


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
