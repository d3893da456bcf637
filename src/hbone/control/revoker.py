"""Revocation: what was revoked, kept in the database and, for each request that comes, in memory.

Revoked is what an operator names, and what follows from it:

| named | stops |
| --- | --- |
| a serial number | that certificate, every certificate of its key, and the renewals of whoever holds it |
| a key | every certificate of it, whoever signed it |
| an identity | all its certificates, those to come too, until it is restored |

What is in memory is changed before the database is, and changed back if that fails: no certificate is signed in
between.
"""

import sqlite3
from collections.abc import Sequence
from math import floor
from typing import Final

from hbone.ca.crl import REASONS
from hbone.ca.profile import CLOCK_SKEW_S, MAX_TTL_S
from hbone.control import audit, records
from hbone.control.issue import Asked
from hbone.control.store import StateStore
from hbone.errors import UsageError
from hbone.identity.revocation import KeyHash, RevokedIdentity
from hbone.identity.spiffe import DomainNames, SpiffeId
from hbone.times import Clock, WallTime
from hbone.values import dataclass

UNSPECIFIED: Final = "unspecified"


class NothingToRevoke(UsageError):
    """What was named is not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """One certificate."""

    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, by the SHA-256 of its SubjectPublicKeyInfo."""

    sha256: KeyHash


