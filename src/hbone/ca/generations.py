"""The CA's life: which authorities there are, which one signs, and whose roots everybody trusts.

An authority (a signing certificate, its chain and its roots) is one generation. Its state says all:

    PREPARED ──publish──> PUBLISHED ──activate──> ACTIVE ──another takes over──┬─same root──> REPLACED ─┐
     │  ▲                  │     ▲                  │  ▲                       └─new root──> RETIRING ─┤
     │  └───────back───────┘     └───────back───────┘  └────────────────back──────────────────┘        │
     └─back──> RETIRED <───────────────────────────────retire──────────────────────────────────────────┘

Every bundle holds the roots of what is PUBLISHED, ACTIVE, RETIRING or REPLACED. Exactly one is ACTIVE. A rotation of
the root is the way of a second one from PREPARED to ACTIVE and of the first to RETIRED; where it stands is read off
the states, so there is nothing else to keep in step. Nothing but `retire` takes trust away from a certificate in use.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Final, Self

from cryptography import x509

from hbone.ca.authority import CertificateAuthority
from hbone.errors import UsageError
from hbone.identity.bundle import TrustBundle
from hbone.identity.svid import wall_time
from hbone.times import WallTime
from hbone.values import dataclass


class State(Enum):
    """Of one authority; see the picture above."""

    PREPARED = "prepared"
    PUBLISHED = "published"
    ACTIVE = "active"
    REPLACED = "replaced"
    RETIRING = "retiring"
    RETIRED = "retired"


class Phase(Enum):
    """How far a rotation of the root has come."""

    NONE = "none"
    PREPARED = "prepared"
    PUBLISHED = "published"
    ACTIVATED = "activated"


TRUSTED = frozenset({State.PUBLISHED, State.ACTIVE, State.REPLACED, State.RETIRING})


class WrongPhase(UsageError):
    """A step of a rotation that does not follow from where it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One authority and its state. `number` grows with each that is made and is never used again."""

    number: int
    authority: CertificateAuthority
    state: State
    since: WallTime

    @property
    def root(self) -> x509.Certificate:
        return self.authority.own_root

    def at(self, state: State, now: WallTime) -> "Generation":
        return replace(self, state=state, since=now)


@dataclass(frozen=True, slots=True)
class Generations:
    """All of them by number. Each step gives the next value, and changes nothing."""

    by_number: Mapping[int, Generation]

    @classmethod
    def of(cls, generations: Iterable[Generation]) -> Self:
        return cls({one.number: one for one in generations})

    # --- questions --------------------------------------------------------------------------------------------

    @property
    def active(self) -> Generation:
        return self._only(State.ACTIVE)

    @property
    def phase(self) -> Phase:
        states = {one.state for one in self.by_number.values()}
        if State.PREPARED in states:
            return Phase.PREPARED
        if State.PUBLISHED in states:
            return Phase.PUBLISHED
        return Phase.ACTIVATED if State.RETIRING in states else Phase.NONE

    @property
    def incoming(self) -> Generation | None:
        """The authority that a rotation leads to, while it does not sign yet."""
        found = (one for one in self.by_number.values() if one.state in {State.PREPARED, State.PUBLISHED})
        return next(found, None)

    def in_state(self, *states: State) -> tuple[Generation, ...]:
        return tuple(one for one in self.by_number.values() if one.state in states)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """What everybody is to trust, the active authority's first."""
        ordered = (self.active, *self.in_state(*TRUSTED))
        return tuple(dict.fromkeys(root for one in ordered for root in one.authority.roots))

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle.of(self.active.authority.trust_domain, self.roots)

    @property
    def trusted_chains(self) -> tuple[x509.Certificate, ...]:
        """Signing certificates that lie between what is in use and the roots."""
        found = (link for one in self.in_state(*TRUSTED) for link in (one.authority.signer, *one.authority.chain))
        roots = self.roots
        return tuple(dict.fromkeys(link for link in found if link not in roots))

    # --- steps --------------------------------------------------------------------------------------------------

    def with_intermediate(self, new: Generation) -> Self:
        """`new`, under the root of the active one, signs from now on. Raises WrongPhase during a rotation."""
        self._require(Phase.NONE)
        old = self.active.at(State.REPLACED, new.since)
        return self._with(old, new.at(State.ACTIVE, new.since))

    def prepare(self, new: Generation) -> Self:
        """A rotation to `new` begins; nobody notices yet."""
        self._require(Phase.NONE)
        return self._with(new.at(State.PREPARED, new.since))

    def publish(self, now: WallTime) -> Self:
        """The new roots go into every bundle."""
        self._require(Phase.PREPARED)
        return self._with(self._only(State.PREPARED).at(State.PUBLISHED, now))

    def activate(self, now: WallTime) -> Self:
        """The new authority signs; what the old one signed stays good."""
        self._require(Phase.PUBLISHED)
        return self._with(self.active.at(State.RETIRING, now), self._only(State.PUBLISHED).at(State.ACTIVE, now))

    def retire(self, now: WallTime) -> Self:
        """The old roots leave every bundle. There is no way back."""
        self._require(Phase.ACTIVATED)
        gone = {root for one in self.in_state(State.RETIRING) for root in one.authority.roots}
        gone -= set(self.active.authority.roots)
        old = [one for one in self.in_state(State.RETIRING, State.REPLACED) if one.root in gone]
        # an imported intermediate under a root that stays is merely replaced
        kept = [one for one in self.in_state(State.RETIRING) if one.root not in gone]
        retired = (one.at(State.RETIRED, now) for one in old)
        return self._with(*retired, *(one.at(State.REPLACED, now) for one in kept))

    def back(self, now: WallTime) -> Self:
        """One step back: the state before the last one. Raises WrongPhase without a rotation."""
        match self.phase:
            case Phase.PREPARED:
                return self._with(self._only(State.PREPARED).at(State.RETIRED, now))
            case Phase.PUBLISHED:
                return self._with(self._only(State.PUBLISHED).at(State.PREPARED, now))
            case Phase.ACTIVATED:
                former = max(self.in_state(State.RETIRING), key=lambda one: one.since)
                if wall_time(former.authority.signer.not_valid_after_utc) <= now:
                    raise WrongPhase("there is no way back", why="the former authority has ended")
                return self._with(self.active.at(State.PUBLISHED, now), former.at(State.ACTIVE, now))
            case Phase.NONE:
                raise WrongPhase("no rotation is under way", fix="see `hbone ca status`")

    def plug(self, new: Generation) -> Self:
        """`new` comes from files that an operator keeps; they alone say who signs and which roots are trusted."""
        others = (one.at(State.RETIRED, new.since) for one in self.by_number.values())
        return self._with(*others, new.at(State.ACTIVE, new.since))

    def recover(self, new: Generation) -> Self:
        """`new` signs at once; roots that have ended are trusted no longer, others until they are retired."""
        ended = {one.number for one in self.by_number.values() if wall_time(one.root.not_valid_after_utc) <= new.since}
        others = [
            one.at(State.RETIRED if one.number in ended else State.RETIRING, new.since)
            for one in self.by_number.values()
            if one.state is not State.RETIRED
        ]
        return self._with(*others, new.at(State.ACTIVE, new.since))

    def _with(self, *changed: Generation) -> Self:
        return type(self)({**self.by_number, **{one.number: one for one in changed}})

    def _only(self, state: State) -> Generation:
        return next(one for one in self.by_number.values() if one.state is state)

    def _require(self, phase: Phase) -> None:
        if self.phase is phase:
            return
        if phase is Phase.NONE:
            raise WrongPhase(
                "a rotation of the root is under way",
                why=f"it is {self.phase.value}",
                fix="let it finish, or take it back with `hbone ca rotate-root --back`",
            )
        raise WrongPhase(f"the rotation is not {phase.value}", why=f"it is {self.phase.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a step of a rotation waits for.

    `laggards`: connected nodes that have not acknowledged the newest bundle, in words. `unaware`: certificates in use
    whose holders learn roots only with their next certificate. `old_leaves`: certificates in use that the authorities
    which are to go have signed; `until` is when the last of them ends. `unannounced_s`: how long other trust domains
    still need until all that look as often as they were asked to have seen the new root.
    """

    laggards: tuple[str, ...] = ()
    unaware: int = 0
    old_leaves: int = 0
    until: WallTime | None = None
    unannounced_s: float = 0.0


ANNOUNCED_FOR: Final = 3
"""Refresh hints for which a new root is in the bundle before it signs: Federation §5.4 recommends three to five."""


def waits_for(phase: Phase, around: Surroundings) -> tuple[str, ...]:
    """Why the next step cannot be taken yet, in words; empty if it can."""
    match phase:
        case Phase.PUBLISHED:
            reasons = [f"{one} has not acknowledged the new root" for one in around.laggards]
            if around.unaware:
                reasons.append(f"{_certificates(around.unaware)} of clients that learn of roots when they renew")
            if around.unannounced_s > 0:
                reasons.append(
                    f"other trust domains have not had the time to see it ({around.unannounced_s:.0f} s more)"
                )
            return tuple(reasons)
        case Phase.ACTIVATED:
            reasons = [f"{one} has not acknowledged the change" for one in around.laggards]
            if around.old_leaves:
                reasons.append(f"{_certificates(around.old_leaves)} of the old root still in use")
            return tuple(reasons)
        case _:
            return ()


def _certificates(count: int) -> str:
    return "1 certificate" if count == 1 else f"{count} certificates"
