"""JWT-SVIDs from the key of the mesh: who may have one, and the record of it.

The rules are those of certificates: whoever may have the certificate of an identity may have its tokens, and what was
revoked has neither. Each token is in the audit log before it is handed out; the token itself is written nowhere.
"""

import logging
from collections.abc import Callable, Sequence

from hbone.control import audit
from hbone.control.caplane import CaPlane
from hbone.control.issue import Asked, CannotSign, Entitlement, NotEntitled
from hbone.control.jwt_svid import InvalidJwtSvid, JwtKeys, audience_of
from hbone.errors import StoreFailed
from hbone.identity.spiffe import SpiffeId
from hbone.times import WallTime

log = logging.getLogger("hbone.control")

THIS_MACHINE = "a process of this machine"


class JwtMinter:
    """For one control plane. `ttl_s`: how long a token lasts; it may be changed at any time."""

    def __init__(self, ca: CaPlane, *, ttl_s: float) -> None:
        self._ca = ca
        self.ttl_s = ttl_s

    async def mint(self, identity: SpiffeId, audience: Sequence[str], *, caller: str, refusal: Entitlement) -> str:
        """Raises NotEntitled, InvalidJwtSvid, CannotSign; each is logged with its reason."""
        try:
            self._check(identity, caller, refusal)
            now = self._ca.place.clock.wall()
            token = self._keys.issue(identity, audience, now=now, ttl_s=self.ttl_s)
            await self._record(identity, audience_of(audience), caller, now)
        except (NotEntitled, InvalidJwtSvid, CannotSign) as error:
            log.warning("JWT-SVID refused", extra={"caller": caller, "error": str(error)[:500]})
            raise
        return token

    @property
    def _keys(self) -> JwtKeys:
        return self._ca.jwt

    def _check(self, identity: SpiffeId, caller: str, refusal: Entitlement) -> None:
        why = refusal(identity)
        if why:
            raise NotEntitled(f"no JWT-SVID for {identity}", why=why, fix="ask as one who may have its certificate")
        why = self._ca.revoker.refusal(Asked(spiffe_id=identity, key_sha256=b"", caller=caller))
        if why:
            fix = "see `hbone cert list --revoked`, and `hbone cert restore` if that was a mistake"
            raise NotEntitled(f"no JWT-SVID for {identity}", why=f"{why} was revoked", fix=fix)

    async def _record(self, identity: SpiffeId, audience: Sequence[str], caller: str, now: WallTime) -> None:
        values: audit.Values = {
            "event": "jwt issued",
            "at": now,
            "spiffe_id": str(identity),
            "audience": ", ".join(audience),
            "not_after": float(int(now + self.ttl_s)),
            "kid": self._keys.kid,
            "caller": caller,
        }
        try:
            await self._ca.store.write(lambda database: audit.append(database, values))
        except StoreFailed as error:
            raise CannotSign(error.what, why=error.why, fix=error.fix) from error


class OwnJwt:
    """For processes beside the control plane, whose identities its own rules give them (`JwtSource`)."""

    def __init__(self, minter: Callable[[], JwtMinter]) -> None:
        self._minter = minter

    async def mint(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        return await self._minter().mint(identity, audience, caller=THIS_MACHINE, refusal=lambda _: "")
