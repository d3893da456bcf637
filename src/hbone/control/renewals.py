"""Which certificate to ask for next, and what is known of each meanwhile. Decides; `hbone.control.renew` asks.

Every identity is in one of four states. A certificate that is valid keeps serving whatever happens to its renewal;
the state is `Unavailable` only where there is none to serve.

    Initialising ──issued──> Available <──issued── Unavailable
         └──failed──> Unavailable      │
                           ▲           └─ its end passes without a successor: Expired, which a
                           └───────────── caller's need or the next retry leads out of

Requests wait in the order of (priority, due time); at most `MAX_CONCURRENT` are out at once.
"""

from collections.abc import Iterator
from enum import Enum, IntEnum

from hbone.control.credentials import Credentials
from hbone.errors import HboneError
from hbone.identity.revocation import Revocations
from hbone.identity.rotation import DANGER, has_ended, life_spent, next_threshold_s, passed, renew_at, retry_after
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import authority_key_id
from hbone.times import Clock, Instant, Rng, WallTime
from hbone.values import dataclass

MAX_CONCURRENT = 8  # as ztunnel: a restarted node must not hold a CA under hundreds of requests at once


_RENEW_WITHIN_S = 60.0
_AGAIN_S = 1.0
_LATE_S = 0.001  # past a threshold, not on it


class Priority(IntEnum):
    """How urgently a certificate is needed; the lesser goes first."""

    REAL_TIME = 0
    WARM_UP = 1
    BACKGROUND = 2


class State(Enum):
    INITIALISING = "Initialising"
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"
    EXPIRED = "Expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityView:
    """One identity as the operator sees it. `failing` is why the last attempt to renew failed, empty if it did not.
    `spent`: which part of the certificate's life is over, None without one."""

    spiffe_id: SpiffeId
    state: State
    serial: int | None
    not_after: WallTime | None
    renewal_in_s: float
    attempts_failed: int
    failing: str
    spent: float | None = None

    @property
    def in_danger(self) -> bool:
        """There is a certificate, it is about to end or has, and its renewal fails."""
        return self.spent is not None and self.spent >= DANGER and bool(self.failing)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeWarning:
    """A certificate whose renewal fails is older than another part of its life: `threshold`, 1 for all of it."""

    spiffe_id: SpiffeId
    threshold: float
    ends_in_s: float
    failing: str


class _Entry:
    __slots__ = ("came", "credentials", "due", "error", "failures", "priority", "requested", "warned")

    def __init__(self, due: Instant, priority: Priority) -> None:
        self.credentials: Credentials | None = None
        self.error: HboneError | None = None
        self.due = due
        self.priority = priority
        self.failures = 0
        self.requested = False
        self.came = WallTime(0.0)  # when the credentials did
        self.warned = 0.0  # the threshold of their life that was told last

    def spent(self, wall: WallTime) -> float | None:
        return None if self.credentials is None else life_spent(self.credentials.svid, came=self.came, now=wall)

    def state(self, wall: WallTime) -> State:
        if self.credentials is not None:
            return State.EXPIRED if has_ended(self.credentials.svid, wall) else State.AVAILABLE
        return State.INITIALISING if self.error is None else State.UNAVAILABLE


