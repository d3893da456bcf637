"""Keeps the certificates of all identities fresh: asks the source for what `hbone.control.renewals` says is due.

    keeper = IdentityKeeper(source, clock, rng)
    keeper.on_rotation(make_tls_contexts)
    async with keeper:
        credentials = await keeper.get(spiffe_id)

A rotation reaches subscribers as a plain call in the loop. Connections made with an older certificate are not touched.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from hbone.control.credentials import Credentials, SvidSource
from hbone.control.renewals import IdentityView, LifeWarning, Priority, Renewals, State
from hbone.errors import HboneError, IdentityUnavailable
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import SpiffeId
from hbone.net.tasks import Tasks
from hbone.times import Clock, Rng

log = logging.getLogger("hbone.control")

OnRotation = Callable[[SpiffeId, Credentials], None]

# Certificates are about wall time, which may jump (a laptop wakes, NTP steps): look again at least so often.
_LOOK_AGAIN_S = 60.0


class IdentityKeeper:
    """One entry for each identity in use. Use `async with`, which runs it."""

    def __init__(self, source: SvidSource, clock: Clock, rng: Rng, *, deadline_s: float = 30.0) -> None:
        self._source = source
        self._clock = clock
        self._deadline_s = deadline_s
        self._renewals = Renewals(clock, rng)
        self._waiting: dict[SpiffeId, asyncio.Event] = {}
        self._subscribers: dict[object, OnRotation] = {}
        self._wake = asyncio.Event()
        self._tasks = Tasks("identities")
        self.asked = {"ok": 0, "failed": 0}  # certificates that were asked for, by what came of it

    async def get(self, spiffe_id: SpiffeId, priority: Priority = Priority.REAL_TIME) -> Credentials:
        """Valid credentials. Waits only while the first attempt is under way; after a failure the reason is raised
        at once as IdentityUnavailable, until a later attempt succeeds."""
        first = spiffe_id not in self._renewals
        self._renewals.need(spiffe_id, priority)
        current = self._renewals.credentials(spiffe_id)
        if current is not None:
            return current
        if first or self._renewals.failure(spiffe_id) is None:
            self._wake.set()
            await self._waiting.setdefault(spiffe_id, asyncio.Event()).wait()
            current = self._renewals.credentials(spiffe_id)
            if current is not None:
                return current
        failure = self._renewals.failure(spiffe_id)
        raise IdentityUnavailable(
            f"no certificate for {spiffe_id}",
            why=str(failure) if failure else "the identity is no longer needed",
            fix="see `hbone get certificates`",
            spiffe_id=spiffe_id,
        ) from failure

    def current(self, spiffe_id: SpiffeId) -> Credentials | None:
        """What is valid now, without waiting and without asking."""
        return self._renewals.credentials(spiffe_id)

    def prefetch(self, spiffe_id: SpiffeId) -> None:
        """It will be needed soon."""
        self._renewals.need(spiffe_id, Priority.WARM_UP)
        self._wake.set()

    def __contains__(self, spiffe_id: object) -> bool:
        return spiffe_id in self._renewals

    def forget(self, spiffe_id: SpiffeId) -> None:
        """It is no longer needed; whoever waits for it is told so."""
        self._renewals.forget(spiffe_id)
        self._release(spiffe_id)

    def on_rotation(self, call: OnRotation) -> Callable[[], object]:
        """`call` with every certificate that arrives, the first ones too. Returns what ends the subscription."""
        key = object()
        self._subscribers[key] = call
        return lambda: self._subscribers.pop(key, None)

    def trust_changed(self, revocations: Revocations, leaving: frozenset[bytes]) -> None:
        """Another trust bundle is in force; `leaving`: the key identifiers of CAs that are on their way out.

        What those signed is renewed soon, and what was revoked. What has failed is asked for again: the CA answers,
        so it may be better now.
        """
        self._renewals.renew_soon(revocations, leaving)
        self._wake.set()

    def views(self) -> tuple[IdentityView, ...]:
        return self._renewals.views()

    def wake(self) -> None:
        """Look at the clock again now."""
        self._wake.set()

    async def __aenter__(self) -> Self:
        self._tasks.keep(self._run, name="schedule")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()
        for spiffe_id in tuple(self._waiting):
            self.forget(spiffe_id)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            for warning in self._renewals.warnings():
                _warn(warning)
            for spiffe_id in self._renewals.take_due():
                self._tasks.start(self._renew(spiffe_id), name=str(spiffe_id))
            due = self._renewals.next_look()
            pause_s = _LOOK_AGAIN_S if due is None else min(_LOOK_AGAIN_S, due - self._clock.now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause_s)):
                    await self._wake.wait()

    async def _renew(self, spiffe_id: SpiffeId) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                credentials = await self._source.fetch(spiffe_id)
        except HboneError as error:
            self._failed(spiffe_id, error)
        except TimeoutError:
            why = f"no answer within {self._deadline_s:g} s"
            self._failed(spiffe_id, IdentityUnavailable("the CA did not answer", why=why))
        except Exception as error:  # a source's fault must not lose the identity for ever
            log.exception("certificate request failed unexpectedly", extra={"identity": str(spiffe_id)})
            self._failed(spiffe_id, IdentityUnavailable("the request failed", why=repr(error)[:200]))
        else:
            if self._renewals.issued(spiffe_id, credentials):
                self._tell(spiffe_id, credentials)
        finally:
            self._release(spiffe_id)
            self._wake.set()

    def _failed(self, spiffe_id: SpiffeId, error: HboneError) -> None:
        """Said once for each reason; from then on only `warnings` speak, so that a CA which is away for hours does not
        fill the log."""
        before = self._renewals.failure(spiffe_id)
        wait_s = self._renewals.failed(spiffe_id, error)
        self.asked["failed"] += 1
        level = logging.DEBUG if before is not None and str(before) == str(error) else logging.WARNING
        left = self._renewals.credentials(spiffe_id)
        state = State.AVAILABLE if left is not None else State.UNAVAILABLE
        values = {"identity": str(spiffe_id), "error": str(error), "retry_in_s": round(wait_s, 1), "state": state.value}
        log.log(level, "no certificate", extra=values)

    def _tell(self, spiffe_id: SpiffeId, credentials: Credentials) -> None:
        self.asked["ok"] += 1
        svid = credentials.svid
        ends = datetime.fromtimestamp(round(svid.not_after), UTC)
        values = {"identity": str(spiffe_id), "serial": f"{svid.serial:x}", "not_after": ends}
        log.info("certificate issued", extra=values)
        for call in tuple(self._subscribers.values()):
            try:
                call(spiffe_id, credentials)
            except Exception:
                log.exception("a rotation was not taken", extra={"identity": str(spiffe_id)})

    def _release(self, spiffe_id: SpiffeId) -> None:
        waiting = self._waiting.pop(spiffe_id, None)
        if waiting is not None:
            waiting.set()


def _warn(warning: LifeWarning) -> None:
    values = {
        "identity": str(warning.spiffe_id),
        "life_spent": f"{warning.threshold:.0%}",
        "ends_in_s": round(warning.ends_in_s, 1),
        "error": warning.failing,
    }
    if warning.threshold >= 1:
        log.error("certificate has ended and was not renewed", extra=values)
    else:
        log.warning("certificate is not renewed", extra=values)
