"""The JWT-SVIDs of one machine's processes: asked for where they are signed, and kept (`hbone.control.jwt_cache`).

    svids = JwtSvids(source, clock)
    token = await svids.get(identity, audience)

While the signer is away, what is kept is served until it ends. One call is under way for an identity at a time, and
an identity has so many of them a second and no more: what a process here does costs others little.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol

from grpclib.const import Status

from hbone.control.channel import ControlRefused
from hbone.control.issue import NotEntitled
from hbone.control.jwt_cache import Held, TokenCache, received
from hbone.control.jwt_svid import InvalidJwtSvid, audience_of
from hbone.control.limiter import CallerLimits
from hbone.control.rpc import Refusal
from hbone.errors import HboneError, Unreachable
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import SpiffeId
from hbone.protocol.limits import Rate
from hbone.times import Clock, Instant

log = logging.getLogger("hbone.control")

RATE: Final = Rate(burst=100, per_s=10)
"""New tokens that the processes of one identity may ask for."""

PATIENCE_S: Final = 2.0  # for a new token, where an old one still serves
DEADLINE_S: Final = 10.0  # for the first one
AWAY_S: Final = 1.0  # who did not answer is left alone for so long, where an old one still serves

_CODES: Final = {
    "INVALID_ARGUMENT": Status.INVALID_ARGUMENT,
    "UNIMPLEMENTED": Status.UNIMPLEMENTED,
    "PERMISSION_DENIED": Status.PERMISSION_DENIED,
    "UNAUTHENTICATED": Status.PERMISSION_DENIED,
}


class JwtSource(Protocol):
    """Where tokens are signed."""

    async def mint(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        """Raises HboneError."""
        ...


class JwtSvids:
    """For all processes of one machine."""

    def __init__(self, source: JwtSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._cache = TokenCache()
        self._limits = CallerLimits(RATE)
        self._asking: defaultdict[SpiffeId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._away_until = Instant(0.0)

    async def get(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        """A token that is good now. Raises Refusal: INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
        UNIMPLEMENTED where nobody signs any, UNAVAILABLE."""
        try:
            names = audience_of(audience)
        except InvalidJwtSvid as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        key, now = frozenset(names), self._clock.wall()
        fresh = self._cache.fresh(identity, key, now)
        if fresh is not None:
            return fresh.token
        held = self._cache.held(identity, key, now)
        if held is not None and self._clock.now() < self._away_until:
            return held.token
        try:
            async with asyncio.timeout(PATIENCE_S if held is not None else DEADLINE_S):
                return (await self._renewed(identity, names)).token
        except (HboneError, TimeoutError) as error:
            refusal = _refusal(identity, error)
            if refusal.code is Status.PERMISSION_DENIED:
                self._cache.drop(identity)
            if refusal.code is Status.UNAVAILABLE:
                self._away_until = Instant(self._clock.now() + AWAY_S)
            if held is None or refusal.code not in {Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED}:
                raise refusal from error
            log.info("no new JWT-SVID, the former one serves", extra={"identity": str(identity), "error": str(error)})
            return held.token

    def forget(self, identity: SpiffeId) -> None:
        """It is not had on this machine any more."""
        self._cache.drop(identity)
        self._asking.pop(identity, None)

    def trust_changed(self, revocations: Revocations) -> None:
        """Nothing of what was revoked is handed out again."""
        self._cache.revoked(revocations)

    async def _renewed(self, identity: SpiffeId, names: Sequence[str]) -> Held:
        key = frozenset(names)
        async with self._asking[identity]:
            fresh = self._cache.fresh(identity, key, self._clock.wall())
            if fresh is not None:  # somebody asked while we waited
                return fresh
            self._check_rate(identity)
            token = await self._source.mint(identity, names)
            held = received(token, identity, names, self._clock.wall())
            self._cache.put(identity, key, held)
        log.info(
            "JWT-SVID issued",
            extra={"identity": str(identity), "audience": ", ".join(names)[:200], "not_after": held.ends},
        )
        return held

    def _check_rate(self, identity: SpiffeId) -> None:
        wait_s = self._limits.wait_s(identity, self._clock.now())
        if wait_s > 0:
            raise Refusal(
                Status.RESOURCE_EXHAUSTED,
                f"too many new JWT-SVIDs of {identity}",
                why=f"the limit is {RATE.burst} at once and {RATE.per_s:g} a second",
                fix=f"ask again in {wait_s:.1f} s; a token for the same audience is kept and costs nothing",
            )


def _refusal(identity: SpiffeId, error: HboneError | TimeoutError) -> Refusal:
    """The same for the process that asked."""
    match error:
        case Refusal():
            return error
        case NotEntitled():
            return Refusal(Status.PERMISSION_DENIED, error.what, why=error.why, fix=error.fix)
        case ControlRefused(code="UNIMPLEMENTED"):
            what = "JWT-SVIDs are not signed by this node's control plane"
            return Refusal(Status.UNIMPLEMENTED, what, why=str(error), fix="a control plane of hbone signs them")
        case ControlRefused():
            code = _CODES.get(error.code, Status.UNAVAILABLE)
            return Refusal(code, f"no JWT-SVID for {identity}", why=error.why or error.what, fix=error.fix)
        case Unreachable() | InvalidJwtSvid() | HboneError():
            return Refusal(Status.UNAVAILABLE, f"no JWT-SVID for {identity} now", why=str(error), fix="ask again")
        case _:
            return Refusal(Status.UNAVAILABLE, f"no JWT-SVID for {identity} now", why="no answer in time")
