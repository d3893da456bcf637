"""Certificate revocation lists (RFC 5280 §5): one for each authority, signed by it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509

from hbone.ca.profile import CLOCK_SKEW_S, authority_key_of, digest_for
from hbone.errors import HboneError
from hbone.identity.svid import PrivateKey
from hbone.times import WallTime
from hbone.values import dataclass

LIFETIME_S = 7 * 86400.0  # nextUpdate; a new one is signed at half of it, and at each revocation

REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "keyCompromise": x509.ReasonFlags.key_compromise,
    "cACompromise": x509.ReasonFlags.ca_compromise,
    "affiliationChanged": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessationOfOperation": x509.ReasonFlags.cessation_of_operation,
    "privilegeWithdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""RFC 5280 §5.3.1, by the names it gives them. A certificate cannot be taken off the list again, so no hold."""


class CannotSignCrl(HboneError):
    """The authority may not sign revocation lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedSerial:
    """One entry. `reason` is a key of REASONS."""

    serial: int
    at: WallTime
    reason: str = "unspecified"


def may_sign(issuer: x509.Certificate) -> bool:
    """Whether its key usage allows it; Istio's self-signed roots do not have cRLSign."""
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def sign_crl(
    issuer: tuple[x509.Certificate, PrivateKey], entries: Iterable[RevokedSerial], *, number: int, now: WallTime
) -> x509.CertificateRevocationList:
    """The list of `issuer`, `number` growing with each. Raises CannotSignCrl."""
    certificate, key = issuer
    if not may_sign(certificate):
        raise CannotSignCrl(
            f"{certificate.subject.rfc4514_string()} cannot sign revocation lists", why="its key usage lacks cRLSign"
        )
    moment = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(moment - timedelta(seconds=CLOCK_SKEW_S))
        .next_update(moment + timedelta(seconds=LIFETIME_S))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(authority_key_of(certificate), critical=False)
    )
    for entry in entries:
        revoked = (
            x509.RevokedCertificateBuilder()
            .serial_number(entry.serial)
            .revocation_date(datetime.fromtimestamp(entry.at, UTC))
        )
        reason = REASONS[entry.reason]
        if reason is not x509.ReasonFlags.unspecified:  # §5.3.1: absent rather than unspecified
            revoked = revoked.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(key, digest_for(key))
