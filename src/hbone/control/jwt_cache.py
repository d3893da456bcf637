"""JWT-SVIDs that a machine's processes were given, kept for whoever asks next. Decides.

A token is handed out again until half of its life is spent; from then on a new one is asked for, and the old one
serves for as long as none can be had and it has not ended. Each identity has a share of its own, so that a process
which asks for ever new audiences drives out nobody else's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import field
from typing import Final

from hbone.control.jwt_svid import InvalidJwtSvid
from hbone.identity.jws import InvalidToken, audiences, check_times, parse_token
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import SpiffeId
from hbone.times import WallTime
from hbone.values import dataclass

MAX_HELD: Final = 64
"""Tokens of one identity that are kept: the audiences that one workload speaks to."""

Audience = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A token, and when it came. Times are wall time here; `ends` is what the token says."""

    token: str = field(repr=False)
    came_at: WallTime
    ends: WallTime

    @property
    def renew_at(self) -> WallTime:
        return WallTime((self.came_at + self.ends) / 2)


class TokenCache:
    """By identity and audience."""

    def __init__(self) -> None:
        self._held: dict[SpiffeId, OrderedDict[Audience, Held]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def fresh(self, identity: SpiffeId, audience: Audience, now: WallTime) -> Held | None:
        """One with half of its life to come."""
        found = self.held(identity, audience, now)
        return found if found is not None and now < found.renew_at else None

    def held(self, identity: SpiffeId, audience: Audience, now: WallTime) -> Held | None:
        """One that has not ended."""
        share = self._held.get(identity)
        found = share.get(audience) if share is not None else None
        # a clock that was put back says nothing about how long the token has been here
        return found if found is not None and found.came_at <= now < found.ends else None

    def put(self, identity: SpiffeId, audience: Audience, held: Held) -> None:
        share = self._held.setdefault(identity, OrderedDict())
        share.pop(audience, None)
        share[audience] = held
        if len(share) > MAX_HELD:
            share.popitem(last=False)

    def drop(self, identity: SpiffeId) -> None:
        """It is not had here any more."""
        self._held.pop(identity, None)

    def revoked(self, revocations: Revocations) -> None:
        """Keep nothing of what was revoked."""
        for identity, share in tuple(self._held.items()):
            kept = {key: one for key, one in share.items() if not revocations.of_identity(identity, one.came_at)}
            if len(kept) < len(share):
                self._held[identity] = OrderedDict(kept)


def received(token: str, identity: SpiffeId, audience: Sequence[str], now: WallTime) -> Held:
    """What was signed for us, if it is what was asked for; raises InvalidJwtSvid. Who signed it was known before."""
    try:
        claims = parse_token(token).claims
        check_times(claims, now)
        ends = WallTime(float(claims["exp"]))
    except (InvalidToken, ValueError, TypeError) as error:
        raise InvalidJwtSvid(f"the token for {identity} cannot be used", why=str(error)[:200]) from error
    if claims.get("sub") != str(identity) or set(audiences(claims)) != set(audience):
        raise InvalidJwtSvid(f"the token for {identity} cannot be used", why="it is not what was asked for")
    return Held(token=token, came_at=now, ends=ends)
