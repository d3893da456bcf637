"""A control plane's settings file, read again as it changes.

The whole file is taken or nothing of it: one that changes anything which needs a new start is refused with the line
where that is, and what was in force stays.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from hbone.config.load import Loaded, OriginKind
from hbone.config.model import ControlSettings
from hbone.config.reload import Change, changes, not_live
from hbone.control.manifests_watch import FilesWatch
from hbone.errors import HboneError, InvalidConfiguration, Problem
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_FIX: Final = "start it again, or take this change back: until then nothing of this file is taken"

Put = Callable[[ControlSettings], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """Where settings came from. `load`: all of them as they would be now, variables and flags above the file."""

    path: Path
    load: Callable[[], Loaded[ControlSettings]]


class Reread:
    """Keeps the settings of one process as its file says. `put` puts new ones in force, or raises
    InvalidConfiguration with nothing changed."""

    def __init__(self, file: ControlFile, settings: ControlSettings, put: Put) -> None:
        self._settings = settings
        self._put = put
        self._watch = FilesWatch(file.path, lambda _: file.load(), self._apply, what="setting")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the file as it is now is not in force; empty while it is."""
        return self._watch.problems

    async def run(self) -> None:
        """For ever. What changed since the start counts."""
        with contextlib.suppress(HboneError):  # said in a moment, when it is read as a change
            await self._watch.load()
        await self._watch.run()

    async def _apply(self, loaded: Loaded[ControlSettings]) -> None:
        found = changes(self._settings, loaded.settings)
        against = [_problem(change, loaded) for change in not_live(found)]
        if against:
            raise InvalidConfiguration(against)
        if not found:
            return
        await self._put(loaded.settings)
        self._settings = loaded.settings
        log.info("settings changed", extra={"settings": ", ".join(change.field.dotted for change in found)})


def _problem(change: Change, loaded: Loaded[ControlSettings]) -> Problem:
    dotted = change.field.dotted
    what = "this cannot change while the control plane runs"
    origin = loaded.origin(dotted)
    if origin.kind is not OriginKind.FILE:  # it was in the file, and is not any more
        return Problem(what=what, fix=_FIX, field=dotted)
    name, _, line = origin.where.rpartition(":")
    return Problem(what=what, fix=_FIX, field=dotted, file=name, line=int(line))
