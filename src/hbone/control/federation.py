"""Bundles of other trust domains: fetched from their endpoints or read from files, kept on disk, told to everybody.

    federation = await Federation.open(parts, partners)    # what was known before is in force again
    federation.start(tasks)
    await federation.change(partners)                      # who is what it was is not disturbed

Each partner is looked after by itself: one that is away, or serves rubbish, keeps its last good bundle and delays
nobody. What counts as good, and what a change of partners means, is decided by `hbone.identity.federation`. A partner
that is no longer named is forgotten, and with it everything that its bundle vouched for.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from hbone.control import federated_rows
from hbone.control.bundle_fetch import Endpoint, fetch
from hbone.control.manifests_watch import FilesWatch
from hbone.control.partner import BundleFile, Known, Partner, load_bundle, unfit
from hbone.control.store import StateStore
from hbone.control.trust import Trust
from hbone.errors import HboneError, InvalidConfiguration, Problem
from hbone.identity.bundle import BundleDocument
from hbone.identity.federation import BundleRefused, Owners, Relations, check_bundle, next_look_s
from hbone.identity.revocation import key_hash
from hbone.identity.spiffe import TrustDomain
from hbone.net.tasks import Tasks
from hbone.times import Clock, Instant, Rng, WallTime
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_Partners = Mapping[TrustDomain, Known]
_Watches = dict[Known, FilesWatch[BundleFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationParts:
    """What it works with. `aliases`: other names of this mesh, which may have its roots."""

    store: StateStore
    trust: Trust
    clock: Clock
    rng: Rng
    aliases: frozenset[TrustDomain] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedView:
    """One partner, for the operator. Times are Unix seconds, None for never; `next_look_s` None: it is a file."""

    domain: TrustDomain
    source: str
    document: BundleDocument | None
    taken_at: WallTime | None
    looked_at: WallTime | None = None
    next_look_s: float | None = None
    error: str = ""


class Federation:
    """All partners of one control plane. Use `open`."""

    def __init__(self, parts: FederationParts) -> None:
        self._parts = parts
        self._known: _Partners = {}
        self._next: _Partners = {}  # while a change is being prepared
        self._watches: _Watches = {}
        self._tasks: Tasks | None = None

    @classmethod
    async def open(cls, parts: FederationParts, partners: Sequence[Partner]) -> Self:
        """What was known of these partners is in force when this returns; of others it is forgotten.

        Raises InvalidConfiguration for files that hold no bundle, StoreFailed.
        """
        federation = cls(parts)
        rows = await parts.store.read(federated_rows.stored)
        federation._known = {row.domain: Known.of_row(row) for row in rows}
        await federation.change(partners)
        return federation

    def start(self, tasks: Tasks) -> None:
        """Keep all of them fresh from now on, and those that a change brings."""
        self._tasks = tasks
        for one in self._known.values():
            self._look_after(one)

    async def change(self, partners: Sequence[Partner]) -> None:
        """These from now on, all at once. Who is what it was is not disturbed; of whom something else is said keeps
        its bundle and is asked anew. One call at a time.

        Raises InvalidConfiguration for files that hold no bundle: then nothing has changed; StoreFailed: then it is
        in force, and on disk with the next change.
        """
        wanted = {one.domain: one for one in partners}
        before = self._known
        relations = Relations.of({name: one.partner for name, one in before.items()}, wanted)
        fresh = {name: Known(partner=wanted[name]) for name in (*relations.changed, *relations.begun)}
        former = {one: before.get(relations.former(name, one.partner.aliases)) for name, one in fresh.items()}
        self._next = {name: fresh.get(name) or before[name] for name in wanted}
        watches = await self._prepare(former)
        for name in (*relations.changed, *relations.ended):
            self._leave(before[name])
        self._known = self._next
        self._watches |= watches
        self._publish()
        for name in relations.ended:
            log.info("federation has ended", extra={"trust_domain": name})
        for one, was in former.items():
            _tell(one, None if was is None else was.document)
            self._look_after(one)
        rows = [one.row for one in former if one.row is not None]
        await self._parts.store.write(lambda database: federated_rows.replace(database, list(wanted), rows))

    async def _prepare(self, fresh: Mapping[Known, Known | None]) -> _Watches:
        """What these will start with, before they are in force: what was known of each, and what its file says."""
        watches: _Watches = {}
        problems: list[Problem] = []
        for one, before in fresh.items():
            one.inherit(before)
            if one.partner.file is None:
                continue
            watch = watches[one] = self._watch(one, one.partner.file)
            try:
                await watch.load()
            except InvalidConfiguration as error:
                problems += error.problems
        if problems:
            raise InvalidConfiguration(problems)
        for one, before in fresh.items():  # the world went on while files were read
            if before is not None and one.file_sha256 == before.file_sha256:
                one.inherit(before)
            elif one.document is not None and one.partner.file is not None:
                self._check_file(one.document, one, one.partner.file)
        return watches

    def _check_file(self, document: BundleDocument, one: Known, file: Path) -> None:
        try:
            check_bundle(document, one.domain, None, self._owners(one))
        except BundleRefused as error:
            raise unfit(error, file) from error

    def _look_after(self, one: Known) -> None:
        if self._tasks is None:
            return  # not started yet
        if one.partner.endpoint is not None:
            keep = partial(self._keep, one, one.partner.endpoint)
            one.tasks.append(self._tasks.keep(keep, name=f"bundle of {one.domain}"))
        watch = self._watches.get(one)
        if watch is not None:
            one.tasks.append(self._tasks.keep(watch.run, name="watch a bundle"))

    def _leave(self, one: Known) -> None:
        """Look after it no more."""
        self._watches.pop(one, None)
        for task in one.tasks:
            task.cancel()

    def refresh(self) -> None:
        """Look at every endpoint now."""
        for one in self._known.values():
            one.wake.set()

    def views(self) -> tuple[FederatedView, ...]:
        now, problems = self._parts.clock.now(), self.problems()
        return tuple(
            FederatedView(
                domain=one.domain,
                source=str(one.partner),
                document=one.document,
                taken_at=one.taken_at,
                looked_at=one.looked_at,
                next_look_s=None if one.next_at is None else max(0.0, one.next_at - now),
                error=one.error or next((str(wrong) for wrong in problems if wrong.file == str(one.partner.file)), ""),
            )
            for one in self._known.values()
        )

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the files as they are now; what they said before is in force."""
        return tuple(problem for watch in self._watches.values() for problem in watch.problems)

    # --- endpoints ----------------------------------------------------------------------------------------------

    async def _keep(self, one: Known, endpoint: Endpoint) -> None:
        parts = self._parts
        while True:
            one.wake.clear()
            await self._look(one, endpoint)
            pause_s = next_look_s(one.document, one.failures, parts.rng)
            one.next_at = Instant(parts.clock.now() + pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await one.wake.wait()

    async def _look(self, one: Known, endpoint: Endpoint) -> None:
        parts, domain = self._parts, one.domain
        try:
            found = BundleDocument.from_json(await fetch(endpoint, parts.trust.everybody, parts.clock))
            check_bundle(found, domain, one.document, self._owners(one))
        except HboneError as error:
            self._failed(one, error)
            return
        except Exception as error:  # a fault of ours with one answer must not end the looks for ever
            log.exception("bundle not fetched", extra={"trust_domain": domain})
            self._failed(one, BundleRefused(f"the bundle of {domain} cannot be taken", why=repr(error)[:200]))
            return
        if one.failures:
            log.info("bundle can be had again", extra={"trust_domain": domain, "after_failures": one.failures})
        one.failures, one.error, one.looked_at = 0, "", parts.clock.wall()
        if found != one.document:
            self._take(one, found)

    def _failed(self, one: Known, error: HboneError) -> None:
        one.failures += 1
        if str(error) != one.error:  # said once, not each time
            values = {"trust_domain": one.domain, "error": str(error), "known": one.document is not None}
            log.warning("no new bundle of another trust domain", extra=values)
        one.error = str(error)

    # --- files --------------------------------------------------------------------------------------------------

    def _watch(self, one: Known, path: Path) -> FilesWatch[BundleFile]:
        def load(file: Path) -> BundleFile:
            return load_bundle(file, one.domain, self._owners(one))

        return FilesWatch(path, load, partial(self._take_file, one), what="bundle")

    def _take_file(self, one: Known, found: BundleFile) -> None:
        """In force if it is another file than the last one taken: an endpoint's bundle is newer than the file that
        the relationship began with."""
        if found.sha256 != one.file_sha256 or one.document is None:
            one.file_sha256 = found.sha256
            one.looked_at = self._parts.clock.wall()
            self._take(one, found.document)
            one.wake.set()

    # --- what is known ------------------------------------------------------------------------------------------

    def _take(self, one: Known, document: BundleDocument) -> None:
        """In force at once, and on disk soon; of one that is being prepared, when all of the change is."""
        before = one.document
        one.document, one.taken_at = document, self._parts.clock.wall()
        row = one.row
        if row is not None and self._known.get(one.domain) is one:
            self._parts.store.write_later(lambda database: federated_rows.put(database, row))
            if _tell(one, before):
                self._publish()

    def _publish(self) -> None:
        self._parts.trust.federate(one.trust for one in self._known.values() if one.trust is not None)

    def _owners(self, one: Known) -> Owners:
        """Whose roots are whose, those of this domain left out; for one that is being prepared, as they will be."""
        own, domain = self._parts.trust.current, one.domain
        among = self._known if self._known.get(domain) is one else self._next
        owners = {key_hash(root): own.domain for root in own.roots} if domain not in self._parts.aliases else {}
        for other in among.values():
            if other.domain != domain and other.document is not None:
                owners.update((key_hash(root), other.domain) for root in other.document.roots)
        return owners


def _tell(one: Known, before: BundleDocument | None) -> bool:
    """Log what is in force now, if it is anything else than before; whether it is."""
    now = one.document
    if now is None or (before is not None and before.content == now.content):
        return False
    values = {"trust_domain": one.domain, "sequence": now.sequence, "roots": len(now.roots)}
    if now.roots or now.jwt_keys:
        log.info("bundle of another trust domain is in force", extra=values)
    else:
        log.warning("another trust domain has revoked everything", extra=values)
    return True


def stored_views(database: sqlite3.Connection) -> tuple[FederatedView, ...]:
    """What is on disk, where no control plane runs."""
    return tuple(
        FederatedView(
            domain=row.domain,
            source="",
            document=BundleDocument.from_json(row.document),
            taken_at=row.taken_at,
        )
        for row in federated_rows.stored(database)
    )
