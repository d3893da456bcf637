"""The state: durable before it answers, whole or not at all, and clear about what is wrong with it."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from hbone.control import audit
from hbone.control.audit import AuditFile
from hbone.control.schema import VERSION, version_of
from hbone.control.statedir import StateLock, make_private
from hbone.control.store import StateStore
from hbone.errors import InvalidConfiguration, StoreFailed, UsageError


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[StateStore]:
    opened = StateStore.open(tmp_path / "control.db")
    yield opened
    opened.close()


def names(database: sqlite3.Connection) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM meta ORDER BY name")]


async def write(store: StateStore, name: str) -> int:
    return await store.write(lambda database: _put(database, name))


def _put(database: sqlite3.Connection, name: str) -> int:
    return database.execute("INSERT INTO meta (name, value) VALUES (?, '')", (name,)).rowcount


async def test_a_new_database_has_the_newest_schema_and_is_its_owners_alone(store: StateStore) -> None:
    assert await store.read(version_of) == VERSION
    await write(store, "a")
    for path in store.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    mode = await store.write(lambda database: database.execute("PRAGMA synchronous").fetchone()[0])
    assert mode == 2, "FULL: every commit is on disk"


async def test_what_was_written_is_there_when_the_write_returns_and_after_a_restart(store: StateStore) -> None:
    assert await write(store, "a") == 1
    assert await store.read(names) == ["a"]
    store.close()
    again = StateStore.open(store.path)
    assert again.read_now(names) == ["a"]
    again.close()
    with pytest.raises(StoreFailed, match="is closed"):
        await write(again, "b")


async def test_many_writes_at_once_share_commits(store: StateStore) -> None:
    commits = 0

    def count(_: sqlite3.Connection) -> None:
        nonlocal commits
        commits += 1

    store.after_commit(count)
    await asyncio.gather(*(write(store, f"{n:04}") for n in range(500)))
    assert len(await store.read(names)) == 500
    assert commits < 100


async def test_a_write_that_fails_takes_none_of_its_neighbours_along(store: StateStore) -> None:
    def broken(database: sqlite3.Connection) -> int:
        _put(database, "half")
        raise ValueError("its own affair")

    results = await asyncio.gather(
        write(store, "a"), store.write(broken), write(store, "a"), write(store, "b"), return_exceptions=True
    )
    assert [type(result) for result in results] == [int, ValueError, StoreFailed, int]
    assert await store.read(names) == ["a", "b"]


async def test_a_full_disk_is_said_and_loses_nothing(store: StateStore) -> None:
    await store.write(lambda database: database.execute("PRAGMA max_page_count = 1").fetchall())
    done = 0
    with pytest.raises(StoreFailed, match=r"control\.db cannot be used: the disk is full; make room on the filesystem"):
        while True:
            await store.write(lambda database, n=done: _put(database, f"{n:05}" + "x" * 2000))  # type: ignore[misc]
            done += 1
    assert len(await store.read(names)) == done
    await store.write(lambda database: database.execute("PRAGMA max_page_count = 10000").fetchall())
    await write(store, "room again")


async def test_a_database_that_another_program_holds_is_waited_for_and_then_said(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "control.db", busy_timeout_s=0.05)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="another program holds it locked; close what else has"):
        await write(store, "a")
    other.execute("ROLLBACK")
    other.close()
    assert await write(store, "a") == 1
    store.close()


def test_a_damaged_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    StateStore.open(path).close()
    content = bytearray(path.read_bytes())
    content[4096:12288] = os.urandom(8192)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged: Page .* error code 11; restore it"):
        StateStore.open(path)
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(UsageError, match="file is not a database"):
        StateStore.open(path)


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    StateStore.open(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(UsageError, match="written by a later version of hbone"):
        StateStore.open(path)


def test_a_place_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    StateStore.open(path).close()
    path.chmod(0o644)
    with pytest.raises(InvalidConfiguration, match="mode 0644 lets others in; chmod 0600"):
        StateStore.open(path)
    directory = tmp_path / "state"
    make_private(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o755)
    with pytest.raises(InvalidConfiguration, match="chmod 0700"):
        make_private(directory)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be used"):
        make_private(tmp_path / "file" / "state")
    with pytest.raises(UsageError, match="cannot be opened"):
        StateStore.open(tmp_path / "none" / "control.db")


def test_one_process_at_a_time_keeps_its_state_in_a_directory(tmp_path: Path) -> None:
    lock = StateLock.take(tmp_path)
    with pytest.raises(UsageError, match="another process keeps its state"):
        StateLock.take(tmp_path)
    lock.release()
    StateLock.take(tmp_path).release()


# the audit log


async def test_lines_of_the_audit_log_cannot_be_changed_and_an_altered_one_shows(store: StateStore) -> None:
    for number in range(3):
        values = {"event": "test", "turn": number, "long": "x" * 5000}
        await store.write(lambda database, values=values: audit.append(database, values))  # type: ignore[misc]
    found = await store.read(audit.lines)
    assert [(line.number, line.values["turn"], len(line.values["long"])) for line in found] == [
        (1, 0, 1000),
        (2, 1, 1000),
        (3, 2, 1000),
    ]
    for statement in ("UPDATE audit SET line = '{}'", "DELETE FROM audit"):
        with pytest.raises(StoreFailed, match="append-only"):
            await store.write(lambda database, statement=statement: database.execute(statement).rowcount)  # type: ignore[misc]
    assert await store.read(audit.first_fault) is None
    store.close()
    with sqlite3.connect(store.path) as database:  # somebody with another tool
        database.execute("DROP TRIGGER audit_is_never_changed")
        database.execute("UPDATE audit SET line = replace(line, '1', '7') WHERE number = 2")
        assert audit.first_fault(database) == 2
        database.execute("DROP TRIGGER audit_is_never_deleted")
        database.execute("DELETE FROM audit WHERE number < 3")
        assert audit.first_fault(database) == 1
    database.close()


async def test_the_copy_of_the_audit_log_is_completed_after_a_crash(tmp_path: Path, store: StateStore) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        await store.write(lambda database, number=number: audit.append(database, {"turn": number}))  # type: ignore[misc]
    path.touch(mode=0o600)
    path.write_text('{"number":1,"turn":0}\n{"number":2,"tu')
    copy = AuditFile(path)
    await store.write(copy.catch_up)
    copy.close()
    assert path.read_text().splitlines() == [f'{{"number":{n + 1},"turn":{n}}}' for n in range(3)]
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        AuditFile(path)
    with pytest.raises(UsageError, match="cannot be opened"):
        AuditFile(tmp_path)


async def test_a_copy_that_cannot_be_written_keeps_nobody_waiting_and_is_said_once(
    tmp_path: Path, store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    copy = AuditFile(tmp_path / "audit.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, copy._descriptor)  # pyright: ignore[reportPrivateUsage]  # a disk that is full
    os.close(full)
    store.after_commit(copy.catch_up)
    for number in range(3):
        await store.write(lambda database, number=number: audit.append(database, {"turn": number}))  # type: ignore[misc]
    store.close()
    assert [record.message for record in caplog.records] == ["audit log not copied"]
    copy.close()
