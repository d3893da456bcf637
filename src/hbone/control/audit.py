"""The audit log: one line for each thing that was issued, refused, revoked or changed in the CA. Never rewritten.

The truth is the table `audit`: a line goes into it in the same transaction as what it tells of, so neither is ever
there without the other. Each line's digest covers the one before. What is committed is then copied to a file of JSON
lines beside the database, for `tail` and for whatever collects logs; a copy that was cut short by a crash is
completed at the next start.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from hbone.errors import UsageError
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

Values = Mapping[str, str | float | None]

_MAX_VALUE_CHARS: Final = 1000  # refusals quote what the caller sent
_TAIL_BYTES: Final = 64 * 1024  # more than one line can have
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One entry: `number` grows by one, `values` as they were written."""

    number: int
    values: Mapping[str, Any]


def append(database: sqlite3.Connection, values: Values) -> None:
    """Inside a transaction of the store."""
    line = orjson.dumps({name: _short(value) for name, value in values.items()})
    last = database.execute("SELECT digest FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    digest = sha256((last[0] if last else b"") + line).digest()
    database.execute("INSERT INTO audit (line, digest) VALUES (?, ?)", (line.decode(), digest))


def lines(database: sqlite3.Connection, *, after: int = 0, limit: int = _PAGE) -> list[AuditLine]:
    rows = database.execute("SELECT number, line FROM audit WHERE number > ? ORDER BY number LIMIT ?", (after, limit))
    return [AuditLine(number=number, values=orjson.loads(line)) for number, line in rows]


def first_fault(database: sqlite3.Connection) -> int | None:
    """The number of the first line that is not as it was written, or follows a missing one; None if all is well."""
    digest, expected = b"", 1
    for number, line, found in database.execute("SELECT number, line, digest FROM audit ORDER BY number"):
        digest = sha256(digest + line.encode()).digest()
        if number != expected or digest != found:
            return expected
        expected += 1
    return None


class AuditFile:
    """The copy on disk, mode 0600. Lines are whole."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError."""
        self.path = path
        self._failing = False
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(
                f"the audit log {path} cannot be opened",
                why=error.strerror or str(error),
                fix="give a --state-dir that you may write to",
            ) from error
        if os.fstat(self._descriptor).st_mode & 0o077:
            os.close(self._descriptor)
            raise UsageError(f"others may read or write the audit log {path}", fix=f"chmod 600 {path}")
        self._copied = self._last_number()

    def catch_up(self, database: sqlite3.Connection) -> None:
        """Append what the table has more. A disk that is full is said once, and made up for later."""
        try:
            while found := lines(database, after=self._copied):
                self._write(b"".join(orjson.dumps({"number": one.number, **one.values}) + b"\n" for one in found))
                self._copied = found[-1].number
        except OSError as error:
            if not self._failing:
                why = error.strerror or str(error)
                log.error("audit log not copied", extra={"path": str(self.path), "why": why})
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, content: bytes) -> None:
        written = os.write(self._descriptor, content)
        if written != len(content):  # take the part back: lines are whole
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _last_number(self) -> int:
        """Of the last whole line; half of one, which a crash left, is cut off."""
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(self._descriptor, size - start, start)
        whole, newline, rest = tail.rpartition(b"\n")
        if rest:
            os.ftruncate(self._descriptor, size - len(rest))
        last = whole.rpartition(b"\n")[2] if newline else b""
        try:
            return int(orjson.loads(last)["number"]) if last else 0
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return 0


def _short(value: str | float | None) -> str | float | None:
    return value[:_MAX_VALUE_CHARS] if isinstance(value, str) else value
