"""Which identities a process on this machine has: by what the kernel says of it, and nothing that it says itself.

The operator writes rules: an identity, and what a process must be like to have it. All that a rule names must hold.
User and group come with the connection; control group and program are looked up in /proc under the process id that
came with it. That id may have passed to another process meanwhile, so the process's start time is remembered when it
connects and must be the same at each question.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from hbone.control.rpc import UnixPeer
from hbone.identity.spiffe import SpiffeId
from hbone.values import dataclass

_MAX_PROC_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What is known of a process besides its user. `cgroups`: its paths, one for each hierarchy; `program`: the file
    that it runs; `started`: in clock ticks since boot."""

    cgroups: tuple[str, ...]
    program: str
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRule:
    """Who has an identity. None and empty: whatever it is. `cgroup` and `program` are shell patterns in which "*" also
    covers "/"."""

    identity: SpiffeId
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    cgroup: str = ""
    program: str = ""
    hint: str = ""

    @property
    def needs_facts(self) -> bool:
        return bool(self.cgroup or self.program)

    def fits(self, peer: UnixPeer, facts: ProcessFacts | None) -> bool:
        """`facts` None: they cannot be had, so a rule that needs them does not fit."""
        if self.uid not in {None, peer.uid} or self.gid not in {None, peer.gid} or self.pid not in {None, peer.pid}:
            return False
        if not self.needs_facts:
            return True
        if facts is None:
            return False
        in_cgroup = not self.cgroup or any(fnmatchcase(path, self.cgroup) for path in facts.cgroups)
        return in_cgroup and (not self.program or fnmatchcase(facts.program, self.program))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """An identity that a process has. `hint` tells it what that one is for."""

    identity: SpiffeId
    hint: str = ""


class Attestor:
    """All rules of one machine."""

    def __init__(
        self, rules: Sequence[ProcessRule], facts_of: Callable[[int], ProcessFacts | None] | None = None
    ) -> None:
        self._rules = tuple(rules)
        self._facts_of = facts_of or process_facts

    @property
    def identities(self) -> frozenset[SpiffeId]:
        """That any rule gives."""
        return frozenset(rule.identity for rule in self._rules)

    def on(self, peer: UnixPeer) -> "Process":
        """The process at the other end of a connection that was just made."""
        needed = any(rule.needs_facts for rule in self._rules)
        return Process(self, peer, self._facts_of(peer.pid) if needed else None)

    def judge(self, peer: UnixPeer, at_connect: ProcessFacts | None) -> tuple[Attested, ...]:
        facts: ProcessFacts | None = None
        if at_connect is not None:
            now = self._facts_of(peer.pid)
            facts = now if now is not None and now.started == at_connect.started else None
        found: dict[SpiffeId, Attested] = {}
        for rule in self._rules:
            if rule.fits(peer, facts):
                found.setdefault(rule.identity, Attested(identity=rule.identity, hint=rule.hint))
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Process:
    """One connected process."""

    attestor: Attestor
    peer: UnixPeer
    facts: ProcessFacts | None

    def identities(self) -> tuple[Attested, ...]:
        """Those it has now, in the order of the rules: the first is its default."""
        return self.attestor.judge(self.peer, self.facts)

    def __str__(self) -> str:
        return str(self.peer)


def process_facts(pid: int, root: Path = Path("/proc")) -> ProcessFacts | None:
    """None when the process is gone, in a namespace that we do not see, or not ours to look at."""
    if pid <= 0:
        return None
    place = root / str(pid)
    try:
        started = _started(_read(place / "stat"))
        cgroups = tuple(line.split(":", 2)[2] for line in _read(place / "cgroup").splitlines() if line.count(":") > 1)
        program = _program(place)
        if _started(_read(place / "stat")) != started:
            return None
    except (OSError, ValueError, IndexError):
        return None
    return ProcessFacts(cgroups=cgroups, program=program, started=started)


def _started(stat: str) -> int:
    """Field 22 of /proc/PID/stat (proc(5)); the program's name in brackets may hold anything."""
    return int(stat.rpartition(")")[2].split()[19])


def _program(place: Path) -> str:
    try:
        return str((place / "exe").readlink()).removesuffix(" (deleted)")
    except PermissionError:
        return ""  # another user's: rules by program then do not fit


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_PROC_BYTES).decode(errors="replace")
