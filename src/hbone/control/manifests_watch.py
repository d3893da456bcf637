"""Configuration files on disk, read again when they change: a directory of manifests, or one file.

An invalid state never replaces a valid one: its problems are kept for the operator, and said once, until the files
are right again. Reading happens off the loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Final, Generic, TypeVar

from hbone.errors import HboneError, InvalidConfiguration, Problem

log = logging.getLogger("hbone.control")

DEBOUNCE_MS: Final = 100  # as istiod: an editor or a symlink swap makes several changes of one
LOOK_AGAIN_MS: Final = 5000
"""A change before the watch stood, or in a directory that was made a moment ago, is never announced: look anyway."""
START_S: Final = 0.2
"""Until a directory's watch is set up, which takes 20 ms of importing: whoever waits for this process comes first."""
FILE_LOOK_S: Final = 0.5
"""Between looks at a single file. A watch would be told at once, for 2.5 MiB and twenty wake-ups a second."""
_POLL_MS = 1000
_RETRY_S = 1.0

T = TypeVar("T")
"""What the files say."""


Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and inode of each file that is read."""


def fingerprint(path: Path) -> Fingerprint:
    """What would differ if the file, or one below the directory, were another one; links are followed."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found: list[tuple[str, int, int, int]] = []
    for file in files:
        with contextlib.suppress(OSError):  # gone since it was listed
            stat = file.stat()
            found.append((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


class FilesWatch(Generic[T]):
    """Loads `path` once, and again after each change; `apply` puts what was loaded in force."""

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], T],
        apply: Callable[[T], object],
        guard: Callable[[T, T], Iterable[Problem]] = lambda _held, _loaded: (),
        *,
        what: str = "manifest",
    ) -> None:
        """`load` reads and parses everything, or raises InvalidConfiguration with all problems. `apply` may raise it
        too, with nothing changed; what it gives is awaited, if it can be. `guard`: what speaks against putting the
        second in the place of the first, which is in force. `what` the log calls one file."""
        self._what = what
        self._path = path
        self._load = load
        self._apply = apply
        self._problems: tuple[Problem, ...] = ()
        self._seen: Fingerprint = ()
        self._guard = guard
        self._held: T | None = None
        self.reloads = {"ok": 0, "failed": 0}  # since the start, which does not count
        """How often a change was put in force, and how often it was not."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the files as they are now; empty while what they say is in force."""
        return self._problems

    async def load(self) -> None:
        """Read now; raises InvalidConfiguration, with nothing changed."""
        seen = await asyncio.to_thread(fingerprint, self._path)
        loaded = await asyncio.to_thread(self._load, self._path)
        against = tuple(self._guard(self._held, loaded)) if self._held is not None else ()
        if against:
            raise InvalidConfiguration(against)
        applied = self._apply(loaded)
        if isinstance(applied, Awaitable):
            await applied
        self._held = loaded
        self._problems = ()
        self._seen = seen

    async def reload(self) -> None:
        """Read now; problems are kept, not raised."""
        was_wrong = bool(self._problems)
        try:
            await self.load()
        except InvalidConfiguration as error:
            self._note(error.problems)
        except (HboneError, OSError) as error:
            self._note((Problem(what=str(error), fix="put the files back", file=str(self._path)),))
        except Exception as error:  # a fault of ours with these files must not end the watch over the next ones
            log.exception("%ss not read", self._what, extra={"path": str(self._path)})
            self._note((Problem(what=repr(error)[:200], fix="please report it", file=str(self._path)),))
        else:
            self.reloads["ok"] += 1
            log.info(
                f"{self._what}s are right again" if was_wrong else f"{self._what}s read",
                extra={"path": str(self._path)},
            )

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            changes = self._announced() if self._path.is_dir() else self._noticed()
            async for _ in changes:
                await self._look()
            await asyncio.sleep(_RETRY_S)  # the directory went away, or cannot be watched
            await self.reload()

    async def _look(self) -> None:
        """Read again if it changed; a log or an editor's swap file beside it changes too: only what is read counts."""
        if await asyncio.to_thread(fingerprint, self._path) != self._seen:
            await self.reload()

    async def _noticed(self) -> AsyncGenerator[None]:
        """Changes of a single file, or of what was a directory, until there is one."""
        seen, looked = self._seen, 0  # what was seen last, right or wrong; how often since then
        while not self._path.is_dir():
            await asyncio.sleep(FILE_LOOK_S)
            now = await asyncio.to_thread(fingerprint, self._path)
            looked += 1
            if now != seen or (self._problems and looked * FILE_LOOK_S * 1000 >= LOOK_AGAIN_MS):
                seen, looked = await self._settled(now), 0
                yield

    async def _settled(self, found: Fingerprint) -> Fingerprint:
        """What it is when nobody is in the middle of writing any more; not waiting for ever."""
        for _ in range(LOOK_AGAIN_MS // DEBOUNCE_MS):
            await asyncio.sleep(DEBOUNCE_MS / 1000)
            before, found = found, await asyncio.to_thread(fingerprint, self._path)
            if found == before:
                break
        return found

    async def _announced(self) -> AsyncGenerator[None]:
        """Changes below a directory, until it goes away."""
        await asyncio.sleep(START_S)
        await asyncio.to_thread(import_module, "watchfiles")  # in a thread, so that the loop goes on
        yield
        from watchfiles import awatch  # pyright: ignore[reportUnknownVariableType]  # an optional import of anyio inside

        for polling in (None, True):
            with contextlib.suppress(OSError, RuntimeError):  # no inotify, or too many watches: look every second
                async for _ in awatch(
                    self._path,
                    debounce=DEBOUNCE_MS,
                    step=50,
                    poll_delay_ms=_POLL_MS,
                    force_polling=polling,
                    recursive=True,
                    rust_timeout=LOOK_AGAIN_MS,
                    yield_on_timeout=True,
                ):
                    yield
                    if not self._path.is_dir():
                        return

    def _note(self, problems: tuple[Problem, ...]) -> None:
        self.reloads["failed"] += 1
        if problems != self._problems:
            for problem in problems:
                log.error("%s not taken, the former state stays", self._what, extra={"problem": str(problem)})
        self._problems = problems
