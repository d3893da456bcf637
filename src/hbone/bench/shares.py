"""Processes held to a part of a core by the kernel (cgroups(7)), each in a group of its own.

On a machine whose cores callers and server share, this makes the proxies what limits.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hbone.bench.faults import NotReady
from hbone.bench.procfs import PROC

ROOT: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 10_000  # of which a process gets its share; the kernel takes no shares below a millisecond
_NAME: Final = "hbone-bench-"


class CpuShares:
    """Groups below the root's, which root may make. `close` them when their processes have ended."""

    def __init__(self, root: Path = ROOT) -> None:
        """`root`: where the hierarchies are mounted."""
        self._second = "cpu" in _words(root / "cgroup.subtree_control")  # of cgroup v2, one tree for all
        self._place = root if self._second else root / "cpu"
        self._groups: list[Path] = []

    def missing(self) -> str | None:
        """Why nothing can be held here; None when it can."""
        if not self._second and not (self._place / "cpu.cfs_quota_us").exists():
            return "there is no control group for CPU time here (cgroups(7)); run where the `cpu` controller is on"
        if not os.access(self._place, os.W_OK):
            return "only root may hold processes to a part of a core (cgroups(7)); run it as root"
        return None

    def hold(self, pid: int, share: float) -> None:
        """Give a process no more than `share` of one core from now on. Raises NotReady."""
        group = self._place / f"{_NAME}{os.getpid()}-{pid}"
        quota_us = round(share * PERIOD_US)
        try:
            group.mkdir()
            self._groups.append(group)
            if self._second:
                (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise NotReady(f"process {pid} cannot be held to {share:g} of a core", why=error.strerror or "") from error

    def close(self) -> None:
        """Remove our groups, and what a bench that was killed has left."""
        for group in (*self._groups, *self._orphans()):
            with contextlib.suppress(OSError):  # a process still in it: it goes with the next run
                group.rmdir()
        self._groups.clear()

    def groups(self) -> Iterable[Path]:
        """Of all benches, this one's among them."""
        return self._place.glob(f"{_NAME}*")

    def _orphans(self) -> Iterable[Path]:
        for group in self.groups():
            owner = group.name.removeprefix(_NAME).partition("-")[0]
            if not (PROC / owner).exists():
                yield group


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
