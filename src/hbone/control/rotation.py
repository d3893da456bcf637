"""Rotating the root: takes each step when the one before has reached everybody, names whom it waits for.

The states are on disk, so a restart goes on where it was. Two things are waited for:

- before the new root signs, every connected node has acknowledged the bundle that holds it, and every certificate of
  a client that learns of roots only with its certificates has been replaced;
- before the old root leaves, no certificate that it vouches for is in use any more. Our own nodes renew those at once,
  over some seconds; of others they end.

A client that has just lost its connection, or was connected before a restart, may be about to come back: it is waited
for too, for a while.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from hbone.ca.generations import Generations, Phase, State, Surroundings, WrongPhase, waits_for
from hbone.control import records
from hbone.control.ads_service import SubscriberView
from hbone.control.authorities import Authorities
from hbone.control.caplane import CaPlane
from hbone.control.local_ca import LOCAL_HOLDER
from hbone.control.publish import Mesh
from hbone.control.store import StateStore
from hbone.control.trust import Trust
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.errors import HboneError, UsageError
from hbone.identity.svid import wall_time
from hbone.times import Clock, Instant, WallTime
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

COMES_BACK_S: Final = 25.0  # the longest pause of a subscriber between two attempts is 22.5 s (control/backoff.py)
RENEW_BELOW: Final = 0.2  # of its life: then an intermediate is replaced (istiod's grace period)
_LOOK_S: Final = 0.2
_NONE_YET: Final = 1 << 62  # the revision of a bundle that is still being made: nobody has it
_HOUSEKEEPING_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One connected node and the trust bundle. `aware`: it takes them; `current`: it has the newest in force."""

    node: str
    caller: str
    aware: bool
    current: bool
    refused: str = ""

    def __str__(self) -> str:
        return f"{self.node or 'a node'} ({self.caller})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationParts:
    """What a rotation works on. `subscribers`: who is connected; `revision` of the newest bundle. `announce_s`: how
    long a new root is in the bundle before it signs, for other trust domains that fetch it; 0 if they cannot."""

    store: StateStore
    authorities: Authorities
    trust: Trust
    clock: Clock
    subscribers: Callable[[], tuple[SubscriberView, ...]]
    revision: Callable[[], int]
    announce_s: float = 0.0


