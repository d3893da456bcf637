"""JWT-SVIDs (SPIFFE JWT-SVID standard): made for the workloads of a mesh, and judged for them.

The signing key is the mesh's own, of no other use. Its successor is announced in the bundle before it signs, and it
stays there until what it signed has ended (`rotated`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from hbone.errors import PeerViolation
from hbone.identity.jwk import Jwk, algorithms_of, key_set, thumbprint
from hbone.identity.jws import (
    Claims,
    InvalidToken,
    audiences,
    check_signature,
    check_times,
    parse_token,
    sign_es256,
)
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain
from hbone.times import WallTime
from hbone.values import dataclass

TTL_S: Final = 300.0
MAX_AUDIENCES: Final = 32
MAX_AUDIENCE_CHARS: Final = 4096

ALGORITHMS: Final = frozenset({f"{kind}{bits}" for kind in ("RS", "ES", "PS") for bits in ("256", "384", "512")})
_HEADERS: Final = frozenset({"alg", "kid", "typ"})  # JWT-SVID §2: no other member


class InvalidJwtSvid(PeerViolation):
    """A token that is no JWT-SVID for whoever it was shown to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtKeys:
    """The keys of one trust domain. `signing` makes tokens; all of `known` are accepted."""

    trust_domain: TrustDomain
    signing: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    known: tuple[Jwk, ...]

    @classmethod
    def of(cls, trust_domain: TrustDomain, key: ec.EllipticCurvePrivateKey) -> Self:
        """With one key, on P-256."""
        return cls(trust_domain=trust_domain, signing=key, known=(_public(key),))

    @property
    def kid(self) -> str:
        return thumbprint(self.signing.public_key())

    def announcing(self, successor: ec.EllipticCurvePrivateKey) -> Self:
        """With a key that will sign later."""
        return replace(self, known=(*self.known, _public(successor)))

    def rotated(self, successor: ec.EllipticCurvePrivateKey) -> Self:
        """Signing with `successor`; the former key is still accepted."""
        known = {jwk.kid: jwk for jwk in (*self.known, _public(successor))}
        return replace(self, signing=successor, known=tuple(known.values()))

    def bundle(self) -> dict[str, Any]:
        """The JWK set of what is accepted."""
        return key_set(((jwk.kid, jwk.key) for jwk in self.known), use="jwt-svid")

    def issue(self, spiffe_id: SpiffeId, audience: Sequence[str], *, now: WallTime, ttl_s: float = TTL_S) -> str:
        """A token of this identity for `audience`; raises InvalidJwtSvid as `audience_of`."""
        claims = {"sub": str(spiffe_id), "aud": audience_of(audience), "exp": int(now + ttl_s), "iat": int(now)}
        return sign_es256(self.signing, self.kid, claims)


def audience_of(names: Sequence[str]) -> list[str]:
    """Whom a token is to be for, each once; raises InvalidJwtSvid when that is nobody, or endless."""
    wanted = [name for name in dict.fromkeys(names) if name]
    if not wanted or len(wanted) > MAX_AUDIENCES:
        raise InvalidJwtSvid(
            f"a token for {len(wanted)} audiences", fix=f"name 1 to {MAX_AUDIENCES}: those who are to accept it"
        )
    length = sum(map(len, wanted))
    if length > MAX_AUDIENCE_CHARS:
        raise InvalidJwtSvid(f"audiences of {length} characters", fix=f"at most {MAX_AUDIENCE_CHARS} in all")
    return wanted


def validate(
    token: str, audience: str, keys: Mapping[TrustDomain, Sequence[Jwk]], *, now: WallTime
) -> tuple[SpiffeId, Claims]:
    """Whose token this is, and its claims; raises InvalidJwtSvid. Only keys of the subject's own trust domain count."""
    try:
        parsed = parse_token(token)
        extra = sorted(set(parsed.header) - _HEADERS)
        if extra:
            raise InvalidToken(f"the token's header has {extra[0][:40]!r}", why="a JWT-SVID has alg, kid and typ only")
        if parsed.header.get("typ", "JWT") not in {"JWT", "JOSE"}:
            raise InvalidToken("the token is of another type", why="`typ` is neither JWT nor JOSE")
        spiffe_id = SpiffeId.parse(str(parsed.claims.get("sub", "")))
        trusted = keys.get(spiffe_id.trust_domain)
        if trusted is None:
            raise InvalidToken(f"no keys of trust domain {spiffe_id.trust_domain} are known")
        check_signature(parsed, trusted, allowed=ALGORITHMS)
        check_times(parsed.claims, now)
        if not audience or audience not in audiences(parsed.claims):
            found = ", ".join(audiences(parsed.claims))[:200] or "nobody"
            raise InvalidToken(f"the token is for {found}", why=f"not for {audience[:200] or 'an empty audience'}")
    except (InvalidToken, InvalidSpiffeId) as error:
        raise InvalidJwtSvid(error.what, why=error.why, fix=error.fix) from error
    return spiffe_id, parsed.claims


def _public(key: ec.EllipticCurvePrivateKey) -> Jwk:
    public = key.public_key()
    return Jwk(key=public, kid=thumbprint(public), algorithms=algorithms_of(public))
