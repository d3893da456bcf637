"""JWT-SVIDs: the rules of the standard that go beyond a JWT's."""

import json
from pathlib import Path

import pytest

from hbone.control.jwt_keyfile import load_or_create
from hbone.control.jwt_svid import MAX_AUDIENCES, InvalidJwtSvid, JwtKeys, validate
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.jwk import encode, parse_key_set
from hbone.identity.jws import sign_es256
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import new_key
from hbone.times import WallTime
from tests.support.controlplane import DOMAIN, spiffe

WEB = spiffe("shop", "web")
NOW = WallTime(1_900_000_000.0)
KEY = new_key()
KEYS = JwtKeys.of(DOMAIN, KEY)
TRUSTED = {DOMAIN: KEYS.known}


def made(**claims: object) -> str:
    return sign_es256(KEY, KEYS.kid, {"sub": str(WEB), "aud": ["db"], "exp": int(NOW) + 60, **claims})


def test_a_token_says_who_for_whom_and_until_when() -> None:
    token = KEYS.issue(WEB, ["db", "db", "", "cache"], now=NOW)
    spiffe_id, claims = validate(token, "cache", TRUSTED, now=NOW)
    assert spiffe_id == WEB
    assert claims["aud"] == ["db", "cache"]
    assert claims["exp"] == NOW + 300


@pytest.mark.parametrize("audience", [[], [""], [str(number) for number in range(MAX_AUDIENCES + 1)], ["x" * 5000]])
def test_a_token_is_for_somebody_and_not_for_everybody(audience: list[str]) -> None:
    with pytest.raises(InvalidJwtSvid, match="audiences"):
        KEYS.issue(WEB, audience, now=NOW)


@pytest.mark.parametrize(
    ("token", "audience", "reason"),
    [
        (made(), "other", "not for other"),
        (made(), "", "an empty audience"),
        (made(aud=None), "db", "for nobody"),
        (made(exp=int(NOW) - 61), "db", "expired"),
        (made(sub="https://x"), "db", "not a SPIFFE ID"),
        (made(sub=None), "db", "not a SPIFFE ID"),
        (made(sub="spiffe://elsewhere.example/x"), "db", "no keys of trust domain elsewhere.example"),
        ("a.b.c", "db", "not a JWT"),
    ],
)
def test_a_bad_token_is_refused(token: str, audience: str, reason: str) -> None:
    with pytest.raises(InvalidJwtSvid, match=reason):
        validate(token, audience, TRUSTED, now=NOW)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none"}, "not accepted"),
        ({"alg": "HS256"}, "not accepted"),
        ({"alg": "EdDSA"}, "not accepted"),
        ({"alg": "ES256", "typ": "at+jwt"}, "another type"),
        ({"alg": "ES256", "jku": "https://x"}, "header has 'jku'"),
        ({"alg": "ES256", "crit": []}, "header has 'crit'"),
    ],
)
def test_headers_that_the_standard_forbids(header: dict[str, object], reason: str) -> None:
    _, body, signature = made().split(".")
    token = f"{encode(json.dumps(header).encode())}.{body}.{signature}"
    with pytest.raises(InvalidJwtSvid, match=reason):
        validate(token, "db", TRUSTED, now=NOW)


def test_keys_of_another_domain_do_not_count() -> None:
    with pytest.raises(InvalidJwtSvid, match="no keys of trust domain"):
        validate(made(), "db", {TrustDomain("other"): KEYS.known}, now=NOW)


def test_a_successor_is_announced_then_signs_and_the_former_is_known_on() -> None:
    successor = new_key()
    announced = KEYS.announcing(successor)
    assert announced.kid == KEYS.kid
    after = announced.rotated(successor)
    assert after.kid != KEYS.kid
    assert len(parse_key_set(json.dumps(after.bundle()), use="jwt-svid")) == 2
    for token in (KEYS.issue(WEB, ["db"], now=NOW), after.issue(WEB, ["db"], now=NOW)):
        assert validate(token, "db", {DOMAIN: after.known}, now=NOW)[0] == WEB


def test_the_key_file_is_made_once_and_kept_closed(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    made_first = load_or_create(path, DOMAIN)
    assert load_or_create(path, DOMAIN).kid == made_first.kid
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(InvalidConfiguration, match="lets others in"):
        load_or_create(path, DOMAIN)
    path.chmod(0o600)
    path.write_text("nothing")
    with pytest.raises(UsageError, match="is no key"):
        load_or_create(path, DOMAIN)
    with pytest.raises(UsageError, match="cannot be used"):
        load_or_create(tmp_path / "none" / "key.pem", DOMAIN)
