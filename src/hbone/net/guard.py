"""Nothing that we started outlives us, even when we are killed.

A process that is killed cannot end its children, and not every program ends with its parent: a small process of
our own holds the other end of a pipe, and is told which process groups live. When the pipe ends without a farewell it
ends them, and removes what we would have removed.

Run as a script, this file is that process; it imports nothing of ours, so that it is there in a few milliseconds.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LIVES, ENDED, FAREWELL = "lives", "ended", "farewell"
GRACE_S: Final = 3.0  # from the request to the end by force


class Guard:
    """Ends process groups, and removes `directory`, should this process end before it leaves the context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 -- ourselves
            [sys.executable, "-I", "-S", __file__, os.fspath(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C is for us
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            _write(process, FAREWELL)
            with contextlib.suppress(OSError):
                assert process.stdin is not None  # noqa: S101 -- it was asked for
                process.stdin.close()
            process.wait()

    def lives(self, group: int) -> None:
        """A process that leads a group of its own has been started."""
        self._tell(f"{LIVES} {group}")

    def ended(self, group: int) -> None:
        """Nothing of the group is left; its number may soon be somebody else's."""
        self._tell(f"{ENDED} {group}")

    def _tell(self, line: str) -> None:
        if self._process is not None:
            _write(self._process, line)


def _write(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None  # noqa: S101 -- it was asked for
    with contextlib.suppress(OSError):  # somebody ended the guard: then nobody guards
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()


def _watch(directory: str) -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        word, _, group = line.strip().partition(" ")
        if word == FAREWELL:
            return
        (groups.add if word == LIVES else groups.discard)(int(group))
    _end(groups)
    shutil.rmtree(directory, ignore_errors=True)


def _end(groups: set[int]) -> None:
    deadline = time.monotonic() + GRACE_S
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {group for group in left if _signal(group, 0)}
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _watch(sys.argv[1])
