"""What the CA remembers of each certificate: the rows of `certificates`, and the questions that are asked of them.

A certificate is *in use* while it has not ended, is not revoked, and its holder has not taken a later one.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from hbone.control import audit
from hbone.control.schema import SERIAL_BYTES
from hbone.identity.revocation import KeyHash
from hbone.identity.spiffe import SpiffeId
from hbone.times import WallTime
from hbone.values import dataclass

HANDOVER_S: Final = 3.0
"""A certificate that was replaced counts as in use for so long: its successor is still on its way to the holder, and
handshakes that began with it are still being finished."""

KEPT_S: Final = 7 * 86400.0  # rows stay so long after the certificate's end; the audit log keeps them for ever

_IN_USE = f"""not_after > :now AND revoked_at IS NULL
    AND (superseded_at IS NULL OR superseded_at > :now - {HANDOVER_S})"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """One certificate. `holder` is what a client of ours calls itself, the same for all that it asks for; empty for
    others. `superseded_at`: when the same holder was given the next one."""

    serial: int
    authority: int
    spiffe_id: SpiffeId
    key_sha256: KeyHash
    issued_at: WallTime
    not_after: WallTime
    caller: str
    holder: str = ""
    superseded_at: WallTime | None = None
    revoked_at: WallTime | None = None
    reason: str = ""


def insert(database: sqlite3.Connection, record: CertificateRecord) -> None:
    """Record a certificate before it is handed out; its holder's former one is superseded. Inside a transaction."""
    if record.holder:
        database.execute(
            "UPDATE certificates SET superseded_at = ? WHERE holder = ? AND spiffe_id = ?"
            " AND superseded_at IS NULL AND holder <> ''",
            (record.issued_at, record.holder, str(record.spiffe_id)),
        )
    database.execute(
        "INSERT INTO certificates (serial, authority, spiffe_id, key_sha256, issued_at, not_after, caller, holder)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            serial_bytes(record.serial),
            record.authority,
            str(record.spiffe_id),
            record.key_sha256,
            record.issued_at,
            record.not_after,
            record.caller,
            record.holder,
        ),
    )
    audit.append(
        database,
        {
            "event": "issued",
            "at": record.issued_at,
            "spiffe_id": str(record.spiffe_id),
            "serial": f"{record.serial:x}",
            "not_after": record.not_after,
            "key_sha256": record.key_sha256.hex(),
            "authority": record.authority,
            "caller": record.caller,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records. `now` None: ended ones too."""

    spiffe_id: str = ""
    revoked: bool | None = None
    now: WallTime | None = None
    limit: int = 10_000


def find(database: sqlite3.Connection, wanted: Wanted) -> list[CertificateRecord]:
    """The newest first."""
    where, values = ["1"], list[Any]()
    if wanted.spiffe_id:
        where.append("spiffe_id = ?")
        values.append(wanted.spiffe_id)
    if wanted.revoked is not None:
        where.append(f"revoked_at IS {'NOT ' if wanted.revoked else ''}NULL")
    if wanted.now is not None:
        where.append("not_after > ?")
        values.append(wanted.now)
    condition = " AND ".join(where)  # of the constants above
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM certificates WHERE {condition} ORDER BY issued_at DESC LIMIT ?",  # noqa: S608
        (*values, wanted.limit),
    )
    return [_record(row) for row in rows]


def with_serial(database: sqlite3.Connection, serial: int) -> CertificateRecord | None:
    row = database.execute(
        f"SELECT {_COLUMNS} FROM certificates WHERE serial = ?",  # noqa: S608
        (serial_bytes(serial),),
    ).fetchone()
    return None if row is None else _record(row)


def revoked_serials(database: sqlite3.Connection, authority: int, now: WallTime) -> list[tuple[int, WallTime, str]]:
    """(serial, when, reason) of what has not ended: the rest needs no revocation any more."""
    rows = database.execute(
        "SELECT serial, revoked_at, reason FROM certificates"
        " WHERE authority = ? AND not_after > ? AND revoked_at IS NOT NULL",
        (authority, now),
    )
    return [(int.from_bytes(serial, "big"), WallTime(at), reason) for serial, at, reason in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """How many certificates, and when the last of them ends."""

    count: int = 0
    until: WallTime | None = None


def in_use(
    database: sqlite3.Connection, authorities: Iterable[int], now: WallTime, *, issued_before: WallTime | None = None
) -> InUse:
    """What these authorities signed. With `issued_before`: of clients that do not tell who they are, issued by then."""
    numbers = [int(number) for number in authorities]
    if not numbers:
        return InUse()
    marks = ",".join(str(number) for number in numbers)
    older = " AND holder = '' AND issued_at < :before" if issued_before is not None else ""
    count, until = database.execute(
        f"SELECT count(*), max(not_after) FROM certificates WHERE authority IN ({marks}) AND {_IN_USE}{older}",  # noqa: S608
        {"now": now, "before": issued_before},
    ).fetchone()
    return InUse(count=count, until=None if until is None else WallTime(until))


def count_in_use(database: sqlite3.Connection, now: WallTime) -> dict[int, int]:
    """Authority → how many."""
    select = f"SELECT authority, count(*) FROM certificates WHERE {_IN_USE} GROUP BY authority"  # noqa: S608
    return dict(database.execute(select, {"now": now}).fetchall())


def holders_in_use(database: sqlite3.Connection, now: WallTime) -> set[str]:
    """The clients of ours that hold certificates."""
    select = f"SELECT DISTINCT holder FROM certificates WHERE holder <> '' AND {_IN_USE}"  # noqa: S608
    return {holder for (holder,) in database.execute(select, {"now": now})}


def forget_ended(database: sqlite3.Connection, now: WallTime) -> int:
    """Drop the rows of certificates that ended long ago; how many."""
    return database.execute("DELETE FROM certificates WHERE not_after < ?", (now - KEPT_S,)).rowcount


def serial_bytes(serial: int) -> bytes:
    return serial.to_bytes(SERIAL_BYTES, "big")


_COLUMNS = (
    "serial, authority, spiffe_id, key_sha256, issued_at, not_after, caller, holder, superseded_at, revoked_at, reason"
)


def _record(row: tuple[Any, ...]) -> CertificateRecord:
    serial, authority, spiffe_id, key, issued_at, not_after, caller, holder, superseded_at, revoked_at, reason = row
    return CertificateRecord(
        serial=int.from_bytes(serial, "big"),
        authority=authority,
        spiffe_id=SpiffeId.parse(spiffe_id),
        key_sha256=key,
        issued_at=issued_at,
        not_after=not_after,
        caller=caller,
        holder=holder,
        superseded_at=superseded_at,
        revoked_at=revoked_at,
        reason=reason or "",
    )
