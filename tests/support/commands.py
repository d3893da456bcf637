"""The real `hbone` command as a process, in a place of its own: empty home, own state and temporary directories.

Nothing of the machine's or the tester's set-up reaches it, and what it leaves behind can be seen.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click

import hbone
from hbone.addr import SocketAddress

SOURCES = Path(hbone.__file__).parents[1]  # the code under test, whatever else is installed
RUN_LIMIT_S = 30.0
WAIT_LIMIT_S = 20.0
END_LIMIT_S = 10.0
POLL_S = 0.01

_LISTENS = re.compile(r'listener="([a-z_ 0-9]+)" address="([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def expect(self, code: int) -> Self:
        """That it ended with `code`, and without a traceback; fails with all it said."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.text}"
        assert "Traceback" not in self.text, self.text
        assert "RuntimeWarning" not in self.text, self.text
        return self


class Running:
    """A command that runs, in a session of its own. Output and errors go to files."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, out: Path, err: Path) -> None:
        self.process = process
        self._mark = mark
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def text(self) -> str:
        return self.out + self.err

    def wait_for(self, *words: str, count: int = 1) -> str:
        """The `count`th line with all words; fails with all it said when it ends or stays silent."""
        self.wait_until(lambda: len(self.lines(*words)) >= count, f"to say {words}")
        return self.lines(*words)[count - 1]

    def lines(self, *words: str) -> list[str]:
        """The lines with all words so far, whole lines only."""
        whole = [*self.out.split("\n")[:-1], *self.err.split("\n")[:-1]]
        return [line for line in whole if all(word in line for word in words)]

    def wait_until(self, met: Callable[[], bool], what: str, limit_s: float = WAIT_LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not met():
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode}, expected {what}:\n{self.text}"
            )
            assert time.monotonic() < deadline, f"waited {limit_s:g} s for it {what}:\n{self.text}"
            time.sleep(POLL_S)

    def address(self, listener: str) -> SocketAddress:
        """Where a listener of a node is."""
        found: dict[str, str] = {}

        def known() -> bool:
            found.update(_LISTENS.findall(self.err))
            return listener in found

        self.wait_until(known, f"to listen ({listener})")
        return SocketAddress.parse(found[listener])

    def signal(self, number: signal.Signals) -> None:
        """To this process alone."""
        self.process.send_signal(number)

    def interrupt(self) -> None:
        """Ctrl-C at a terminal: to it and its children, but for those with a session of their own."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, limit_s: float = WAIT_LIMIT_S) -> Done:
        """Its end."""
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s:g} s:\n{self.text}") from None
        return Done(code=code, out=self.out, err=self.err)

    def ended(self, limit_s: float) -> bool:
        """Whether it has ended within the limit."""
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> Done:
        """Ask it to end, and wait for it."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def family(self) -> list[int]:
        """It and its descendants that still live, whatever session they are in."""
        return processes_marked(self._mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who runs a command: the interpreter to run it with, and the user id (None: ours).

    `packages`: where that interpreter finds what hbone stands on, None for one that knows it.
    """

    python: str = sys.executable
    uid: int | None = None
    packages: Path | None = None

    @property
    def search_path(self) -> str:
        """For PYTHONPATH: the code under test first."""
        return os.pathsep.join(map(str, (SOURCES, *([self.packages] if self.packages else []))))


NOBODY: Final = 65534


def unprivileged() -> User:
    """A user without any right: ourselves, or, for root, nobody. Raises LookupError, with the reason, where there is
    no interpreter that nobody may run."""
    if os.geteuid() != 0:
        return User()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    here = Path(click.__file__).parents[1]
    for user in (
        User(uid=NOBODY),
        User(uid=NOBODY, python=f"/usr/bin/{version}", packages=here),
    ):
        with Sandbox(user) as sandbox:
            try:
                if sandbox.run("--version").code == 0 and sandbox.run("schema", "node").code == 0:
                    return user
            except OSError:
                continue
    raise LookupError(f"user {NOBODY} may run neither {sys.executable} nor /usr/bin/{version} with {SOURCES}")


class Sandbox:
    """A directory to run commands in. A context manager: on leaving, what still runs is ended and all is removed.

    The path is short: Unix sockets live below it, and their paths may have 107 bytes.
    """

    def __init__(self, user: User | None = None) -> None:
        self.user = user or User()
        self.directory = Path(tempfile.mkdtemp(prefix="hb-"))
        self.home, self.temporary, self.work = (self.directory / name for name in ("home", "tmp", "work"))
        self.state = self.directory / "state"
        for made in (self.directory, self.home, self.temporary, self.work):
            made.mkdir(exist_ok=True)
            if self.user.uid is not None:
                os.chown(made, self.user.uid, self.user.uid)
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.process.terminate()
        stuck = [running for running in self._running if not running.ended(END_LIMIT_S)]
        said = [f"{' '.join(command_line(running.pid))}\n{running.text}" for running in stuck]
        for running in self._running:
            for pid in running.family():
                os.kill(pid, signal.SIGKILL)
            running.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not said or error is not None, f"still there {END_LIMIT_S:g} s after SIGTERM: {said}"

    def write(self, name: str, text: str | bytes) -> Path:
        """A file below the working directory."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """No HBONE_ variable but the state directory; coverage's stay, so that it sees the processes."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
        own = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "HBONE_STATE_DIR": str(self.state)}
        own["PYTHONPATH"] = self.user.search_path
        return {**kept, **own, **OFF, **(more or {})}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, limit_s: float = RUN_LIMIT_S) -> Done:
        """Run to the end."""
        return self.start(*arguments, env=env).wait(limit_s)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Running:
        return self.start_program((*self.command, *arguments), env=env)

    @property
    def command(self) -> tuple[str, ...]:
        """`hbone` as it is run here."""
        return (self.user.python, "-m", "hbone")

    def start_program(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Running:
        number = len(self._running)
        mark = f"{MARK}={self.directory.name}-{number}"
        out, err = self.directory / f"{number}.out", self.directory / f"{number}.err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                command,
                cwd=self.work,
                env={**self.environment(env), MARK: mark.partition("=")[2]},
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
                user=self.user.uid,
                group=self.user.uid,
                extra_groups=None if self.user.uid is None else [],
            )
        running = Running(process, mark, out, err)
        self._running.append(running)
        return running

    def left_behind(self) -> list[Path]:
        """What is in the home, temporary and state directories now."""
        return [path for place in (self.home, self.temporary, self.state) for path in sorted(place.rglob("*"))]


OFF: Mapping[str, str] = {
    "HBONE_ADMIN": "off",
    "HBONE_READINESS": "off",
    "HBONE_METRICS": "off",
    "HBONE_SOCKS": "off",
    "HBONE_INBOUND": "127.0.0.1:0",
}
"""Settings with which any number of nodes run side by side."""


MARK: Final = "STARTED_BY_TEST"
"""An environment variable: children have it too, also those whose parent is gone."""


def processes_marked(mark: str) -> list[int]:
    """The processes with this in their environment; a zombie has none any more."""
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            environment = (directory / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or is not for us to see
            continue
        if mark.encode() in environment:
            found.append(int(directory.name))
    return found


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
