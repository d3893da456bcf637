"""The certificates that a client has shown, by whatever the running Python offers to ask for them."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.control.presented import presented_chain
from tests.support.pki import SpiffeCA


class Since313:
    """`ssl.SSLObject` of Python 3.13: a method of its own, which fails if no certificate was shown."""

    def __init__(self, chain: list[bytes]) -> None:
        self.chain = chain

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        assert binary_form
        return self.chain[0] if self.chain else None

    def get_unverified_chain(self) -> list[bytes]:
        if not self.chain:
            raise AttributeError("'NoneType' object has no attribute 'public_bytes'")
        return self.chain


class Inner:
    def __init__(self, chain: list[bytes]) -> None:
        self.chain: list[Shown | None] = [*map(Shown, chain)] or [None]

    def get_unverified_chain(self) -> "list[Shown | None]":
        return self.chain


class Shown:
    def __init__(self, der: bytes) -> None:
        self.der = der

    def public_bytes(self, encoding: int) -> bytes:
        return self.der


class Before:
    """`ssl.SSLObject` before: only the inner object has the method, and says `[None]` if none was shown."""

    def __init__(self, chain: list[bytes]) -> None:
        self._leaf = chain[0] if chain else None
        self._sslobj = Inner(chain)

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        return self._leaf


@pytest.mark.parametrize("kind", [Since313, Before])
def test_the_chain_is_what_was_shown_and_empty_if_nothing_was(
    kind: type[Since313 | Before], spiffe_ca: SpiffeCA
) -> None:
    root: x509.Certificate = spiffe_ca.root
    assert presented_chain(kind([root.public_bytes(Encoding.DER)])) == (root,)
    assert presented_chain(kind([])) == ()


@pytest.mark.parametrize("kind", [Since313, Before])
def test_one_that_cannot_be_read_ends_the_connection(kind: type[Since313 | Before]) -> None:
    with pytest.raises(ConnectionError):
        presented_chain(kind([b"no certificate"]))
