"""The certificates that the other end of a connection by the `ssl` module showed, verified or not."""

from typing import Any, Final

from cryptography import x509

_ENCODING_DER: Final = 2  # of the private class that Python has for certificates before 3.13


def presented_chain(ssl_object: Any) -> tuple[x509.Certificate, ...]:
    """Leaf first; empty if none was shown. Raises ConnectionError for one that cannot be read.

    A method of its own came with Python 3.13, where it fails if none was shown; before, only the inner object has it.
    """
    if ssl_object.getpeercert(binary_form=True) is None:
        return ()
    if hasattr(ssl_object, "get_unverified_chain"):
        ders = [bytes(der) for der in ssl_object.get_unverified_chain() or ()]
    else:
        inner: Any = ssl_object._sslobj
        ders = [bytes(one.public_bytes(_ENCODING_DER)) for one in inner.get_unverified_chain() or ()]
    try:
        return tuple(x509.load_der_x509_certificate(der) for der in ders)
    except ValueError as error:
        raise ConnectionError("a certificate that cannot be read") from error
