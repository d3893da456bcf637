"""The state of a control plane: one SQLite file, one thread that writes it.

    store = StateStore.open(directory / "control.db")
    serial = await store.write(lambda database: …)   # durable when this returns
    rows = await store.read(lambda database: …)

What one `write` does happens whole or not at all, and it is on disk (WAL, synchronous=FULL) before it is answered.
Writes of one turn of the loop are handed over together, and those that arrive while the disk is busy with the last
commit share the next one: a commit costs the disk some milliseconds however much is in it, and every handover costs a
change of threads (measured: a fifth of what it takes to issue a certificate). So under load thousands a second go
through, and a single one waits for itself alone. A write that fails takes none of its neighbours along.
"""

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from hbone.control.schema import VERSION, NewerSchema, migrate
from hbone.control.statedir import intrusions
from hbone.errors import InvalidConfiguration, StoreFailed, UsageError
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BUSY_TIMEOUT_S: Final = 5.0
_BATCH: Final = 512  # enough writes for one commit: more would only make the first of them wait
_CHECKED_AT_START_BYTES: Final = 256 << 20  # quick_check reads it all: 0.5 s for so much
_CACHE_KIB: Final = 32 * 1024


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    loop: asyncio.AbstractEventLoop | None
    answer: asyncio.Future[Any] | None
    result: Any = None
    error: BaseException | None = None


class StateStore:
    """One open database. `close` waits for what was handed over."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._gathered: list[_Job] = []  # of this turn of the loop
        self._closed = False
        self._after_commit: Callable[[sqlite3.Connection], None] = lambda _: None
        self._thread = threading.Thread(target=self._serve, name="state", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Self:
        """Made with mode 0600 if it is absent, brought to this version's schema if it is older.

        Raises InvalidConfiguration for wrong modes or owners, UsageError for a database that cannot be opened, is
        corrupt or from a later version.
        """
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            problems = intrusions(path, "0600")
        except OSError as error:
            raise _cannot_open(path, error.strerror or str(error)) from error
        if problems:
            raise InvalidConfiguration(problems)
        database = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
        try:
            _prepare(database, path)
        except BaseException:
            database.close()
            raise
        return cls(path, database)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; its result once it is on disk. Raises StoreFailed, or what `work` raised.

        Who stops waiting does not stop the write.
        """
        if self._closed:
            raise StoreFailed("the state is closed", why="this process is stopping")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(_Job(work, loop, answer))
        return await answer  # type: ignore[no-any-return]  # what `work` returned

    def write_later(self, work: Work[Any]) -> None:
        """The same for what nobody waits for, after all that was handed over before; a failure is logged."""
        if not self._closed:
            self._gathered.append(_Job(work, None, None))
            self._hand_over()

    async def read(self, work: Work[T]) -> T:
        """Run `work` on what was last committed, beside the writes. Raises StoreFailed, or what `work` raised."""
        return await asyncio.to_thread(self.read_now, work)

    def read_now(self, work: Work[T]) -> T:
        """The same, in this thread."""
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as database:
                database.execute("BEGIN")
                return work(database)
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    def after_commit(self, call: Callable[[sqlite3.Connection], None]) -> None:
        """`call` in the writing thread after each commit, once what was waited for has been answered."""
        self._after_commit = call

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._jobs.put(None)
            self._thread.join()

    def _hand_over(self) -> None:
        """What was gathered to the thread; nothing if it has gone already."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._jobs.put(gathered)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        running = True
        while running:
            jobs, running = self._next_jobs()
            if jobs:
                self._commit(jobs)
                for loop in {job.loop for job in jobs if job.loop is not None}:
                    with suppress(RuntimeError):  # a loop that is closed already: nobody waits
                        loop.call_soon_threadsafe(_deliver, [job for job in jobs if job.loop is loop])
                self._after()
        with suppress(sqlite3.Error):
            self._database.close()

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        """What there is to do, at least one; and whether to go on afterwards."""
        jobs: list[_Job] = []
        more = self._jobs.get()
        while more is not None:
            jobs += more
            if len(jobs) >= _BATCH or self._jobs.empty():
                return jobs, True
            more = self._jobs.get()
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        """All of them in one transaction; each remembers its result or its own error."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run(job)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            failure = explained(error, self.path)
            log.error("state not written", extra={"error": str(failure), "writes": len(jobs)})
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            for job in jobs:
                job.error = job.error or failure

    def _after(self) -> None:
        try:
            self._after_commit(self._database)
        except Exception:
            log.exception("after a commit")

    def _run(self, job: _Job) -> None:
        database = self._database
        database.execute("SAVEPOINT one")
        try:
            job.result = job.work(database)
        except sqlite3.Error as error:
            if not database.in_transaction:  # SQLite rolled everything back (a full disk): nobody's write holds
                raise
            job.error = explained(error, self.path)
            log.error("state not written", extra={"error": str(job.error)})
        except Exception as error:  # its own affair: raised again where it waits
            job.error = error
        if job.error is not None:
            database.execute("ROLLBACK TO one")
        database.execute("RELEASE one")


def _deliver(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.answer is None or job.answer.done():
            continue
        if job.error is not None:
            job.answer.set_exception(job.error)
        else:
            job.answer.set_result(job.result)


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    try:
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        if mode != "wal":
            raise _cannot_open(path, f"its filesystem does not allow WAL mode, only {mode}")
        if path.stat().st_size <= _CHECKED_AT_START_BYTES:
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise _corrupt(path, str(verdict))
        migrate(database)
    except NewerSchema as error:
        raise UsageError(
            f"{path} was written by a later version of hbone",
            why=f"its schema has version {error.found}, this program knows {VERSION}",
            fix="run that version, or restore the state from before it",
        ) from error
    except sqlite3.Error as error:
        failure = explained(error, path)
        raise UsageError(failure.what, why=failure.why, fix=failure.fix) from error


_WHY: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_BUSY: ("another program holds it locked", "close what else has {path} open"),
    sqlite3.SQLITE_LOCKED: ("another program holds it locked", "close what else has {path} open"),
    sqlite3.SQLITE_FULL: ("the disk is full", "make room on the filesystem of {path}"),
    sqlite3.SQLITE_READONLY: ("it may not be written", "check owner and mode of {path} and its directory"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check owner and mode of {path} and its directory"),
    sqlite3.SQLITE_IOERR: ("the disk reported an error", "check the disk that holds {path}"),
    sqlite3.SQLITE_PERM: ("access was denied", "check owner and mode of {path} and its directory"),
}


def explained(error: sqlite3.Error, path: Path) -> StoreFailed:
    """The same in words, with what to do about it."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None  # extended codes hold the primary one below
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        found = _corrupt(path, str(error))
        return StoreFailed(found.what, why=found.why, fix=found.fix)
    why, fix = _WHY.get(primary or 0, (str(error), "see `hbone doctor`"))
    return StoreFailed(f"the state {path.name} cannot be used", why=why, fix=fix.format(path=path))


def _corrupt(path: Path, found: str) -> UsageError:
    return UsageError(
        f"the state in {path} is damaged",
        why=(found.splitlines() or ["unknown"])[-1][:200],
        fix=f"restore it from a backup; or move {path.name}, {path.name}-wal and {path.name}-shm away: "
        "the CA's keys and certificates in ca/ stay and are taken up again, the record of issued and revoked "
        "certificates is lost",
    )


def _cannot_open(path: Path, why: str) -> UsageError:
    return UsageError(f"the state {path} cannot be opened", why=why, fix="give a --state-dir that you may write to")