class Connected(Protocol):
    """Who knows the subscribers."""

    def subscribers(self) -> tuple[SubscriberView, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationView:
    """Where it stands. `waiting`: why the next step is not taken yet."""

    phase: Phase
    paused: bool
    waiting: tuple[str, ...]
    until: WallTime | None


class Rotation:
    """`run` is its life; the other calls are an operator's."""

    def __init__(self, parts: RotationParts) -> None:
        self._parts = parts
        self._started = parts.clock.now()
        self._seen: dict[str, Instant] = {}
        self._stepping = asyncio.Lock()
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()

    # --- an operator's wishes -----------------------------------------------------------------------------------

    async def forward(self) -> None:
        """Begin a rotation, or let one that was taken back go on. Raises CannotRenew, KeyUnavailable, StoreFailed."""
        async with self._stepping:
            authorities = self._parts.authorities
            if authorities.now.phase is Phase.NONE:
                self._require_own()
                await authorities.add(await authorities.new_root(), Generations.prepare, "root prepared")
            await self._pause("no")
        self.wake()

    async def back(self) -> None:
        """One step back, and stay there. Raises WrongPhase."""
        async with self._stepping:
            now = self._parts.clock.wall()
            if self._parts.authorities.now.phase is Phase.PUBLISHED:
                await self._require_unused()
            await self._pause("yes")
            await self._parts.authorities.change(lambda all_: all_.back(now), "rotation taken back")
            await self._parts.trust.publish()

    async def force(self) -> None:
        """The next step, whoever is not ready. Raises WrongPhase."""
        async with self._stepping:
            await self._step()
        self.wake()

    async def recover(self) -> None:
        """A new root signs at once. Raises WrongPhase while the one there is can still sign."""
        async with self._stepping:
            self._require_own()
            authorities, now = self._parts.authorities, self._parts.clock.wall()
            if authorities.signing.not_after > now:
                raise WrongPhase(
                    "there is nothing to recover from",
                    why="the CA has not ended and can sign",
                    fix="use `hbone ca rotate-root`, which loses no connection",
                )
            await authorities.add(await authorities.new_root(), Generations.recover, "root recovered")
            await self._parts.trust.publish()
            await self._pause("no")
        self.wake()

    async def renew_intermediate(self) -> None:
        """Raises WrongPhase during a rotation of the root, CannotRenew, AuthorityEnded."""
        async with self._stepping:
            self._require_own()
            authorities = self._parts.authorities
            if authorities.now.phase is not Phase.NONE:
                raise WrongPhase(
                    "the root is being rotated", why="that brings a new intermediate too", fix="see `hbone ca status`"
                )
            made = await authorities.new_intermediate()
            await authorities.add(made, Generations.with_intermediate, "intermediate rotated")
            await self._parts.trust.publish()

    # --- questions ----------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodeView, ...]:
        newest, revision = self._parts.trust.is_newest, self._parts.revision()
        return tuple(_node_view(one, revision if newest else _NONE_YET) for one in self._parts.subscribers())

    async def view(self) -> RotationView:
        generations = self._parts.authorities.now
        around = await self._around(generations)
        paused = generations.phase is not Phase.NONE and await self._paused()
        return RotationView(
            phase=generations.phase,
            paused=paused,
            waiting=waits_for(generations.phase, around),
            until=around.until,
        )

    def wake(self) -> None:
        """Something changed that may be waited for."""
        self._wake.set()
        self._answered.set()
        self._answered = asyncio.Event()

    async def wait_in_force(self, limit_s: float) -> None:
        """Until every connected node has the newest bundle in force, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while any(one.aware and not one.current for one in self.nodes()):
                    await self._answered.wait()

    # --- its life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: take the steps that can be taken, and keep the house."""
        keep_house_at = self._parts.clock.now()
        while True:
            self._wake.clear()
            self._note_seen()
            try:
                await self._advance()
                if self._parts.clock.now() >= keep_house_at:
                    keep_house_at = Instant(self._parts.clock.now() + _HOUSEKEEPING_S)
                    await self._keep_house()
            except HboneError as error:
                log.error("the CA's rotation does not go on", extra={"error": str(error)})
                await asyncio.sleep(_LOOK_S * 10)
            resting = self._parts.authorities.now.phase is Phase.NONE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S / 60 if resting else _LOOK_S):
                    await self._wake.wait()

    async def _advance(self) -> None:
        if self._parts.authorities.now.phase is Phase.NONE or await self._paused():
            return
        async with self._stepping:  # so that nobody's step lies between the question and ours
            if not self._parts.trust.is_newest:  # a full disk kept it from being made
                await self._parts.trust.publish()
            generations = self._parts.authorities.now
            resting = generations.phase is Phase.NONE or await self._paused()
            if not resting and not waits_for(generations.phase, await self._around(generations)):
                await self._step()
                self._wake.set()

    async def _step(self) -> None:
        authorities, now = self._parts.authorities, self._parts.clock.wall()
        match authorities.now.phase:
            case Phase.PREPARED:
                await authorities.change(lambda all_: all_.publish(now), "root published")
            case Phase.PUBLISHED:
                await authorities.change(lambda all_: all_.activate(now), "root activated")
            case Phase.ACTIVATED:
                await authorities.change(lambda all_: all_.retire(now), "root retired")
            case Phase.NONE:
                raise WrongPhase("no rotation is under way", fix="begin one with `hbone ca rotate-root`")
        await self._parts.trust.publish()
        log.info("the CA's root is being rotated", extra={"phase": authorities.now.phase.value})

    async def _keep_house(self) -> None:
        """An intermediate that ends soon is replaced, lists are signed anew, what is long over is forgotten."""
        parts = self._parts
        await parts.store.write(lambda database: records.forget_ended(database, parts.clock.wall()))
        active = parts.authorities.now.active.authority
        begins, ends = (wall_time(active.signer.not_valid_before_utc), wall_time(active.signer.not_valid_after_utc))
        ending = ends - parts.clock.wall() < RENEW_BELOW * (ends - begins)
        root_lasts = wall_time(active.own_root.not_valid_after_utc) > max(ends, parts.clock.wall())
        resting = parts.authorities.now.phase is Phase.NONE
        if (
            ending
            and root_lasts
            and resting
            and active.root_key is not None
            and parts.authorities.parts.plugged is None
        ):
            at = datetime.fromtimestamp(round(ends), UTC)
            log.info("the CA's intermediate is replaced before its end", extra={"not_after": at})
            await self.renew_intermediate()
        else:
            await parts.trust.publish()

    # --- what is waited for -----------------------------------------------------------------------------------------

    async def _around(self, generations: Generations) -> Surroundings:
        store, now = self._parts.store, self._parts.clock.wall()
        if generations.phase in {Phase.NONE, Phase.PREPARED}:
            return Surroundings()
        laggards = [str(one) for one in self.nodes() if one.aware and not one.current]
        laggards += await self._away(now)
        if generations.phase is Phase.PUBLISHED:
            since = next(one.since for one in generations.in_state(State.PUBLISHED))
            numbers = list(generations.by_number)
            unaware = await store.read(lambda database: records.in_use(database, numbers, now, issued_before=since))
            return Surroundings(
                laggards=tuple(laggards),
                unaware=unaware.count,
                until=unaware.until,
                unannounced_s=max(0.0, since + self._parts.announce_s - now),
            )
        leaving = _leaving(generations)
        old = await store.read(lambda database: records.in_use(database, leaving, now))
        return Surroundings(laggards=tuple(laggards), old_leaves=old.count, until=old.until)

    async def _away(self, now: WallTime) -> list[str]:
        """Clients of ours that hold certificates, are not connected, and may be about to come back."""
        holders = await self._parts.store.read(lambda database: records.holders_in_use(database, now))
        here = {one.holder for one in self._parts.subscribers()}
        moment = self._parts.clock.now()
        missing = sum(
            1
            for holder in holders - here - {LOCAL_HOLDER}
            if moment - self._seen.get(holder, self._started) < COMES_BACK_S
        )
        return [f"{missing} client{'s' if missing > 1 else ''} that lost the connection"] if missing else []

    def _note_seen(self) -> None:
        now = self._parts.clock.now()
        self._seen.update((one.holder, now) for one in self._parts.subscribers() if one.holder)
        for holder in [holder for holder, at in self._seen.items() if now - at > 2 * COMES_BACK_S]:
            del self._seen[holder]

    async def _require_unused(self) -> None:
        """Before the new root leaves the bundles again: nothing that it signed meanwhile is in use."""
        generations, now = self._parts.authorities.now, self._parts.clock.wall()
        numbers = [one.number for one in generations.in_state(State.PUBLISHED)]
        used = await self._parts.store.read(lambda database: records.in_use(database, numbers, now))
        if used.count:
            raise WrongPhase(
                "the new root cannot leave the bundles yet",
                why=f"{used.count} of the certificates that it signed are in use",
                fix="nodes are renewing them: try again in a moment",
            )

    def _require_own(self) -> None:
        if self._parts.authorities.parts.plugged is not None:
            raise UsageError(
                "this CA's certificates are not made here",
                why="it was plugged in as a directory of files (`--ca`)",
                fix="replace the files there and start again, or run without --ca and take them with `hbone ca import`",
            )

    async def _pause(self, value: str) -> None:
        put = "INSERT OR REPLACE INTO meta (name, value) VALUES ('rotation_paused', ?)"
        await self._parts.store.write(lambda database: database.execute(put, (value,)).rowcount)

    async def _paused(self) -> bool:
        select = "SELECT value FROM meta WHERE name = 'rotation_paused'"
        row = await self._parts.store.read(lambda database: database.execute(select).fetchone())
        return row is not None and row[0] == "yes"


