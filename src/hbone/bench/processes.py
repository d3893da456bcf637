"""Starts processes and makes sure that they end.

Every process gets a session of its own: a Ctrl-C at the terminal reaches only us, and we end the others one by
one, by their own process groups, whatever way we leave; should we be killed, a guard does.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hbone.bench.faults import NotReady, SampleFailed
from hbone.net.guard import Guard

STOP_LIMIT_S = 3.0  # from the request to the end by force
POLL_S = 0.01
LOG_TAIL_CHARS = 600


class Started:
    """A process that runs beside us; its errors (and, for a server, its output) go to `log`."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def log_tail(self) -> str:
        """The end of its log, on one line; empty when it said nothing."""
        return " | ".join(self.log.read_text(errors="replace")[-LOG_TAIL_CHARS:].split("\n")).strip(" |")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all in its group; nothing happens when they are gone."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def end(self) -> None:
        """Kill whatever is left of its group and let go of its pipes."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def wait(self, limit_s: float) -> bool:
        """Whether it ended in time."""
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def result(self, limit_s: float) -> str:
        """Wait for its end and give its standard output; raises SampleFailed on failure or past the limit."""
        try:
            output, _ = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            self.signal(signal.SIGKILL)
            raise SampleFailed(f"{self.name} did not end within {limit_s:g} s", why=self.log_tail()) from error
        if self.process.returncode != 0:
            said = self.log_tail() or " ".join(output.split())[-LOG_TAIL_CHARS:]
            raise SampleFailed(f"{self.name} ended with {self.process.returncode}", why=said)
        return output

    def read_line(self, limit_s: float) -> str:
        """The next line of its standard output; raises SampleFailed when none comes in time."""
        output = self.process.stdout
        if output is None or not select.select([output], [], [], limit_s)[0]:
            raise SampleFailed(f"{self.name} said nothing within {limit_s:g} s", why=self.log_tail())
        line = output.readline()
        if not line:
            raise SampleFailed(f"{self.name} ended without an answer", why=self.log_tail())
        return line

    def wait_until(self, ready: Callable[[], bool], limit_s: float) -> float:
        """Seconds until `ready()`; raises NotReady when it ends before, or does not get there in time."""
        began = time.monotonic()
        while not ready():
            waited_s = time.monotonic() - began
            if not self.running():
                raise NotReady(f"{self.name} ended before it was ready", why=self.log_tail(), process=self)
            if waited_s > limit_s:
                raise NotReady(f"{self.name} was not ready within {limit_s:g} s", why=self.log_tail(), process=self)
            time.sleep(POLL_S)
        return time.monotonic() - began


class Processes:
    """All processes of a run; leaving the context ends those that still live. Logs stay in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[Started] = []
        self._guard = Guard(directory)
        self._count = 0

    def __enter__(self) -> Self:
        self._guard.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop(self._started)
        finally:
            self._guard.__exit__(kind, error, trace)

    def serve(self, name: str, command: Sequence[str]) -> Started:
        """Start a server; its output goes to its log."""
        return self._start(name, command, to_us=False)

    def spawn(self, name: str, command: Sequence[str]) -> Started:
        """Start a program whose output is wanted: `result()` waits for it. Its standard input is a pipe."""
        return self._start(name, command, to_us=True)

    def run(self, name: str, command: Sequence[str], *, limit_s: float) -> str:
        """Run a program to its end and give its output; raises SampleFailed."""
        started = self.spawn(name, command)
        try:
            return started.result(limit_s)
        finally:
            self.stop([started])

    def stop(self, processes: Sequence[Started]) -> None:
        """Ask all to end, then make those end that did not; at once when we are interrupted meanwhile."""
        ending = list(processes)
        try:
            for started in ending:
                if started.running():
                    started.signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_LIMIT_S
            for started in ending:
                started.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for started in ending:
                started.end()
                self._guard.ended(started.pid)
                if started in self._started:
                    self._started.remove(started)

    def _start(self, name: str, command: Sequence[str], *, to_us: bool) -> Started:
        self._count += 1
        log = self.directory / f"{self._count:04}-{name}.log"
        with log.open("w") as file:
            process = subprocess.Popen(  # noqa: S603 - programs found by name, arguments our own
                command,
                stdin=subprocess.PIPE if to_us else subprocess.DEVNULL,
                stdout=subprocess.PIPE if to_us else file,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        started = Started(name, process, log)
        self._started.append(started)
        self._guard.lives(started.pid)
        return started
