"""Which machine, and which versions, a result was measured with."""

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hbone import native
from hbone.bench.tools import TOOLS
from hbone.values import dataclass

PACKAGES = ("hbone", "pyopenssl", "cryptography", "uvloop", "hpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The part of the environment that figures depend on."""

    system: str
    architecture: str
    kernel: str
    cpu: str
    cores: int
    memory_mib: int
    congestion_control: str

    @property
    def host_class(self) -> str:
        """A short name under which results of like machines can be compared."""
        return f"{self.system}-{self.architecture}-{self.cores}cpu".lower()

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def this_machine() -> Machine:
    """What the kernel says about itself."""
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        kernel=platform.release(),
        cpu=_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        congestion_control=_text("/proc/sys/net/ipv4/tcp_congestion_control").strip() or "unknown",
    )


def versions() -> dict[str, str]:
    """Version by name: Python, our packages, and the tools that are here."""
    plain = ", built without optimizations" if native.plain_interpreter() else ""
    found = {"python": platform.python_version() + plain}
    for package in PACKAGES:
        try:
            found[package] = version(package)
            if package == "hbone":
                found[package] += native.remark()
        except PackageNotFoundError:
            continue
    found |= {tool.name: tool.version() or "unknown" for tool in TOOLS if tool.path}
    return found


def _field(path: str, label: str) -> str | None:
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() == label:
            return value.strip()
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
