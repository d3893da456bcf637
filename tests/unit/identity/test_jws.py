"""Signed tokens: the RFCs' own examples; times and audiences by table. Forgeries: tests/link/test_control_jwt.py."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hbone.identity.jwk import Jwk, algorithms_of, decode, encode, parse_key_set
from hbone.identity.jws import (
    InvalidToken,
    SignedToken,
    UnknownKey,
    audiences,
    check_signature,
    check_times,
    parse_token,
    sign_es256,
)
from hbone.net.clock import new_key
from hbone.times import WallTime

KEY = new_key()
OURS = Jwk(key=KEY.public_key(), kid="k", algorithms=algorithms_of(KEY.public_key()))
ALL = frozenset({"RS256", "ES256", "EdDSA", "PS256"})
NOW = WallTime(1_900_000_000.0)


def keys(entry: dict[str, str]) -> tuple[Jwk, ...]:
    return parse_key_set(json.dumps({"keys": [entry]}))


# RFC 7515 §A.3
ES256 = (
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
ES256_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


def test_the_example_of_the_rfc() -> None:
    token = parse_token(ES256)
    assert token.claims["iss"] == "joe"
    check_signature(token, keys(ES256_KEY), allowed=ALL)
    with pytest.raises(InvalidToken, match=r"expired at 2011-03-22T18:43:00Z: it is 2030-03-17T17:46:40Z here"):
        check_times(token.claims, NOW)


def test_the_example_for_ed25519() -> None:
    """RFC 8037 §A.4; its payload is no JSON, so the parts are put together by hand."""
    signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    token = SignedToken(header={"alg": "EdDSA"}, claims={}, signed=signed.encode(), signature=decode(signature))
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    check_signature(token, keys(key), allowed=ALL)


def test_what_we_sign_is_ours_and_nobody_elses() -> None:
    token = parse_token(sign_es256(KEY, "k", {"sub": "me"}))
    assert check_signature(token, [OURS], allowed=ALL) is OURS
    other = new_key().public_key()
    with pytest.raises(InvalidToken, match="signature is wrong"):
        check_signature(token, [Jwk(key=other, kid="k", algorithms=algorithms_of(other))], allowed=ALL)
    with pytest.raises(UnknownKey):
        check_signature(token, [Jwk(key=other, kid="x", algorithms=algorithms_of(other))], allowed=ALL)
    with pytest.raises(InvalidToken, match="not accepted"):
        check_signature(token, [OURS], allowed={"RS256"})


def test_a_signature_of_another_width_is_wrong() -> None:
    token = parse_token(sign_es256(KEY, "k", {}))
    with pytest.raises(InvalidToken, match="signature is wrong"):
        check_signature(replace(token, signature=token.signature[:-1]), [OURS], allowed=ALL)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW + 1}, ""),
        ({"exp": NOW - 59}, ""),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": NOW + 1, "nbf": NOW + 60}, ""),
        ({"exp": NOW + 99, "nbf": NOW + 61}, "begins at"),
        ({"exp": NOW + 99, "iat": NOW + 61}, "begins at"),
        ({}, "never expires"),
        ({"exp": None}, "never expires"),
        ({"exp": True}, "no time"),
        ({"exp": "1900000001"}, "no time"),
        ({"exp": -1}, "no time"),
        ({"exp": 1e300}, "no time"),
        ({"exp": NOW + 1, "nbf": [1]}, "no time"),
    ],
)
def test_times(claims: dict[str, Any], reason: str) -> None:
    if not reason:
        check_times(claims, NOW)
        return
    with pytest.raises(InvalidToken, match=reason):
        check_times(claims, NOW)


@pytest.mark.parametrize(
    ("value", "found"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), (["a", 7], ("a",)), (None, ()), (7, ()), ({"a": 1}, ())],
)
def test_audiences(value: object, found: tuple[str, ...]) -> None:
    assert audiences({"aud": value}) == found


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b", "a.b.c.d", f"{encode(b'{}')}..", f"{encode(b'7')}.{encode(b'{}')}.", "é.é.é"]
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidToken):
        parse_token(text)
