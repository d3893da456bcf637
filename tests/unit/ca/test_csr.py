"""Certificate requests."""

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.ca.csr import MAX_REQUEST_BYTES, InvalidRequest, KeyKinds, check_request, new_request
from hbone.identity.spiffe import SpiffeId
from tests.support.pki import new_key

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
KEY = new_key()


def request(key: Any = KEY, *names: x509.GeneralName, subject: str | None = None) -> str:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM).decode()


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def test_our_own_request_is_ztunnels_form_and_passes() -> None:
    pem = new_request(KEY, CART)
    parsed = x509.load_pem_x509_csr(pem.encode())
    assert parsed.subject == x509.Name([])
    (extension,) = parsed.extensions
    assert extension.critical
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    assert extension.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(CART)]
    assert check_request(pem, CART) == KEY.public_key()
    assert check_request(pem.encode(), CART) == KEY.public_key()


@pytest.mark.parametrize("pem", [request(), request(KEY, subject="x"), request(KEY, uri(str(CART)), subject="x")])
def test_names_may_be_absent_or_the_asked_identity_and_the_subject_is_ignored(pem: str) -> None:
    assert check_request(pem, CART) == KEY.public_key()


@pytest.mark.parametrize(
    "names",
    [
        [uri("spiffe://cluster.local/ns/shop/sa/admin")],
        [uri(str(CART)), uri("spiffe://cluster.local/ns/shop/sa/admin")],
        [uri(str(CART)), uri(str(CART))],
        [uri(str(CART)), x509.DNSName("istiod.istio-system.svc")],
        [x509.DNSName("x")],
    ],
)
def test_a_request_for_other_names_is_refused(names: list[x509.GeneralName]) -> None:
    with pytest.raises(InvalidRequest, match="is not for spiffe://cluster"):
        check_request(request(KEY, *names), CART)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_istios_keys_are_taken_only_where_allowed(key: Any) -> None:
    assert check_request(request(key), CART, keys=KeyKinds.ISTIO) == key.public_key()
    with pytest.raises(InvalidRequest, match="use P-256"):
        check_request(request(key), CART)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (rsa.generate_private_key(65537, 1024), "1024 bits"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (ed25519.Ed25519PrivateKey.generate(), "neither EC nor RSA"),
    ],
)
def test_other_keys_are_never_taken(key: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        check_request(request(key), CART, keys=KeyKinds.ISTIO)


def test_a_request_signed_by_another_key_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(request().encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(InvalidRequest, match="signature is wrong"):
        check_request(forged, CART)


@pytest.mark.parametrize(
    "pem", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_what_is_no_request_is_refused(pem: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read") as caught:
        check_request(pem, CART)
    assert caught.value.status == 400


def test_a_huge_request_is_not_even_parsed() -> None:
    with pytest.raises(InvalidRequest, match="bytes"):
        check_request("x" * (MAX_REQUEST_BYTES + 1), CART)


ORIGINAL = x509.load_pem_x509_csr(new_request(KEY, CART).encode())
DER = ORIGINAL.public_bytes(Encoding.DER)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_one_changed_byte_never_passes_and_never_raises_anything_else(place: int, value: int) -> None:
    raw = bytearray(DER)
    if raw[place] == value:
        return
    raw[place] = value
    try:
        changed = x509.load_der_x509_csr(bytes(raw))
        if (changed.tbs_certrequest_bytes, changed.signature) == (ORIGINAL.tbs_certrequest_bytes, ORIGINAL.signature):
            return  # another spelling around the same statement and signature (a bit string's count of unused bits)
    except (ValueError, x509.InvalidVersion):
        pass
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.b64encode(raw).decode()}\n-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(InvalidRequest):
        check_request(pem, CART)
