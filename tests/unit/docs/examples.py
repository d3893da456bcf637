"""Shell examples of the documentation, read from Markdown and run as a reader would type them.

A block is run when the comment before it says so:

    <!-- test: run -->          commands after "$ ", each run to its end; what they print is what the page shows
    <!-- test: run, exit 2 -->  … and the last one ends with that code
    <!-- test: run, as hbone demo -->   … with another command typed instead
    <!-- test: stays -->        one command that keeps running; the page shows lines that it prints
    <!-- test: shows expose --> what the running command with that word in it printed meanwhile
    <!-- test: file PATH -->    the block is the content of a file
    <!-- test: copy DIR -->     the reader is in a copy of this directory of the repository
    <!-- test: ca DIR -->       the directory holds a CA, as `hbone up` makes one
    <!-- test: ports 8000 9000 -->   ports that the page uses; free ones are put in their place
    <!-- test: defaults -->     the page uses the default ports; commands listen on the free ones of their own accord
    <!-- test: fresh -->        a new directory, with nothing running

A page shows what was really printed, so what differs from run to run is not compared: digits and serial numbers, sizes
and durations, and the width of columns. "…" stands for anything in a line, a line of its own for any lines.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.cafiles import whole_ca

HOME: Final = "/home/ada"
LIMIT_S: Final = 20.0
STOP_S: Final = 10.0
ROOT: Final = Path(__file__).parents[3]
DEFAULTS: Final = {
    "HBONE_INBOUND": "0.0.0.0:15008",
    "HBONE_SOCKS": "127.0.0.1:15080",
    "HBONE_ADMIN": "127.0.0.1:15000",
    "HBONE_READINESS": "127.0.0.1:15021",
    "HBONE_METRICS": "127.0.0.1:15020",
}
TOOLS: Final = {
    "python3": 'exec {python} "$@"\n',
    # What asks for or listens on the default ports takes the reader's instead, if nothing else was said.
    "hbone": """\
case "$1 $*" in
get*) if [ -n "$ADMIN" ]; then shift; set -- get --node "$ADMIN" "$@"; fi ;;
node*--config*) ;;
up* | node* | join*) if [ -n "$DEFAULTS" ]; then export $DEFAULTS; fi ;;
esac
exec {python} -m hbone "$@"
""",
}
_MARK: Final = re.compile(r"<!-- test: (.+?) -->")


@dataclass(frozen=True, slots=True)
class Step:
    """A marked block, or a mark alone: what it says, the block's lines, and where it is (for messages)."""

    mark: str
    lines: tuple[str, ...]
    place: str


@dataclass(frozen=True, slots=True)
class Typed:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def steps_of(name: str, text: str) -> list[Step]:
    """The marked blocks of a page, in order."""
    found: list[Step] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        mark = _MARK.fullmatch(line.strip())
        if mark is None:
            continue
        block: list[str] = []
        if number + 1 < len(lines) and lines[number + 1].startswith("```"):
            end = lines.index("```", number + 2)
            block = lines[number + 2 : end]
        found.append(Step(mark[1], tuple(block), f"{name}:{number + 1}"))
    return found


