"""Certificates in PEM form."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from hbone.identity.pem import NoCertificates, certificates_in
from tests.support.mesh import new_authority

PEM = new_authority().roots[0].public_bytes(Encoding.PEM)


def test_several_come_in_their_order() -> None:
    assert len(certificates_in(PEM + b"a comment\n" + PEM)) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no BEGIN CERTIFICATE is in it"),
        (b"hello", "no BEGIN CERTIFICATE is in it"),
        (PEM.replace(b"BEGIN CERTIFICATE", b"BEGIN RUBBISH"), "no BEGIN CERTIFICATE is in it"),
        (PEM[:200], "PEM"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(text: bytes, why: str) -> None:
    with pytest.raises(NoCertificates, match=why) as caught:
        certificates_in(text)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300), st.integers(0, len(PEM)), st.integers(0, len(PEM)))
def test_no_text_makes_it_raise_anything_else(junk: bytes, start: int, end: int) -> None:
    try:
        certificates_in(PEM[:start] + junk + PEM[end:])
    except NoCertificates as error:
        assert str(error)