class Renewals:
    """All identities that this process needs."""

    def __init__(self, clock: Clock, rng: Rng) -> None:
        self._clock = clock
        self._rng = rng
        self._entries: dict[SpiffeId, _Entry] = {}
        self._out = 0

    def __contains__(self, spiffe_id: object) -> bool:
        return spiffe_id in self._entries

    def need(self, spiffe_id: SpiffeId, priority: Priority) -> None:
        """This identity is needed, so urgently. What is due later, or less urgently, is moved forward only where
        there is nothing valid to serve; a failure's waiting time is kept, so that callers cannot storm the CA."""
        entry = self._entries.get(spiffe_id)
        if entry is None:
            self._entries[spiffe_id] = _Entry(self._clock.now(), priority)
            return
        state = entry.state(self._clock.wall())
        if state is not State.AVAILABLE:
            entry.priority = min(entry.priority, priority)
        if state is State.EXPIRED and not entry.failures:
            entry.due = min(entry.due, self._clock.now())  # the machine slept through the renewal

    def forget(self, spiffe_id: SpiffeId) -> None:
        """Nobody needs it any more. What is on its way is thrown away when it arrives."""
        self._entries.pop(spiffe_id, None)

    def renew_soon(self, revocations: Revocations, leaving: frozenset[bytes]) -> None:
        """Certificates of authorities with these key identifiers are due soon: spread over a quarter of the remaining
        life and a minute at most, so that not all come at one moment. At once: revoked ones, and where there is none.
        """
        now, wall = self._clock.now(), self._clock.wall()
        for entry in self._entries.values():
            if entry.requested:
                continue
            current = entry.credentials if entry.state(wall) is State.AVAILABLE else None
            if current is None or revocations.is_revoked(current.svid.chain) is not None:
                spread_s = _AGAIN_S
            elif leaving and authority_key_id(current.svid.leaf) in leaving:
                spread_s = min(_RENEW_WITHIN_S, (current.svid.not_after - wall) / 4)
            else:
                continue
            entry.due = min(entry.due, Instant(now + self._rng.uniform(0.0, spread_s)))

    def credentials(self, spiffe_id: SpiffeId) -> Credentials | None:
        """What is valid now, None if there is nothing."""
        entry = self._entries.get(spiffe_id)
        if entry is None or entry.state(self._clock.wall()) is not State.AVAILABLE:
            return None
        return entry.credentials

    def failure(self, spiffe_id: SpiffeId) -> HboneError | None:
        """Why the last attempt failed; None while it is not known to have."""
        entry = self._entries.get(spiffe_id)
        return None if entry is None else entry.error

    def take_due(self) -> list[SpiffeId]:
        """What to ask for now. Each must be followed by `issued` or `failed`."""
        now = self._clock.now()
        waiting = [
            (entry.priority, entry.due, spiffe_id)
            for spiffe_id, entry in self._entries.items()
            if not entry.requested and entry.due <= now
        ]
        taken = [spiffe_id for _, _, spiffe_id in sorted(waiting)[: MAX_CONCURRENT - self._out]]
        for spiffe_id in taken:
            self._entries[spiffe_id].requested = True
        self._out += len(taken)
        return taken

    def next_due(self) -> Instant | None:
        """When `take_due` has something to give; None: not before something else happens."""
        if self._out >= MAX_CONCURRENT:
            return None
        return min((entry.due for entry in self._entries.values() if not entry.requested), default=None)

    def next_look(self) -> Instant | None:
        """When `take_due` or `warnings` has something to give."""
        due = self.next_due()
        return min((*self._thresholds(), *(() if due is None else (due,))), default=None)

    def _thresholds(self) -> Iterator[Instant]:
        """When each certificate whose renewal fails passes the next threshold that was not told yet. Not the next one
        from now on: one that passes between `warnings` and this would not be told at all.
        """
        now, wall = self._clock.now(), self._clock.wall()
        for entry in self._entries.values():
            if entry.failures and entry.credentials is not None:
                wait_s = next_threshold_s(entry.credentials.svid, came=entry.came, now=wall, told=entry.warned)
                if wait_s is not None:
                    yield Instant(now + wait_s + _LATE_S)

    def warnings(self) -> list[LifeWarning]:
        """What has become dangerous since the last call: one for each certificate and threshold."""
        wall = self._clock.wall()
        found: list[LifeWarning] = []
        for spiffe_id, entry in self._entries.items():
            spent = entry.spent(wall)
            if spent is None or entry.credentials is None or not entry.failures:
                continue
            threshold = passed(spent)
            if threshold > entry.warned:
                entry.warned = threshold
                ends_in_s = entry.credentials.svid.not_after - wall
                failing = str(entry.error)
                found.append(
                    LifeWarning(spiffe_id=spiffe_id, threshold=threshold, ends_in_s=ends_in_s, failing=failing)
                )
        return found

    def issued(self, spiffe_id: SpiffeId, credentials: Credentials) -> bool:
        """It came; False if nobody needs it any more."""
        entry = self._returned(spiffe_id)
        if entry is None:
            return False
        entry.credentials, entry.error, entry.failures = credentials, None, 0
        entry.priority = Priority.BACKGROUND
        came = entry.came = self._clock.wall()
        entry.warned = 0.0
        at = renew_at(credentials.svid, self._rng.uniform(-1.0, 1.0), came=came)
        # a certificate that is nearly over when it comes, from a CA near its own end, must not be asked for in a loop
        wait_s = max(at - came, retry_after(0, self._rng))
        entry.due = Instant(self._clock.now() + wait_s)
        return True

    def failed(self, spiffe_id: SpiffeId, error: HboneError) -> float:
        """It did not come: seconds until the next attempt, 0 if nobody needs it any more."""
        entry = self._returned(spiffe_id)
        if entry is None:
            return 0.0
        wait_s = retry_after(entry.failures, self._rng)
        entry.failures += 1
        entry.error = error
        if entry.credentials is not None:  # once more at its end, if that is before
            left_s = entry.credentials.svid.not_after - self._clock.wall()
            wait_s = min(wait_s, left_s) if left_s > 0 else wait_s
        entry.due = Instant(self._clock.now() + wait_s)
        return wait_s

    def views(self) -> tuple[IdentityView, ...]:
        now, wall = self._clock.now(), self._clock.wall()
        return tuple(
            IdentityView(
                spiffe_id=spiffe_id,
                state=entry.state(wall),
                serial=entry.credentials.svid.serial if entry.credentials else None,
                not_after=entry.credentials.svid.not_after if entry.credentials else None,
                renewal_in_s=max(0.0, entry.due - now),
                attempts_failed=entry.failures,
                failing=str(entry.error) if entry.error else "",
                spent=entry.spent(wall),
            )
            for spiffe_id, entry in self._entries.items()
        )

    def _returned(self, spiffe_id: SpiffeId) -> _Entry | None:
        self._out -= 1
        entry = self._entries.get(spiffe_id)
        if entry is not None:
            entry.requested = False
        return entry
