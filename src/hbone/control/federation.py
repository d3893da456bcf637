"""Bundles of other trust domains: fetched from their endpoints or read from files, kept on disk, told to everybody.

    federation = await Federation.open(parts, partners)    # what was known before is in force again
    federation.start(tasks)

Each partner is looked after by itself: one that is away, or serves rubbish, keeps its last good bundle and delays
nobody. What counts as good is decided by `hbone.identity.federation`. A partner that is no longer named is forgotten
at the next start, and with it everything that its bundle vouched for.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from hbone.control import federated_rows
from hbone.control.bundle_fetch import Endpoint, fetch
from hbone.control.federated_rows import BundleRow
from hbone.control.manifests_watch import FilesWatch
from hbone.control.store import StateStore
from hbone.control.trust import Trust
from hbone.control.trust_resource import DomainTrust
from hbone.errors import HboneError, InvalidConfiguration, Problem
from hbone.identity.bundle import BundleDocument, InvalidBundle, TrustBundle
from hbone.identity.federation import BundleRefused, Owners, check_bundle, next_look_s
from hbone.identity.revocation import Revocations, key_hash
from hbone.identity.spiffe import TrustDomain
from hbone.net.tasks import Tasks
from hbone.times import Clock, Instant, Rng, WallTime
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_MAX_FILE_BYTES: Final = 1 << 20
_PEM: Final = b"-----BEGIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """Another trust domain, as the operator named it. `file`: its bundle; with an `endpoint` the first one only.
    `aliases`: further names of it."""

    domain: TrustDomain
    aliases: frozenset[TrustDomain] = frozenset()
    endpoint: Endpoint | None = None
    file: Path | None = None

    def __str__(self) -> str:
        return str(self.endpoint or self.file)


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


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of one partner. `file_sha256`: of the file that was taken last, empty for none."""

    partner: Partner
    document: BundleDocument | None = None
    taken_at: WallTime | None = None
    file_sha256: str = ""
    looked_at: WallTime | None = None
    next_at: Instant | None = None
    failures: int = 0
    error: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def trust(self) -> DomainTrust | None:
        document = self.document
        if document is None:
            return None
        return DomainTrust(
            domain=self.partner.domain,
            roots=document.roots,
            revocations=Revocations(),
            sequence=document.sequence or 0,
            aliases=self.partner.aliases,
            jwt_keys=document.jwt_keys,
            document_sequence=document.sequence,
        )


_File = tuple[BundleDocument, str]
"""A bundle from a file, and the file's SHA-256."""


