"""Lines on their way to standard output: batched, written by a thread, bounded.

A write to a pipe, a terminal or a disk can block for as long as its reader likes; the loop must not. So a line is
put into a list, the list is joined and handed to one writer thread (at 64 KiB, or at most 100 ms later), and what
the thread has not written yet is bounded: past the bound lines are dropped and counted, and the count is told in
one line as soon as there is room again. So it is with a disk that is full. The descriptor's own flags are never
touched: O_NONBLOCK would be set for everyone who shares it, the operator's shell included.
"""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Final

BATCH_BYTES: Final = 64 << 10
MAX_DELAY_S: Final = 0.1
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
MAX_WAITING_BYTES: Final = 8 << 20  # about 20,000 access lines

Schedule = Callable[[float, Callable[[], None]], object]
"""`loop.call_later`, as much of it as is needed here."""


class LineWriter:
    """Takes lines, from one thread, and never blocks it.

    `schedule` is `loop.call_later`; None before there is a loop, then each line is handed over at once.
    `dropped_line(count)` makes the line that tells of lost ones. The descriptor is borrowed, not closed.
    """

    def __init__(self, fd: int, dropped_line: Callable[[int], str], *, max_waiting_bytes: int = MAX_WAITING_BYTES):
        self.schedule: Schedule | None = None
        self.turn: AbstractContextManager[object] | None = None
        """Held around each batch by processes that share the descriptor: a pipe takes only 4096 bytes at once in one
        piece (pipe(7), PIPE_BUF), and a line must not end inside another one."""
        self._fd = fd
        self._dropped_line = dropped_line
        self._max_waiting_bytes = max_waiting_bytes
        self._refused = 0  # lines that were not handed on: counted by whoever writes
        self._lost = 0  # lines that were, and could not be written: counted by the thread
        self._told = 0  # of both
        self._lines: list[str] = []
        self._chars = 0
        self._flush_due = False
        self._handed_bytes = 0
        self._written_bytes = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken = False
        self._inside_line = False
        self._closed = False

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._refused + self._lost

    def write(self, line: str) -> None:
        """`line` ends with its newline. After `close` it is dropped."""
        self._lines.append(line)
        self._chars += len(line)
        if self._chars >= BATCH_BYTES:
            self.flush()
        elif not self._flush_due:
            schedule = self.schedule
            if schedule is None:
                self.flush()
            else:
                self._flush_due = True
                schedule(MAX_DELAY_S, self._flush_when_due)

    def flush(self) -> None:
        """Hand what there is to the writer thread; it need not be written when this returns."""
        lines = self._lines
        if not lines:
            return
        self._lines = []
        self._chars = 0
        if self._broken or self._closed or self._handed_bytes - self._written_bytes >= self._max_waiting_bytes:
            self._refused += len(lines)
            return
        untold = self.dropped - self._told
        if untold:
            lines.append(self._dropped_line(untold))
            self._told += untold
        batch = "".join(lines).encode("utf-8", "backslashreplace")
        self._handed_bytes += len(batch)
        if self._thread is None:
            # A daemon: a reader that never reads must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=f"lines to fd {self._fd}", daemon=True)
            self._thread.start()
        self._queue.put(batch)

    def close(self, timeout_s: float) -> None:
        """Write what is waiting, for at most `timeout_s`; this waits. Safe to call twice."""
        self.flush()
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _flush_when_due(self) -> None:
        self._flush_due = False
        self.flush()

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if not self._broken:
                with self.turn or nullcontext():
                    self._write_all(batch)
            self._written_bytes += len(batch)

    def _write_all(self, batch: bytes) -> None:
        if self._inside_line:
            batch = b"\n" + batch
        view = memoryview(batch)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody else made the descriptor non-blocking
                self._wait_writable()
            except OSError as error:  # room may come back, a reader that went away does not
                self._broken = error.errno not in _PASSING
                if not self._broken:
                    self._lost += bytes(view).count(b"\n")
                    done = len(batch) - len(view)
                    self._inside_line = batch[done - 1 : done] != b"\n" if done else self._inside_line
                return
        self._inside_line = False

    def _wait_writable(self) -> None:
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(1000)
