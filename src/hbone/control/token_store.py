"""Join tokens in the control plane's state: a row each, used up in the same transaction that the audit log tells of."""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any, Final, TypeVar

from hbone.control import audit
from hbone.control.store import StateStore, Work
from hbone.control.tokens import TokenRecord, TokenStoreFailed, used
from hbone.errors import StoreFailed
from hbone.times import WallTime

T = TypeVar("T")

_NAMES: Final = ", ".join(field.name for field in fields(TokenRecord))
_MARKS: Final = ", ".join("?" for _ in fields(TokenRecord))


class SqliteTokens:
    """A TokenStore."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def add(self, record: TokenRecord) -> None:
        def work(database: sqlite3.Connection) -> None:
            _put(database, record)
            audit.append(database, _line("join token created", record, record.created_at))

        await self._write(work)

    async def find(self, token_id: str) -> TokenRecord | None:
        return await self._read(lambda database: _find(database, token_id))

    async def use(self, token_id: str, key_sha256: str, now: WallTime) -> bool:
        def work(database: sqlite3.Connection) -> bool:
            record = _find(database, token_id)
            after = used(record, key_sha256, now) if record is not None else None
            if after is not None and after != record:
                _put(database, after)
                audit.append(database, _line("join token used", after, now))
            return after is not None

        return await self._write(work)

    async def all(self) -> Sequence[TokenRecord]:
        select = f"SELECT {_NAMES} FROM join_tokens ORDER BY created_at, token_id"  # noqa: S608 - our own names
        return await self._read(lambda database: [TokenRecord(**_named(row)) for row in database.execute(select)])

    async def remove(self, token_id: str) -> bool:
        delete = "DELETE FROM join_tokens WHERE token_id = ?"
        return await self._write(lambda database: database.execute(delete, (token_id,)).rowcount > 0)

    async def _write(self, work: Work[T]) -> T:
        try:
            return await self._store.write(work)
        except StoreFailed as error:
            raise TokenStoreFailed(error.what, why=error.why, fix=error.fix) from error

    async def _read(self, work: Work[T]) -> T:
        try:
            return await self._store.read(work)
        except StoreFailed as error:
            raise TokenStoreFailed(error.what, why=error.why, fix=error.fix) from error


def _line(event: str, record: TokenRecord, at: WallTime) -> audit.Values:
    return {
        "event": event,
        "at": at,
        "token": record.token_id,
        "spiffe_id": record.identity,
        "expires_at": record.expires_at,
        "caller": record.creator,
        "key_sha256": record.used_by,
    }


def _put(database: sqlite3.Connection, record: TokenRecord) -> None:
    insert = f"INSERT OR REPLACE INTO join_tokens ({_NAMES}) VALUES ({_MARKS})"  # noqa: S608 - our own names
    database.execute(insert, astuple(record))


def _find(database: sqlite3.Connection, token_id: str) -> TokenRecord | None:
    select = f"SELECT {_NAMES} FROM join_tokens WHERE token_id = ?"  # noqa: S608 - our own names
    row = database.execute(select, (token_id,)).fetchone()
    return None if row is None else TokenRecord(**_named(row))


def _named(row: Sequence[Any]) -> dict[str, Any]:
    return {field.name: value for field, value in zip(fields(TokenRecord), row, strict=True)}
