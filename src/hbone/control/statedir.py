"""The state directory: ours alone, in the hands of one process at a time."""

import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Self

from hbone.errors import InvalidConfiguration, Problem, UsageError

LOCK: Final = "state.lock"


def make_private(directory: Path) -> None:
    """Made with mode 0700 if it is absent; an existing one must be ours and closed to others.

    Raises InvalidConfiguration with what to change, UsageError where it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        problems = intrusions(directory, "0700")
    except OSError as error:
        raise UsageError(
            f"the state directory {directory} cannot be used",
            why=error.strerror or str(error),
            fix="give a --state-dir that you may write to",
        ) from error
    if problems:
        raise InvalidConfiguration(problems)


def intrusions(path: Path, mode: str) -> list[Problem]:
    """What lets others in; empty if the file or directory is ours and nobody else may look."""
    found = path.stat()
    problems: list[Problem] = []
    if found.st_uid != os.geteuid():
        fix = f"chown it to user {os.geteuid()}, or run as user {found.st_uid}"
        problems.append(Problem(what=f"it belongs to user {found.st_uid}", fix=fix, file=str(path)))
    if stat.S_IMODE(found.st_mode) & 0o077:
        what = f"its mode {stat.S_IMODE(found.st_mode):04o} lets others in"
        problems.append(Problem(what=what, fix=f"chmod {mode} {path}", file=str(path)))
    return problems


class StateLock:
    """Held while this process keeps its state there. Ends with the process, however that ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> Self:
        """Raises UsageError when another process has it."""
        path = directory / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(f"{path} cannot be opened", why=error.strerror or str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise UsageError(
                f"another process keeps its state in {directory}",
                why="a control plane runs there already",
                fix="stop it, or give another --state-dir",
            ) from error
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
