"""X.509-SVIDs: X509-SVID standard §2 to §5."""

import base64
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from hbone.identity.svid import InvalidSvid, NotAnSvid, X509Svid, is_self_signed, leaf_faults, load_key, spiffe_id_of
from tests.support.pki import Sheet, SpiffeCA, new_key

CART = "spiffe://cluster.local/ns/shop/sa/cart"
ROOT = SpiffeCA(name="root")
MIDDLE = ROOT.intermediate()


def leaf(key: Any = None, **fields: Any) -> x509.Certificate:
    return MIDDLE.sign(replace(Sheet(uris=(CART,)), **fields), key or new_key())


def test_pem_files_make_an_svid_and_it_writes_them_back() -> None:
    made = MIDDLE.svid(CART)
    read = X509Svid.from_pem(made.chain_pem(), made.key_pem())
    assert read == made
    assert str(read.spiffe_id) == CART
    assert read.leaf is read.chain[0]
    assert read.serial == made.leaf.serial_number
    assert read.not_after == made.leaf.not_valid_after_utc.timestamp()
    assert read.not_before == made.leaf.not_valid_before_utc.timestamp()
    assert read.key_pem().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_root_in_the_chain_file_is_left_out() -> None:
    made = MIDDLE.svid(CART)
    chain = made.chain_pem() + ROOT.cert.public_bytes(Encoding.PEM)
    assert X509Svid.from_pem(chain, made.key_pem()).chain == made.chain


def test_an_svid_ends_when_its_first_certificate_does() -> None:
    short = ROOT.intermediate("short", sheet=Sheet(ca=True, usage=("key_cert_sign",), extended=None, ends_h=0.5))
    svid = short.svid(CART)
    assert svid.not_after == short.cert.not_valid_after_utc.timestamp()


def test_the_key_is_in_no_text_of_an_svid() -> None:
    svid = MIDDLE.svid(CART)
    assert isinstance(svid.key, ec.EllipticCurvePrivateKey)
    secret = svid.key.private_numbers().private_value
    shown = f"{svid!r} {svid} {[svid]}"
    assert "key" not in shown.lower()
    assert str(secret) not in shown
    assert CART in shown


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(InvalidSvid, match="does not belong"):
        X509Svid.of([leaf()], new_key())


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(InvalidSvid, match="needs a certificate"):
        X509Svid.of([], new_key())


@pytest.mark.parametrize("chain", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_chain_file_without_certificates_is_refused(chain: bytes) -> None:
    with pytest.raises(InvalidSvid, match="no PEM certificates"):
        X509Svid.from_pem(chain, MIDDLE.svid(CART).key_pem())


def test_a_ca_certificate_is_no_svid_of_ours() -> None:
    key = new_key()
    with pytest.raises(InvalidSvid, match="it is a CA certificate"):
        X509Svid.of([leaf(key, ca=True)], key)


def test_a_certificate_without_identity_is_no_svid_of_ours() -> None:
    key = new_key()
    with pytest.raises(InvalidSvid, match="no SPIFFE ID"):
        X509Svid.of([leaf(key, uris=())], key)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"uris": ()}, "no SPIFFE ID"),
        ({"uris": (), "dns": ("cart.shop",)}, "no SPIFFE ID"),
        ({"uris": (CART, CART)}, "2 URI names"),
        ({"uris": (CART, "https://example.test/")}, "2 URI names"),
        ({"uris": ("https://example.test/",)}, "begin with spiffe"),
        ({"uris": ("spiffe://cluster.local",)}, "whole trust domain"),
        ({"uris": ("spiffe://cluster.local/ns//sa/x",)}, "empty segment"),
    ],
)
def test_an_identity_is_exactly_one_uri_name_with_a_path(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(NotAnSvid, match=said) as caught:
        spiffe_id_of(leaf(**fields))
    assert caught.value.alert == 42


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dns": ("cart.shop.svc",)},
        {"san_critical": False, "subject": "cart"},
        {"usage": None},
        {"extended": None},
        {"ca": None},
        {"usage": ("digital_signature", "key_encipherment", "key_agreement")},
    ],
)
def test_what_the_standard_leaves_open_is_accepted(fields: dict[str, Any]) -> None:
    assert str(spiffe_id_of(leaf(**fields))) == CART
    assert leaf_faults(leaf(**fields)) == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ca": True}, ["CA certificate"]),
        ({"usage": ("digital_signature", "key_cert_sign")}, ["keyCertSign"]),
        ({"usage": ("digital_signature", "crl_sign")}, ["cRLSign"]),
        ({"usage": ("key_encipherment",)}, ["digitalSignature"]),
        ({"ca": True, "usage": ("key_cert_sign", "crl_sign")}, ["CA cert", "keyCertSign", "cRLSign", "digitalSig"]),
    ],
)
def test_every_fault_of_a_leaf_is_listed(fields: dict[str, Any], said: list[str]) -> None:
    faults = leaf_faults(leaf(**fields))
    assert len(faults) == len(said)
    assert all(word in fault.what and fault.fix for word, fault in zip(said, faults, strict=True))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (rsa.generate_private_key(65537, 1024), "1024 bits"),
        (ed25519.Ed25519PrivateKey.generate(), "neither EC nor RSA"),
        (ec.generate_private_key(ec.SECP192R1()), "secp192r1"),
    ],
)
def test_weak_and_foreign_keys_are_faults(key: Any, said: str) -> None:
    assert said in leaf_faults(leaf(key))[0].what


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
def test_rsa_2048_and_p384_leaves_are_fine(key: Any) -> None:
    assert leaf_faults(leaf(key)) == ()


def test_extensions_that_cannot_be_parsed_refuse_the_certificate() -> None:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x05garbage")
    certificate = leaf(uris=(), more=(x509.Extension(broken.oid, False, broken),))
    with pytest.raises(NotAnSvid, match="cannot be parsed"):
        spiffe_id_of(certificate)


def test_keys_are_read_and_bad_ones_never_quoted() -> None:
    key = new_key()
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert isinstance(load_key(pkcs8), ec.EllipticCurvePrivateKey)
    sec1 = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert isinstance(load_key(sec1), ec.EllipticCurvePrivateKey)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(InvalidSvid, match="encrypted"):
        load_key(locked)
    body = pkcs8.splitlines()[1]
    with pytest.raises(InvalidSvid, match="not a PEM private key") as caught:
        load_key(b"-----BEGIN PRIVATE KEY-----\n" + body[:40] + b"\n-----END PRIVATE KEY-----\n")
    assert body[:40].decode() not in repr(caught.value)
    with pytest.raises(InvalidSvid, match="neither EC nor RSA"):
        load_key(ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_self_signed_means_signed_by_itself_not_merely_named_so() -> None:
    assert is_self_signed(ROOT.cert)
    assert not is_self_signed(MIDDLE.cert)
    assert not is_self_signed(SpiffeCA(name="root", parent=ROOT).cert)


def test_a_certificate_of_an_unknown_version_is_refused_in_words() -> None:
    raw = bytearray(MIDDLE.cert.public_bytes(Encoding.DER))
    at = raw.index(b"\xa0\x03\x02\x01\x02")  # [0] EXPLICIT version: v3
    raw[at + 4] = 7
    body = base64.b64encode(raw)
    with pytest.raises(InvalidSvid, match="no PEM certificates"):
        X509Svid.from_pem(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n", b"")
