"""Certificates in PEM form (RFC 7468), with words for what cannot be read."""

from typing import Final

from cryptography import x509

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


class NoCertificates(ValueError):
    """The text holds no readable certificates; the message says why, in a line."""


def certificates_in(pem: bytes) -> list[x509.Certificate]:
    """One or several concatenated; raises NoCertificates."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        # the library's own words help with what is inside a block; for anything else they lead astray
        why = " ".join(str(error).split())[:200] if _BEGIN in pem else "no BEGIN CERTIFICATE is in it"
        raise NoCertificates(why) from error
