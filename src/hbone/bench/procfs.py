"""What `/proc` says about processes that we started: CPU time and memory, children included.

A process that ends while we look counts as using nothing; its CPU time is by then in its parent's
account of waited-for children.
"""

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LISTENING = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h


def tree(pid: int) -> list[int]:
    """`pid` and its descendants."""
    pids = [pid]
    for known in pids:  # grows while we walk it
        for task in _tasks(known):
            pids += [int(child) for child in _read(task / "children").split()]
    return pids


def _tasks(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU, user and system, of the processes and their descendants since they began."""
    return sum(_own_cpu_s(member) for pid in pids for member in tree(pid))


def _own_cpu_s(pid: int) -> float:
    # proc(5): utime, stime, cutime, cstime are fields 14 to 17; the second, a name in brackets, may hold blanks
    fields = _read(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_S if fields else 0.0


def rss_kib(pids: Iterable[int]) -> int:
    """KiB resident, shared pages counted in each process.

    Not the share of each (PSS): that changes with whatever else runs the same binary, by megabytes for a Python.
    """
    return sum(_kib(PROC / str(member) / "status", "VmRSS:") for pid in pids for member in tree(pid))


def peak_rss_kib(pids: Iterable[int]) -> int:
    """KiB resident at the worst moment since the start or the last `forget_peak`."""
    return sum(_kib(PROC / str(member) / "status", "VmHWM:") for pid in pids for member in tree(pid))


def forget_peak(pids: Iterable[int]) -> None:
    """Let the peak start again from what is resident now (proc(5), clear_refs: 5)."""
    for pid in pids:
        for member in tree(pid):
            try:
                (PROC / str(member) / "clear_refs").write_text("5")
            except OSError:  # not ours to reset: the peak is then that of the whole life
                continue


def _kib(path: Path, label: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(label):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def listens(ip: str, port: int) -> bool:
    """Does anything listen on this IPv4 address, or on all addresses, at `port`?

    Asked of the kernel's table and not by connecting: a connection would go through to the target and
    open the tunnel that a later measurement wants to see opened.
    """
    address = "".join(f"{int(part):02X}" for part in reversed(ip.split(".")))
    wanted = {f"{address}:{port:04X}", f"{'0' * 8}:{port:04X}"}
    rows = (line.split() for line in _read(PROC / "net" / "tcp").splitlines()[1:])
    return any(row[3] == LISTENING and row[1] in wanted for row in rows)
