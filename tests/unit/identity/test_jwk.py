"""JSON Web Keys: the RFCs' own examples, and what must be left out."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hbone.identity.jwk import (
    MAX_KEYS,
    InvalidKeySet,
    PublicJwk,
    algorithms_of,
    decode,
    encode,
    key_set,
    parse_key_set,
    thumbprint,
    to_jwk,
)

# RFC 7638 §3.1
RSA = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
    "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
    "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
    "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
}
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}  # RFC 8037 §A.2
EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}  # RFC 7515 §A.3


def parsed(*entries: object, use: str = "sig") -> list[str]:
    """The key ids that are usable."""
    return [jwk.kid for jwk in parse_key_set(json.dumps({"keys": entries}), use=use)]


def test_the_thumbprints_of_the_rfcs() -> None:
    (rsa_key, ed_key) = parse_key_set(json.dumps({"keys": [RSA, ED25519]}))
    assert thumbprint(rsa_key.key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert thumbprint(ed_key.key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037 §A.3


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ],
    ids=["P-256", "P-384", "P-521", "RSA", "Ed25519"],
)
def test_a_key_written_is_the_key_read(key: PublicJwk) -> None:
    (found,) = parse_key_set(json.dumps(key_set([("a", key)], use="jwt-svid")), use="jwt-svid")
    assert found.key == key
    assert found.kid == "a"
    assert found.algorithms == algorithms_of(key)


def test_a_key_signs_with_the_algorithms_of_its_kind_and_of_its_own_choice() -> None:
    (anything,) = parse_key_set(json.dumps({"keys": [RSA]}))
    (chosen,) = parse_key_set(json.dumps({"keys": [{**RSA, "alg": "RS256"}]}))
    assert anything.algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert chosen.algorithms == {"RS256"}


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {},
        {"kty": "oct", "k": "c2VjcmV0"},
        {**EC, "use": "enc"},
        {**EC, "crv": "secp256k1"},
        {**EC, "x": "AAAA"},
        {**EC, "y": EC["x"]},
        {**EC, "x": 7},
        {"kty": "EC", "crv": "P-256"},
        {**EC, "alg": "RS256"},
        {**EC, "kid": 7},
        {**RSA, "n": "AQAB"},
        {**RSA, "n": encode(b"\x80" + b"\x01" * 127)},
        {**ED25519, "x": "AAAA"},
        {**ED25519, "crv": "X25519"},
    ],
)
def test_a_key_that_cannot_be_used_is_left_out(entry: object) -> None:
    assert parsed(entry, {**EC, "kid": "good"}) == ["good"]


def test_a_use_that_must_be_named_is_not_taken_for_granted() -> None:
    entries = [{**EC, "kid": "none"}, {**EC, "kid": "sig", "use": "sig"}, {**EC, "kid": "svid", "use": "jwt-svid"}]
    assert parsed(*entries) == ["none", "sig"]
    assert parsed(*entries, use="jwt-svid") == ["svid"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', "nonsense", "[" * 100_000, '{"keys": null}'])
def test_what_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeySet):
        parse_key_set(text)


def test_a_set_has_a_limit() -> None:
    with pytest.raises(InvalidKeySet, match="101 keys"):
        parsed(*[EC] * (MAX_KEYS + 1))


@pytest.mark.parametrize("raw", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_base64url_there_and_back(raw: bytes) -> None:
    assert decode(encode(raw)) == raw


@pytest.mark.parametrize("text", ["=", "YQ==", "a+b/", "Y", "YR", "é", "Y Q"])
def test_base64url_has_one_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64url|ascii"):
        decode(text)


def test_members_are_written_as_the_rfcs_do() -> None:
    (key,) = parse_key_set(json.dumps({"keys": [EC]}))
    assert to_jwk(key.key) == EC
