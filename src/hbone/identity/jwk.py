"""JSON Web Keys (RFC 7517): the public halves that signatures are checked with, and how to write ours.

A set is read as leniently as the RFC asks (unknown keys are skipped) and used strictly: a key signs with the
algorithms of its own kind and no other, whatever a token's header claims.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hbone.errors import HboneError
from hbone.values import dataclass

MAX_KEYS: Final = 100  # of one set; the largest public ones have ten
MIN_RSA_BITS: Final = 2048

PublicJwk = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class InvalidKeySet(HboneError):
    """Text that is no JWK set, or holds no key that can be used."""

    flag = "IDENTITY_ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwk:
    """One public key. `kid` empty: it has none. `algorithms`: what it may sign with."""

    key: PublicJwk
    kid: str = ""
    algorithms: frozenset[str]


def algorithms_of(key: PublicJwk) -> frozenset[str]:
    """The JWS algorithms that a key's kind allows (RFC 7518 §3.1, RFC 8037 §3.1)."""
    match key:
        case ec.EllipticCurvePublicKey():
            return frozenset({_EC_ALGORITHMS[CURVE_NAMES[key.curve.name]]})
        case rsa.RSAPublicKey():
            return _RSA_ALGORITHMS
        case _:
            return frozenset({"EdDSA"})


def parse_key_set(text: str | bytes, *, use: str = "sig") -> tuple[Jwk, ...]:
    """The keys of a JWK set that are for `use` or name no use ("jwt-svid" must be named); others are left out.

    Raises InvalidKeySet where the document is malformed.
    """
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidKeySet("a JWK set is not JSON", why=str(error)[:200]) from error
    keys = cast("dict[str, object]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise InvalidKeySet("a JWK set has no array `keys`", fix='write {"keys": […]}')
    entries = cast("list[object]", keys)
    if len(entries) > MAX_KEYS:
        raise InvalidKeySet(f"a JWK set of {len(entries)} keys", fix=f"at most {MAX_KEYS}")
    found = (_parse(cast("dict[str, object]", entry), use) for entry in entries if isinstance(entry, dict))
    return tuple(jwk for jwk in found if jwk is not None)


def key_set(keys: Iterable[tuple[str, PublicJwk]], *, use: str) -> dict[str, Any]:
    """A JWK set of (kid, key), as a JSON object."""
    return {"keys": [{**to_jwk(key), "kid": kid, "use": use} for kid, key in keys]}


def to_jwk(key: PublicJwk) -> dict[str, str]:
    """The required members alone (RFC 7518 §6, RFC 8037 §2), in the order of their names."""
    match key:
        case ec.EllipticCurvePublicKey():
            numbers, size = key.public_numbers(), (key.key_size + 7) // 8
            curve = CURVE_NAMES[key.curve.name]
            return {"crv": curve, "kty": "EC", "x": _number(numbers.x, size), "y": _number(numbers.y, size)}
        case rsa.RSAPublicKey():
            public = key.public_numbers()
            return {"e": _number(public.e), "kty": "RSA", "n": _number(public.n)}
        case _:
            return {"crv": "Ed25519", "kty": "OKP", "x": encode(key.public_bytes_raw())}


def thumbprint(key: PublicJwk) -> str:
    """The key's name for itself (RFC 7638)."""
    return encode(sha256(json.dumps(to_jwk(key), separators=(",", ":"), sort_keys=True).encode()).digest())


def encode(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Base64url without padding; raises ValueError for anything else, two spellings of one value included."""
    raw = text.encode("ascii")
    if b"=" in raw or b"+" in raw or b"/" in raw:
        raise ValueError("not base64url")
    try:
        value = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if encode(value) != text:
        raise ValueError("not canonical base64url")
    return value


def _parse(entry: Mapping[str, object], use: str) -> Jwk | None:
    """None for a key that is not ours to use: another use, an unknown kind, or malformed."""
    named = entry.get("use")
    if named != use and (named is not None or use != "sig"):
        return None
    try:
        key = _key(entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if key is None:
        return None
    algorithms, own = algorithms_of(key), entry.get("alg")
    if isinstance(own, str):
        algorithms &= {own}
    kid = entry.get("kid", "")
    return Jwk(key=key, kid=kid, algorithms=algorithms) if isinstance(kid, str) and algorithms else None


def _key(entry: Mapping[str, Any]) -> PublicJwk | None:
    match entry["kty"], entry.get("crv"):
        case "EC", str(curve):
            x, y = (int.from_bytes(decode(entry[name]), "big") for name in ("x", "y"))
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
        case "RSA", _:
            e, n = (int.from_bytes(decode(entry[name]), "big") for name in ("e", "n"))
            key = rsa.RSAPublicNumbers(e, n).public_key()
            return key if key.key_size >= MIN_RSA_BITS else None
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(decode(entry["x"]))
        case _:
            return None


def _number(value: int, size: int | None = None) -> str:
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))
