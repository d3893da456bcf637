"""Signed tokens (JWT, RFC 7519) in the compact form of JWS (RFC 7515): taken apart, verified, made.

What the header says decides nothing by itself: an algorithm must be one that the verifier allows *and* that the kind
of the chosen key has, so neither `none` nor an HMAC over a public key passes (RFC 8725 §2.1, §3.1). A `kid` narrows
the choice of keys to those of that very name.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from hbone.errors import PeerViolation
from hbone.identity.jwk import Jwk, decode, encode
from hbone.times import WallTime
from hbone.values import dataclass

MAX_TOKEN_BYTES: Final = 16 * 1024  # a Kubernetes token has 1.2 KiB
MAX_TRIED: Final = 10  # keys, for a token that names none
LEEWAY_S: Final = 60.0  # clocks differ

_DIGESTS: Final = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}

Claims = Mapping[str, Any]


class InvalidToken(PeerViolation):
    """A token that proves nothing."""


class UnknownKey(InvalidToken):
    """A token of a key that is not in the set: the set may be out of date. Attribute: `kid`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedToken:
    """A token taken apart; nothing of it is verified."""

    header: Claims
    claims: Claims
    signed: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        return str(self.header.get("alg", ""))


def parse_token(text: str) -> SignedToken:
    """Three parts of base64url, the first two JSON objects; raises InvalidToken, never quoting the token."""
    if len(text) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"a token of {len(text)} characters", fix=f"at most {MAX_TOKEN_BYTES}")
    parts = text.split(".")
    if len(parts) != 3:
        raise InvalidToken("not a JWT", why=f"it has {len(parts)} parts, not three")
    try:
        header, claims = (_object(decode(part)) for part in parts[:2])
        signature = decode(parts[2])
    except (ValueError, RecursionError) as error:
        raise InvalidToken("not a JWT", why="its parts are not base64url of JSON objects") from error
    return SignedToken(header=header, claims=claims, signed=f"{parts[0]}.{parts[1]}".encode(), signature=signature)


def check_signature(token: SignedToken, keys: Sequence[Jwk], *, allowed: Collection[str]) -> Jwk:
    """The key that made the signature; raises InvalidToken, UnknownKey."""
    algorithm, kid = token.algorithm, token.header.get("kid")
    if algorithm not in allowed:
        raise InvalidToken(
            f"the token's algorithm {algorithm[:20]!r} is not accepted", fix=f"sign with {' or '.join(sorted(allowed))}"
        )
    if "crit" in token.header:  # RFC 7515 §4.1.11: what we do not understand must not be ignored
        raise InvalidToken("the token's header has critical extensions")
    if kid is not None and not isinstance(kid, str):
        raise InvalidToken("the token's key id is not text")
    named = [key for key in keys if kid is None or key.kid == kid]
    if not named:
        shown = f"key {kid[:80]!r}" if kid is not None else "any key"
        raise UnknownKey(f"{shown} of the token's issuer is not known", kid=kid)
    fitting = [key for key in named if algorithm in key.algorithms][:MAX_TRIED]
    if not fitting:
        raise InvalidToken(
            f"the issuer's key does not sign with {algorithm}", why="the header names the wrong algorithm"
        )
    for key in fitting:
        if _signed_by(token, key):
            return key
    raise InvalidToken("the token's signature is wrong", why="it was not made with the issuer's key")


def check_times(claims: Claims, now: WallTime, *, leeway_s: float = LEEWAY_S) -> None:
    """`exp` is there and in the future, `nbf` and `iat`, where given, are not; raises InvalidToken with both clocks."""
    expiry = _moment(claims, "exp")
    if expiry is None:
        raise InvalidToken("the token never expires", why="it has no `exp`")
    if now >= expiry + leeway_s:
        raise InvalidToken(f"the token expired at {_text(expiry)}", why=f"it is {_text(now)} here")
    for name in ("nbf", "iat"):
        begin = _moment(claims, name)
        if begin is not None and now < begin - leeway_s:
            raise InvalidToken(
                f"the token begins at {_text(begin)}", why=f"it is {_text(now)} here", fix="check both machines' clocks"
            )


def audiences(claims: Claims) -> tuple[str, ...]:
    """`aud`, which is one text or a list of them; empty when absent or malformed."""
    value: object = claims.get("aud")
    if isinstance(value, str):
        return (value,)
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(entry for entry in entries if isinstance(entry, str))


def sign_es256(key: ec.EllipticCurvePrivateKey, kid: str, claims: Claims) -> str:
    """A token of ours: ES256, with a key on P-256."""
    header = {"alg": "ES256", "kid": kid, "typ": "JWT"}
    signed = f"{_part(header)}.{_part(claims)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _signed_by(token: SignedToken, jwk: Jwk) -> bool:
    algorithm, key = token.algorithm, jwk.key
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                _verify_ecdsa(key, token, _DIGESTS[algorithm[2:]])
            case rsa.RSAPublicKey():
                digest = _DIGESTS[algorithm[2:]]
                pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
                scheme = pss if algorithm.startswith("PS") else padding.PKCS1v15()
                key.verify(token.signature, token.signed, scheme, digest)
            case ed25519.Ed25519PublicKey():
                key.verify(token.signature, token.signed)
    except InvalidSignature:
        return False
    return True


def _verify_ecdsa(key: ec.EllipticCurvePublicKey, token: SignedToken, digest: hashes.HashAlgorithm) -> None:
    size = (key.key_size + 7) // 8
    if len(token.signature) != 2 * size:  # RFC 7518 §3.4: r and s, both of full width
        raise InvalidSignature
    r, s = (int.from_bytes(half, "big") for half in (token.signature[:size], token.signature[size:]))
    key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(digest))


def _object(raw: bytes) -> dict[str, Any]:
    value: object = json.loads(raw, object_pairs_hook=_no_twins)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return cast("dict[str, Any]", value)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A member that is there twice means one thing to us and another to somebody else (RFC 7519 §4)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _moment(claims: Claims, name: str) -> float | None:
    value: object = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise InvalidToken(f"the token's `{name}` is no time")
    return float(value)


def _text(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%FT%TZ}"


def _part(value: Claims) -> str:
    return encode(json.dumps(value, separators=(",", ":")).encode())