class Federation:
    """All partners of one control plane. Use `open`."""

    def __init__(self, parts: FederationParts, partners: Sequence[Partner]) -> None:
        self._parts = parts
        self._known = {one.domain: _Known(partner=one) for one in partners}
        self._watches = [self._watch(one, one.partner.file) for one in self._known.values() if one.partner.file]

    @classmethod
    async def open(cls, parts: FederationParts, partners: Sequence[Partner]) -> Self:
        """What was known of these partners is in force when this returns; of others it is forgotten.

        Raises InvalidConfiguration for files that hold no bundle, StoreFailed.
        """
        federation = cls(parts, partners)
        for row in await parts.store.read(federated_rows.stored):
            federation._restore(row)
        names = [str(one.domain) for one in partners]
        await parts.store.write(lambda database: federated_rows.forget_all_but(database, names))
        problems: list[Problem] = []
        for watch in federation._watches:
            try:
                await watch.load()
            except InvalidConfiguration as error:
                problems += error.problems
        if problems:
            raise InvalidConfiguration(problems)
        federation._publish()
        return federation

    def start(self, tasks: Tasks) -> None:
        """Keep all of them fresh from now on."""
        for one in self._known.values():
            if one.partner.endpoint is not None:
                tasks.keep(partial(self._keep, one, one.partner.endpoint), name=f"bundle of {one.partner.domain}")
        for watch in self._watches:
            tasks.keep(watch.run, name="watch a bundle")

    def refresh(self) -> None:
        """Look at every endpoint now."""
        for one in self._known.values():
            one.wake.set()

    def views(self) -> tuple[FederatedView, ...]:
        now, problems = self._parts.clock.now(), self.problems()
        return tuple(
            FederatedView(
                domain=one.partner.domain,
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
        return tuple(problem for watch in self._watches for problem in watch.problems)

    # --- endpoints ----------------------------------------------------------------------------------------------

    async def _keep(self, one: _Known, endpoint: Endpoint) -> None:
        parts = self._parts
        while True:
            one.wake.clear()
            await self._look(one, endpoint)
            pause_s = next_look_s(one.document, one.failures, parts.rng)
            one.next_at = Instant(parts.clock.now() + pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await one.wake.wait()

    async def _look(self, one: _Known, endpoint: Endpoint) -> None:
        parts, domain = self._parts, one.partner.domain
        try:
            found = BundleDocument.from_json(await fetch(endpoint, parts.trust.everybody, parts.clock))
            check_bundle(found, domain, one.document, self._owners(domain))
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

    def _failed(self, one: _Known, error: HboneError) -> None:
        one.failures += 1
        if str(error) != one.error:  # said once, not each time
            values = {"trust_domain": one.partner.domain, "error": str(error), "known": one.document is not None}
            log.warning("no new bundle of another trust domain", extra=values)
        one.error = str(error)

    # --- files --------------------------------------------------------------------------------------------------

    def _watch(self, one: _Known, path: Path) -> FilesWatch[_File]:
        return FilesWatch(path, partial(self._read, one), partial(self._take_file, one), what="bundle")

    def _read(self, one: _Known, path: Path) -> _File:
        """Raises InvalidConfiguration. A file is the operator's word: its number is held against no former one."""
        domain = one.partner.domain
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
            found = read_bundle(content, domain)
            check_bundle(found, domain, None, self._owners(domain))
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            fix = f"write the bundle of {domain} there"
            raise InvalidConfiguration([Problem(what=what, fix=fix, file=str(path))]) from error
        except (InvalidBundle, BundleRefused) as error:
            what = f"{error.what}: {error.why}" if error.why else error.what
            raise InvalidConfiguration([Problem(what=what, fix=error.fix, file=str(path))]) from error
        return found, sha256(content).hexdigest()

    def _take_file(self, one: _Known, found: _File) -> None:
        """In force if it is another file than the last one taken: an endpoint's bundle is newer than the file that
        the relationship began with."""
        document, digest = found
        if digest != one.file_sha256 or one.document is None:
            one.file_sha256 = digest
            one.looked_at = self._parts.clock.wall()
            self._take(one, document)
            one.wake.set()

    # --- what is known ------------------------------------------------------------------------------------------

    def _take(self, one: _Known, document: BundleDocument) -> None:
        """In force at once, and on disk soon."""
        domain, before = one.partner.domain, one.document
        one.document, one.taken_at = document, self._parts.clock.wall()
        row = BundleRow(domain=domain, document=document.to_json(), taken_at=one.taken_at, file_sha256=one.file_sha256)
        self._parts.store.write_later(lambda database: federated_rows.put(database, row))
        if before is None or before.content != document.content:
            values = {"trust_domain": domain, "sequence": document.sequence, "roots": len(document.roots)}
            if document.roots or document.jwt_keys:
                log.info("bundle of another trust domain is in force", extra=values)
            else:
                log.warning("another trust domain has revoked everything", extra=values)
            self._publish()

    def _restore(self, row: BundleRow) -> None:
        one = self._known.get(row.domain)
        if one is None:
            log.info("federation has ended", extra={"trust_domain": row.domain})
            return
        one.document = BundleDocument.from_json(row.document)
        one.taken_at, one.file_sha256 = row.taken_at, row.file_sha256

    def _publish(self) -> None:
        self._parts.trust.federate(one.trust for one in self._known.values() if one.trust is not None)

    def _owners(self, domain: TrustDomain) -> Owners:
        """Whose roots are whose, those of `domain` left out."""
        own = self._parts.trust.current
        owners = {key_hash(root): own.domain for root in own.roots} if domain not in self._parts.aliases else {}
        for other in self._known.values():
            if other.partner.domain != domain and other.document is not None:
                owners.update((key_hash(root), other.partner.domain) for root in other.document.roots)
        return owners


def read_bundle(content: bytes, domain: TrustDomain) -> BundleDocument:
    """A SPIFFE bundle document, or PEM certificates; raises InvalidBundle."""
    if len(content) > _MAX_FILE_BYTES:
        raise InvalidBundle(f"the bundle of {domain} has more than {_MAX_FILE_BYTES} bytes", fix="check the file")
    if not content.lstrip().startswith(_PEM):
        return BundleDocument.from_json(content)
    return BundleDocument(roots=TrustBundle.from_pem(domain, content).roots[domain])


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
