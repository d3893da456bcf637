"""The audit log: one JSON line for each thing that was issued or refused, appended, never rewritten.

A certificate is handed out only after its line is on disk: what is not in the journal was not issued.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import orjson

from hbone.errors import HboneError, UsageError

_MAX_VALUE_CHARS = 1000  # refusals quote what the caller sent


class JournalFailed(HboneError):
    """The journal could not be written, so nothing may be issued."""


class Journal:
    """An append-only file of mode 0600. Lines are whole: one write each, however many processes append."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Made if need be; an existing one must be readable by its owner only. Raises UsageError."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(
                f"the journal {path} cannot be opened",
                why=error.strerror or str(error),
                fix="give a --state-dir that you may write to",
            ) from error
        if os.fstat(descriptor).st_mode & 0o077:
            os.close(descriptor)
            raise UsageError(f"others may read or write the journal {path}", fix=f"chmod 600 {path}")
        return cls(descriptor, path)

    def append(self, values: Mapping[str, str | float | None]) -> None:
        """Write one line and have it on disk: waits for the disk. Raises JournalFailed."""
        line = orjson.dumps({name: _short(value) for name, value in values.items()}, option=orjson.OPT_APPEND_NEWLINE)
        try:
            written = os.write(self._descriptor, line)
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise JournalFailed(
                "the journal cannot be written", why=error.strerror or str(error), fix=f"make room for {self.path}"
            ) from error
        if written != len(line):
            raise JournalFailed(
                "the journal took half a line", why="the disk is full", fix=f"make room for {self.path}"
            )

    def close(self) -> None:
        os.close(self._descriptor)


def _short(value: str | float | None) -> str | float | None:
    return value[:_MAX_VALUE_CHARS] if isinstance(value, str) else value