Target = Serial | Key | SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a revocation did: in words, and how many certificates in use it stopped."""

    what: str
    certificates: int


@dataclass(slots=True)
class _Revoked:
    """In memory: what requests and nodes are judged by."""

    keys: dict[KeyHash, str]
    identities: dict[SpiffeId, RevokedIdentity]
    holders: set[tuple[str, SpiffeId]]

    def copy(self) -> "_Revoked":
        return _Revoked(dict(self.keys), dict(self.identities), set(self.holders))


class Revoker:
    """Use `open`."""

    def __init__(self, store: StateStore, clock: Clock, names: DomainNames, revoked: _Revoked) -> None:
        self._store = store
        self._clock = clock
        self._names = names
        self._revoked = revoked

    @classmethod
    async def open(cls, store: StateStore, clock: Clock, names: DomainNames) -> "Revoker":
        """`names`: of the mesh, whose workloads are revoked under all of them."""
        now = clock.wall()
        return cls(store, clock, names, await store.read(lambda database: _load(database, now)))

    @property
    def keys(self) -> dict[KeyHash, str]:
        """Hash → reason."""
        return dict(self._revoked.keys)

    @property
    def identities(self) -> dict[SpiffeId, RevokedIdentity]:
        """Each under every name that it may show."""
        found: dict[SpiffeId, RevokedIdentity] = {}
        for identity, entry in self._revoked.identities.items():
            for form in self._names.forms(identity):
                found[form] = entry if form not in found else _stronger(found[form], entry)
        return found

    def refusal(self, asked: Asked) -> str:
        """Why a certificate that is asked for may not be had, empty if it may."""
        for form in self._names.forms(asked.spiffe_id):
            entry = self._revoked.identities.get(form)
            if entry is not None and entry.before is None:
                return f"the identity {form}"
            if asked.holder and (asked.holder, form) in self._revoked.holders:
                return "an earlier certificate of this client"
        if asked.key_sha256 in self._revoked.keys:
            return f"the key {asked.key_sha256.hex()}"
        return ""

    async def revoke(self, target: Target, reason: str = UNSPECIFIED) -> Done:
        """Raises UsageError for an unknown reason, NothingToRevoke, StoreFailed."""
        if reason not in REASONS:
            raise UsageError(f"{reason!r} is no reason for a revocation", fix=f"use one of {', '.join(REASONS)}")
        before = self._revoked
        record = await self._record_of(target)
        self._revoked = _with(before, target, record, reason)
        now = self._clock.wall()
        try:
            forms = self._names.forms(target) if isinstance(target, SpiffeId) else ()
            return await self._store.write(lambda database: _revoke(database, target, record, (reason, now), forms))
        except BaseException:
            self._revoked = before
            raise

    async def restore(self, identity: SpiffeId) -> Done:
        """Let an identity have certificates again; those from before stay revoked. Raises NothingToRevoke."""
        forms = self._names.forms(identity)
        revoked = {form: entry for form in forms if (entry := self._revoked.identities.get(form)) is not None}
        held = {one for one in self._revoked.holders if one[1] in forms}
        if all(entry.before is not None for entry in revoked.values()) and not held:
            raise NothingToRevoke(f"{identity} is not revoked", fix="see `hbone cert list --revoked`")
        now = self._clock.wall()
        await self._store.write(lambda database: _restore(database, forms, now))
        after = self._revoked.copy()
        after.holders -= held
        for form, entry in revoked.items():
            after.identities[form] = RevokedIdentity(reason=entry.reason, before=lifted_before(now))
        self._revoked = after
        return Done(what=f"the identity {identity} may have certificates again", certificates=0)

    async def _record_of(self, target: Target) -> records.CertificateRecord | None:
        if not isinstance(target, Serial):
            return None
        if not 0 < target.serial < 1 << (8 * 20):
            raise NothingToRevoke(f"{target.serial:x} is not a serial number", fix="see `hbone cert list`")
        found = await self._store.read(lambda database: records.with_serial(database, target.serial))
        if found is None:
            raise NothingToRevoke(
                f"this CA has issued no certificate with serial number {target.serial:x}", fix="see `hbone cert list`"
            )
        return found


def _stronger(one: RevokedIdentity, other: RevokedIdentity) -> RevokedIdentity:
    """What stops more of the two."""
    if one.before is None or other.before is None:
        return one if one.before is None else other
    return max(one, other, key=lambda entry: entry.before or WallTime(0.0))


def lifted_before(now: WallTime) -> WallTime:
    """Certificates that begin earlier stay revoked: ours begin a while before they are issued, at a whole second."""
    return WallTime(floor(now) - CLOCK_SKEW_S)


def _with(revoked: _Revoked, target: Target, record: records.CertificateRecord | None, reason: str) -> _Revoked:
    after = revoked.copy()
    match target:
        case Key():
            after.keys[target.sha256] = reason
        case SpiffeId():
            after.identities[target] = RevokedIdentity(reason=reason)
        case Serial():
            assert record is not None, "looked up"  # noqa: S101 - by `_record_of`
            after.keys[record.key_sha256] = reason
            if record.holder:
                after.holders.add((record.holder, record.spiffe_id))
    return after


def _revoke(
    database: sqlite3.Connection,
    target: Target,
    record: records.CertificateRecord | None,
    stamp: tuple[str, WallTime],
    forms: Sequence[SpiffeId],
) -> Done:
    """`forms`: of an identity, every name that it may show."""
    reason, now = stamp
    if record is not None:  # of a serial number: its key is what stays revoked
        what, kind, value = f"certificate {record.serial:x} of {record.spiffe_id}", "key", record.key_sha256.hex()
        stopped = _mark(database, "key_sha256 = ?", record.key_sha256, stamp)
        if record.holder:
            _put(database, "holder", f"{record.spiffe_id} {record.holder}", stamp)
    elif isinstance(target, SpiffeId):
        what, kind, value = f"the identity {target}", "identity", str(target)
        stopped = sum(_mark(database, "spiffe_id = ?", str(form), stamp) for form in forms)
    else:
        assert isinstance(target, Key), "a serial number comes with its record"  # noqa: S101 - by `revoke`
        what, kind, value = f"the key {target.sha256.hex()}", "key", target.sha256.hex()
        stopped = _mark(database, "key_sha256 = ?", target.sha256, stamp)
    _put(database, kind, value, stamp)
    event: dict[str, str | float | None] = {"event": "revoked", "at": now, "what": what, "reason": reason}
    audit.append(database, {**event, "certificates": stopped})
    return Done(what=what, certificates=stopped)


def _mark(database: sqlite3.Connection, where: str, value: object, stamp: tuple[str, WallTime]) -> int:
    """Certificates that have not ended; how many of them were in use."""
    reason, now = stamp
    cursor = database.execute(
        f"UPDATE certificates SET revoked_at = ?, reason = ? WHERE {where} AND not_after > ? AND revoked_at IS NULL",  # noqa: S608
        (now, reason, value, now),
    )
    return cursor.rowcount


def _put(database: sqlite3.Connection, kind: str, value: str, stamp: tuple[str, WallTime]) -> None:
    reason, now = stamp
    database.execute(
        "INSERT INTO revocations (kind, value, reason, at) VALUES (?, ?, ?, ?) ON CONFLICT (kind, value)"
        " DO UPDATE SET reason = excluded.reason, at = excluded.at, lifted_at = NULL",
        (kind, value, reason, now),
    )


def _restore(database: sqlite3.Connection, forms: Sequence[SpiffeId], now: WallTime) -> None:
    for identity in forms:
        database.execute(
            "UPDATE revocations SET lifted_at = ? WHERE kind = 'identity' AND value = ? AND lifted_at IS NULL",
            (now, str(identity)),
        )
        mark = f"{identity} "  # a SPIFFE ID has no space, a client may call itself anything
        database.execute("DELETE FROM revocations WHERE kind = 'holder' AND substr(value, 1, ?) = ?", (len(mark), mark))
    audit.append(database, {"event": "restored", "at": now, "what": f"the identity {forms[0]}"})


def _load(database: sqlite3.Connection, now: WallTime) -> _Revoked:
    revoked = _Revoked({}, {}, set())
    for kind, value, reason, lifted_at in database.execute("SELECT kind, value, reason, lifted_at FROM revocations"):
        match kind:
            case "key":
                revoked.keys[bytes.fromhex(value)] = reason
            case "holder":
                identity, _, holder = value.partition(" ")
                revoked.holders.add((holder, SpiffeId.parse(identity)))
            case _ if lifted_at is None:
                revoked.identities[SpiffeId.parse(value)] = RevokedIdentity(reason=reason)
            case _ if lifted_at > now - MAX_TTL_S:  # no certificate from before is left
                before = lifted_before(lifted_at)
                revoked.identities[SpiffeId.parse(value)] = RevokedIdentity(reason=reason, before=before)
            case _:
                pass
    return revoked