def rotation_of(ca: CaPlane, server: Connected, mesh: Mesh, *, announce_s: float = 0.0) -> Rotation:
    """The rotation of an open CA, among those who are connected to a server."""
    return Rotation(
        RotationParts(
            store=ca.store,
            authorities=ca.authorities,
            trust=ca.trust,
            clock=ca.place.clock,
            subscribers=server.subscribers,
            revision=lambda: mesh.catalogues[TRUST_BUNDLE_TYPE].revision,
            announce_s=announce_s,
        )
    )


def _node_view(one: SubscriberView, revision: int) -> NodeView:
    for view in one.types:
        if view.type_url == TRUST_BUNDLE_TYPE:
            current = view.acknowledged >= revision
            refused = view.nack.message if view.nack is not None and not current else ""
            return NodeView(node=one.node, caller=one.caller, aware=True, current=current, refused=refused)
    return NodeView(node=one.node, caller=one.caller, aware=False, current=False)


def _leaving(generations: Generations) -> list[int]:
    """The authorities whose root goes: those that retire, and former intermediates below the same root."""
    roots = {root for one in generations.in_state(State.RETIRING) for root in one.authority.roots}
    roots -= set(generations.active.authority.roots)
    return [one.number for one in generations.in_state(State.RETIRING, State.REPLACED) if one.root in roots]