def typed_in(lines: tuple[str, ...]) -> list[Typed]:
    """The commands of a console block; lines after "> " continue a command."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith("> ") and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
        else:
            found[-1][1].append(line)
    return [Typed(command, tuple(shown)) for command, shown in found]


_FOLDS: Final = (
    (re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{7,}\b"), "#"),  # serial numbers, digests
    (re.compile(r"\d+(?:\.\d+)*"), "#"),
    (re.compile(r"(?:#(?:ms|[smhd])\b ?)?(?:#(?:ms|[smhd]))+\b"), "#t"),
    (re.compile(r"# ?(?:KiB|MiB|GiB|B)\b"), "#B"),
    (re.compile(r"\s+"), " "),
)


def folded(line: str) -> str:
    """A line without what differs from run to run."""
    for pattern, instead in _FOLDS:
        line = pattern.sub(instead, line)
    return line.strip()


def pattern_of(shown: tuple[str, ...]) -> str:
    """What the folded output must match, each line ended by a line break."""
    parts: list[str] = []
    for line in shown:
        if line.strip() == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(re.escape(part) for part in folded(line).split("…")) + r"\n")
    return "".join(parts)


def unlike(shown: tuple[str, ...], printed: str) -> str:
    """Why `printed` is not what a page shows; empty if it is."""
    text = "".join(f"{folded(line)}\n" for line in printed.splitlines() if line.strip())
    wanted = tuple(line for line in shown if line.strip())
    return "" if re.fullmatch(pattern_of(wanted), text) else f"the page shows\n{_block(wanted)}\nbut it is\n{printed}"


def lacks(shown: tuple[str, ...], printed: str) -> str:
    """The first line of `shown` that `printed` does not have after the ones before it; empty if it has them all."""
    rest = iter(printed.splitlines())
    for line in shown:
        if line.strip() in {"", "…"}:
            continue
        wanted = re.compile(pattern_of((line,)))
        if not any(wanted.fullmatch(f"{folded(one)}\n") for one in rest):
            return line
    return ""


def _block(lines: tuple[str, ...]) -> str:
    return "\n".join(lines)


@dataclass(slots=True)
class Background:
    """A command that stays."""

    command: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(slots=True)
class Reader:
    """Somebody who follows a page: one directory, terminals, and ports of their own. A context manager."""

    ports: dict[str, str] = field(default_factory=dict[str, str])
    variables: dict[str, str] = field(default_factory=dict[str, str])
    running: list[Background] = field(default_factory=list[Background])
    home: Path = field(init=False)

    def __enter__(self) -> Self:
        # Not pytest's directory: the path of a Unix socket has 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="hbone-docs-"))
        tools = self.home / ".bin"
        tools.mkdir()
        for name, script in TOOLS.items():
            tool = tools / name
            tool.write_text(f"#!/bin/sh\n{script.format(python=shlex.quote(sys.executable))}")
            tool.chmod(0o755)
        self.variables = {
            "HOME": str(self.home),
            "PATH": f"{tools}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LANG": "C.UTF-8",
            "HBONE_STATE_DIR": str(self.home / ".local/state/hbone"),  # for root too
            "PYTHONPATH": ":".join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in reversed(self.running):
            if one.process.poll() is None:
                os.killpg(one.process.pid, signal.SIGINT)
            try:
                one.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def follow(self, step: Step) -> None:
        """Do what a step says; AssertionError when the page is not true."""
        word, _, rest = step.mark.partition(" ")
        match word.rstrip(","):
            case "ports":
                self.ports |= {port: str(_free_port()) for port in rest.split()}
            case "defaults":
                self.ports |= {place.rpartition(":")[2]: str(_free_port()) for place in DEFAULTS.values()}
                chosen = {name: self._here(place) for name, place in DEFAULTS.items()}
                self.variables |= {
                    "DEFAULTS": " ".join(f"{name}={place}" for name, place in chosen.items()),
                    "ADMIN": chosen["HBONE_ADMIN"],
                }
            case "file":
                self._write(rest, "\n".join(step.lines) + "\n")
            case "copy":
                for path in (path for path in (ROOT / rest).rglob("*") if path.is_file()):
                    self._write(str(path.relative_to(ROOT / rest)), path.read_text())
            case "ca":
                whole_ca(self.home / rest)
            case "run":
                self._run(step, rest)
            case "stays":
                self._start(step)
            case "shows":
                self._wait_for(next(one for one in self.running if rest in one.command), step.lines, step.place)
            case _:
                raise AssertionError(f"{step.place}: no such mark: {step.mark}")

    def _write(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(text))

    def _run(self, step: Step, how: str) -> None:
        exit_code = int(how.removeprefix("exit ")) if how.startswith("exit ") else 0
        commands = typed_in(step.lines)
        for one in commands:
            command = how.removeprefix("as ") if how.startswith("as ") else one.command
            done = subprocess.run(
                ["bash", "-c", self._here(command)], cwd=self.home, env=self.variables, timeout=LIMIT_S * 3,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            printed = self._there(done.stdout.decode())
            wanted = exit_code if one is commands[-1] else 0
            assert done.returncode == wanted, f"{step.place}: $ {command}\nended with {done.returncode}:\n{printed}"
            why = unlike(one.shown, printed)
            assert not why, f"{step.place}: $ {command}\n{why}"

    def _start(self, step: Step) -> None:
        (one,) = typed_in(step.lines)
        log = self.home / f".log{len(self.running)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", self._here(one.command)], cwd=self.home, env=self.variables,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        background = Background(one.command, process, log)
        self.running.append(background)
        if one.shown:
            self._wait_for(background, one.shown, step.place)
        else:
            self._wait_for_port(background, step.place)

    def _wait_for(self, background: Background, shown: tuple[str, ...], place: str) -> None:
        missing = printed = ""
        for _ in _until_limit():
            ended = background.process.poll()
            printed = self._there(background.log.read_text())
            missing = lacks(shown, printed)
            if not missing:
                return
            assert ended is None, f"{place}: $ {background.command}\nended with {ended}:\n{printed}"
        raise AssertionError(f"{place}: $ {background.command}\nnever printed\n{missing}\nbut\n{printed}")

    def _wait_for_port(self, background: Background, place: str) -> None:
        port = next(free for port, free in self.ports.items() if port in background.command)
        ip = re.search(r"127[.\d]+", background.command)
        for _ in _until_limit():
            with socket.socket() as probe:
                if probe.connect_ex((ip[0] if ip else "127.0.0.1", int(port))) == 0:
                    return
        raise AssertionError(f"{place}: nothing listens on port {port}")

    def _here(self, text: str) -> str:
        """What a page says, with the ports and the home directory of this reader."""
        for port, free in self.ports.items():
            text = re.sub(rf"(?<![\d.]){port}(?!\d)", free, text)
        return text.replace(HOME, str(self.home))

    def _there(self, text: str) -> str:
        return text.replace(str(self.home), HOME)


def follow(name: str, text: str) -> None:
    """Follow a page from top to bottom."""
    parts: list[list[Step]] = [[]]
    for step in steps_of(name, text):
        if step.mark == "fresh":
            parts.append([])
        else:
            parts[-1].append(step)
    for part in parts:
        with Reader() as reader:
            for step in part:
                reader.follow(step)


def _until_limit() -> Iterator[None]:
    """Turns of a loop that waits, a few milliseconds apart, until the limit."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def _free_port() -> int:
    """Free on every address."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])
