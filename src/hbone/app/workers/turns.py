"""Processes that write to the same descriptor take turns, so that no line ends inside another one's.

A worker hands up to 64 KiB of lines to one write. A pipe takes no more than 4096 bytes in one piece (PIPE_BUF,
pipe(7)), a journal's socket cuts where it likes, and only files and terminals keep a write together. So a lock is held
around each batch: two system calls in 100 ms, in the thread that writes. flock(2) belongs to the open file, which each
writer opens for itself, and goes with it: a process that dies in its turn does not keep the others waiting.
"""

import fcntl
import os

from hbone.telemetry.log import Logs


class Turn:
    """One writer's side of the lock."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def take_turns(logs: Logs, path: str) -> None:
    """From now on. Raises OSError. The files stay open as long as the process, as the writers' threads do."""
    logs.lines.turn = Turn(path)
    logs.access_lines.turn = Turn(path)
