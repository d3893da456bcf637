"""The CA of one control plane: from its state directory to what the services use.

async with CaPlane.open(place) as ca:
    Issuer(lambda: ca.authorities.signing, ledger=ca.ledger, …)
    ca.publish_to(mesh)
"""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import field
from pathlib import Path
from typing import Final, Self

from hbone.ca.authority import CertificateAuthority, Lifetimes
from hbone.control import jwt_keyfile
from hbone.control.audit import AuditFile
from hbone.control.authorities import Authorities, CaParts
from hbone.control.jwt_svid import JwtKeys
from hbone.control.keys import FileKeys, KeyProvider, PluggedKeys
from hbone.control.ledger import StoreLedger
from hbone.control.publish import Mesh
from hbone.control.revoker import Done, Revoker, Target
from hbone.control.statedir import StateLock, make_private
from hbone.control.store import StateStore, explained
from hbone.control.trust import Trust, TrustSources
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE, DomainTrust
from hbone.discovery.catalogue import Resource
from hbone.errors import UsageError
from hbone.identity.federation import DEFAULT_HINT_S
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain, parse_trust_domain
from hbone.times import Clock, Rng
from hbone.values import dataclass

DATABASE: Final = "control.db"
AUDIT: Final = "audit.jsonl"
VIEW: Final = "ca"
KEYS: Final = "keys"
JWT_KEY: Final = "jwt-svid-key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaPlace:
    """Where a CA is kept, and for whom it signs. `plugged`: an authority that comes from an operator's own files,
    which are in the directory `plugged_from`. `keys`: where keys are made and kept, None for files. `refresh_hint_s`:
    how often others are to look for a new bundle. `aliases`: further names of the trust domain."""

    directory: Path
    trust_domain: TrustDomain
    clock: Clock
    rng: Rng
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    plugged: CertificateAuthority | None = None
    plugged_from: str = ""
    keys: KeyProvider | None = None
    refresh_hint_s: int = DEFAULT_HINT_S
    aliases: frozenset[TrustDomain] = frozenset()

    @property
    def names(self) -> DomainNames:
        return DomainNames(self.trust_domain, self.aliases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a CA was last opened as."""

    trust_domain: TrustDomain
    plugged_from: str
    refresh_hint_s: int
    aliases: frozenset[TrustDomain]


def remembered(directory: Path) -> Remembered | None:
    """Of the CA in a state directory, without opening it; None if there has never been one. Raises UsageError."""
    path = directory / DATABASE
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            found = dict(database.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.Error as error:
        failure = explained(error, path)
        raise UsageError(failure.what, why=failure.why, fix=failure.fix) from error
    if "trust_domain" not in found:
        return None
    return Remembered(
        trust_domain=parse_trust_domain(found["trust_domain"]),
        plugged_from=found["plugged_from"],
        refresh_hint_s=int(found.get("refresh_hint_s", DEFAULT_HINT_S)),
        aliases=frozenset(map(parse_trust_domain, found.get("trust_domain_aliases", "").split())),
    )


class CaPlane:
    """All of it, open. Nobody else has the same directory open meanwhile."""

    def __init__(self, place: CaPlace, lock: StateLock, store: StateStore, copy: AuditFile) -> None:
        self.place = place
        self.store = store
        self._lock = lock
        self._copy = copy
        self._closed = False
        self.authorities: Authorities
        self.revoker: Revoker
        self.trust: Trust
        self.jwt: JwtKeys
        self.ledger: StoreLedger

    @classmethod
    async def open(cls, place: CaPlace) -> Self:
        """Raises UsageError, InvalidConfiguration, KeyUnavailable, StoreFailed."""
        make_private(place.directory)
        lock = StateLock.take(place.directory)
        try:
            copy = AuditFile(place.directory / AUDIT)
            try:
                store = await asyncio.to_thread(StateStore.open, place.directory / DATABASE)
            except BaseException:
                copy.close()
                raise
        except BaseException:
            lock.release()
            raise
        opened = cls(place, lock, store, copy)
        try:
            await opened._open()
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _open(self) -> None:
        place = self.place
        self.store.after_commit(self._copy.catch_up)
        parts = CaParts(
            store=self.store,
            keys=_keys(place),
            trust_domain=place.trust_domain,
            clock=place.clock,
            rng=place.rng,
            lifetimes=place.lifetimes,
            view=place.directory / VIEW if place.plugged is None else None,
            plugged=place.plugged,
        )
        self.authorities = await Authorities.open(parts)
        self.revoker = await Revoker.open(self.store, place.clock, place.names)
        self.jwt = await asyncio.to_thread(jwt_keyfile.load_or_create, place.directory / JWT_KEY, place.trust_domain)
        sources = TrustSources(
            store=self.store,
            authorities=self.authorities,
            revoker=self.revoker,
            clock=place.clock,
            jwt_keys=self.jwt.known,
            aliases=place.aliases,
        )
        self.trust = await Trust.open(sources)
        self.ledger = StoreLedger(self.store, self.authorities, self.revoker, place.clock)
        await self.store.write(lambda database: _remember(database, place))

    async def close(self) -> None:
        """Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self.store.close)
        if self.place.keys is not None:
            self.place.keys.close()
        self._copy.close()
        self._lock.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def publish_to(self, mesh: Mesh) -> None:
        """Every subscriber of `mesh` is told what to trust, now and at each change."""

        told: set[str] = set()

        def publish(_: DomainTrust) -> None:
            # a domain without roots is trusted for nothing: as if it were not there
            known = {one.domain: one for one in self.trust.known if one.roots}
            bodies = {name: one.message().SerializeToString(deterministic=True) for name, one in known.items()}
            resources = [Resource(name=name, body=body) for name, body in bodies.items()]
            mesh.publish(TRUST_BUNDLE_TYPE, resources, told - set(known))
            told.clear()
            told.update(known)

        self.trust.on_change(publish)
        publish(self.trust.current)

    def document(self) -> str:
        """The SPIFFE bundle document of this trust domain as it is now."""
        return self.trust.current.document(self.place.refresh_hint_s).to_json()

    async def revoke(self, target: Target, reason: str) -> Done:
        """On disk and on its way to every node when this returns; raises as `Revoker.revoke`."""
        done = await self.revoker.revoke(target, reason)
        await self.trust.publish()
        return done

    async def restore(self, identity: SpiffeId) -> Done:
        done = await self.revoker.restore(identity)
        await self.trust.publish()
        return done


def file_keys(directory: Path) -> FileKeys:
    """The keys of a CA that keeps its state in a directory."""
    return FileKeys(directory / VIEW / KEYS)


def _remember(database: sqlite3.Connection, place: CaPlace) -> None:
    put = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
    database.execute(put, ("trust_domain", place.trust_domain))
    database.execute(put, ("plugged_from", place.plugged_from))
    database.execute(put, ("trust_domain_aliases", " ".join(sorted(place.aliases))))
    database.execute(put, ("refresh_hint_s", str(place.refresh_hint_s)))


def _keys(place: CaPlace) -> KeyProvider:
    if place.plugged is None:
        return place.keys or file_keys(place.directory)
    keys = (place.plugged.key, place.plugged.root_key)
    return PluggedKeys(key for key in keys if key is not None)
