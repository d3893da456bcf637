"""Revocation lists as RFC 5280 §5 has them."""

from dataclasses import replace

import pytest
from cryptography import x509

from hbone.ca.crl import LIFETIME_S, REASONS, CannotSignCrl, RevokedSerial, may_sign, sign_crl
from hbone.ca.profile import CLOCK_SKEW_S
from hbone.times import WallTime
from tests.support.pki import AUTHORITY, SpiffeCA, new_key

NOW = WallTime(1_800_000_000)
CA = SpiffeCA()


def test_a_list_is_signed_dated_and_numbered() -> None:
    crl = sign_crl((CA.cert, CA.key), [], number=7, now=NOW)
    assert crl.is_signature_valid(CA.key.public_key())
    assert crl.issuer == CA.cert.subject
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    key_id = CA.cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == key_id
    assert crl.last_update_utc.timestamp() == NOW - CLOCK_SKEW_S
    assert crl.next_update_utc is not None
    assert crl.next_update_utc.timestamp() == NOW + LIFETIME_S
    assert len(crl) == 0


@pytest.mark.parametrize("reason", REASONS)
def test_each_entry_has_its_serial_number_date_and_reason(reason: str) -> None:
    crl = sign_crl((CA.cert, CA.key), [RevokedSerial(serial=77, at=NOW, reason=reason)], number=1, now=NOW)
    entry = crl.get_revoked_certificate_by_serial_number(77)
    assert entry is not None
    assert entry.revocation_date_utc.timestamp() == NOW
    if reason == "unspecified":
        assert len(entry.extensions) == 0, "absent rather than unspecified (RFC 5280 §5.3.1)"
    else:
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == REASONS[reason]


def test_an_authority_without_crl_sign_signs_none() -> None:
    strict = SpiffeCA(sheet=replace(AUTHORITY, usage=("key_cert_sign",)))
    assert not may_sign(strict.cert)
    with pytest.raises(CannotSignCrl, match="lacks cRLSign"):
        sign_crl((strict.cert, strict.key), [], number=1, now=NOW)
    assert may_sign(SpiffeCA(sheet=replace(AUTHORITY, usage=None), key=new_key()).cert)
