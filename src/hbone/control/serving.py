"""The control plane's own TLS: a certificate from its own CA, in an ssl context that is replaced as it ages.

grpclib wants the `ssl` module's contexts, and those read keys from files only. The key therefore goes through a
descriptor of memory (memfd), which has no name in any directory and is gone when it has been read; where a system has
none, through a file of mode 0600 that lives for as long.
"""

import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from hbone.addr import IpAddress
from hbone.ca.authority import CertificateAuthority
from hbone.ca.profile import authority_key_of, dated, digest_for, new_serial
from hbone.control.nodes import control_identity
from hbone.errors import UsageError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import PrivateKey, PublicKey, is_self_signed
from hbone.net.clock import new_key
from hbone.times import Clock, Rng, WallTime
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

TTL_S: Final = 86_400.0

ISTIOD_NAMES: Final = ("istiod.istio-system.svc", "istiod.istio-system.svc.cluster.local", "istiod.istio-system")
"""What ztunnels and Istio's agents expect of their control plane."""

# X509_V_FLAG_NO_CHECK_TIME: dates are judged by us, so that an expired certificate gets an answer that says so, and a
# fresh token beside it still counts
_NO_CHECK_TIME: Final = 0x200000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNames:
    """What clients may call this control plane."""

    dns: tuple[str, ...] = ("localhost", *ISTIOD_NAMES)
    ips: tuple[IpAddress, ...] = ()


def serving_certificate(
    authority: CertificateAuthority, key: PublicKey, names: ServerNames, *, now: WallTime, serial: int
) -> x509.Certificate:
    """An X.509-SVID of the control plane itself, with the host names and addresses that clients check."""
    alternative = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(str(control_identity(authority.trust_domain))),
            *(x509.DNSName(name) for name in names.dns),
            *(x509.IPAddress(ip) for ip in names.ips),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.signer.subject)
        .public_key(key)
        .serial_number(serial)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(authority_key_of(authority.signer), critical=False)
        .add_extension(alternative, critical=True)
    )
    until = min(now + TTL_S, authority.not_after)
    return dated(builder, now, until).sign(authority.key, digest_for(authority.key))


def anchor_of(authority: CertificateAuthority) -> x509.Certificate:
    """The root that what this authority signs leads to: what a join token pins."""
    last = authority.chain[-1] if authority.chain else authority.signer
    if is_self_signed(last):
        return last
    for root in authority.roots:
        try:
            last.verify_directly_issued_by(root)
        except Exception:  # noqa: S112 - InvalidSignature, TypeError, ValueError: not this one
            continue
        return root
    return authority.roots[-1]


class ServingContexts:
    """The newest context: made anew at half-life, and when CA or roots change. `bundle` judges clients."""

    def __init__(
        self,
        authority: Callable[[], CertificateAuthority],
        bundle: Callable[[], TrustBundle],
        names: ServerNames,
        *,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._authority = authority
        self._bundle = bundle
        self._names = names
        self._clock = clock
        self._rng = rng
        self._made: tuple[CertificateAuthority, TrustBundle] | None = None
        self._renew_at = WallTime(0.0)
        self._context: ssl.SSLContext

    @property
    def identity(self) -> SpiffeId:
        return control_identity(self._authority().trust_domain)

    def current(self) -> ssl.SSLContext:
        """For the next connection. Raises HboneError when the CA has ended."""
        authority, bundle, now = self._authority(), self._bundle(), self._clock.wall()
        if self._made != (authority, bundle) or now >= self._renew_at:
            self._context = self._make(authority, bundle, now)
            self._made = (authority, bundle)
        return self._context

    def _make(self, authority: CertificateAuthority, bundle: TrustBundle, now: WallTime) -> ssl.SSLContext:
        key = new_key()
        leaf = serving_certificate(authority, key.public_key(), self._names, now=now, serial=new_serial(self._rng))
        self._renew_at = WallTime(now + (leaf.not_valid_after_utc.timestamp() - now) / 2)
        # the root goes along, which costs half a kilobyte: a machine with a join token knows it by its hash alone
        chain = dict.fromkeys([leaf, *authority.chain, anchor_of(authority)])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_chain(context, b"".join(one.public_bytes(Encoding.PEM) for one in chain), key)
        self._set_up(context, bundle.pem(authority.trust_domain))
        return context

    def _set_up(self, context: ssl.SSLContext, roots_pem: bytes) -> None:
        """What clients must speak, and whether they show who they are."""
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        context.num_tickets = 0  # a resumed session would carry a client's certificate past its revocation
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        if roots_pem:
            context.load_verify_locations(cadata=roots_pem.decode())


class AnonymousContexts(ServingContexts):
    """The same certificate for clients who are not asked for theirs, and speak HTTP/1.1: a bundle endpoint's must not
    be (SPIFFE Federation §5.2.1)."""

    def _set_up(self, context: ssl.SSLContext, roots_pem: bytes) -> None:
        del roots_pem
        set_up_for_the_web(context)


class FileContexts:
    """A certificate and key in PEM files, read again when either changes; a pair that does not fit changes nothing."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises UsageError."""
        self._paths = (certificate, key)
        self._seen = self._stamps()
        self._context = self._load()

    def current(self) -> ssl.SSLContext:
        """For the next connection."""
        seen = self._stamps()
        if seen != self._seen:
            try:
                self._context = self._load()
            except UsageError as error:
                log.error("certificate not taken, the former one stays", extra={"error": str(error)})
            self._seen = seen
        return self._context

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        set_up_for_the_web(context)
        certificate, key = self._paths
        try:
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"{certificate} and {key} cannot be served with",
                why=error.strerror or str(error)[:200],
                fix="give a PEM certificate with its chain, and its unencrypted PEM key",
            ) from error
        return context


def set_up_for_the_web(context: ssl.SSLContext) -> None:
    """HTTP/1.1 for anybody."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_NONE


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def load_chain(context: ssl.SSLContext, chain_pem: bytes, key: PrivateKey) -> None:
    """Give a context a certificate whose key is in memory only."""
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _as_file(chain_pem + key_pem) as path:
        context.load_cert_chain(path)


@contextlib.contextmanager
def _as_file(content: bytes) -> Generator[str]:
    """A path that OpenSSL can read `content` from, for as long as the context lasts."""
    if not hasattr(os, "memfd_create"):  # macOS
        with tempfile.NamedTemporaryFile() as file:  # mode 0600
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
