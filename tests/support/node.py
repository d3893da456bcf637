"""`hbone node` as a process, for tests: start, wait until it is ready, read its access lines, stop."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from hbone.addr import SocketAddress
from hbone.bench.processes import Processes, Started

READY_LIMIT_S = 20.0
LINE_LIMIT_S = 10.0
STOP_LIMIT_S = 20.0

_FIELD = re.compile(r'([a-z_.]+)=("(?:[^"\\]|\\.)*"|\S+)')


def dedicated(workload: str, *, ca: Path, mesh: Path, **listeners: str) -> dict[str, object]:
    """node.yaml of a node for `workload` ("NS/NAME/SA"); listeners that are not named are off."""
    names = ("inbound", "inbound_plaintext", "outbound", "socks", "admin", "readiness", "metrics")
    return {
        "workload": workload,
        "ca": str(ca),
        "local_xds": str(mesh),
        "listeners": {**dict.fromkeys(names, "off"), **listeners},
    }


def forward(listen: SocketAddress, to: object) -> dict[str, str]:
    """One entry of node.yaml's `forwards`."""
    return {"listen": str(listen), "to": str(to)}


def mesh_file(
    directory: Path, workloads: Mapping[str, IPv4Address], *, hbone_port: int, domain: str = "cluster.local"
) -> Path:
    """ztunnel's local form for these workloads ("NS/NAME/SA" → address), all reached by HBONE on that port."""
    found = [_workload(name, ip, domain) | {"hbonePort": hbone_port} for name, ip in workloads.items()]
    document = {"workloads": found}
    path = directory / "mesh.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _workload(reference: str, ip: IPv4Address, domain: str) -> dict[str, object]:
    namespace, name, account = reference.split("/")
    return {
        "uid": f"test//Pod/{namespace}/{name}",
        "name": name,
        "namespace": namespace,
        "serviceAccount": account,
        "trustDomain": domain,
        "workloadIps": [str(ip)],
        "protocol": "HBONE",
        "services": {},
    }


class AccessLine:
    """One line of the access log. `fields` without quotes; `error` empty for a connection that ended well."""

    def __init__(self, text: str) -> None:
        self.text = text
        _, self.level, _, self.message, rest = text.split("\t", 4)
        found: list[tuple[str, str]] = _FIELD.findall(rest)
        self.fields = {name: value.strip('"') for name, value in found}

    @property
    def error(self) -> str:
        return self.fields.get("error", "")

    def __repr__(self) -> str:
        return self.text


class Node:
    """One node process. A context manager: on leaving it is asked to end, then made to."""

    def __init__(self, config: Mapping[str, object], processes: Processes) -> None:
        self.config = config
        self._processes = processes
        self._started: Started | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.stop([self.process])

    def start(self) -> None:
        """Start it and wait until it is ready; a failure shows the end of its log."""
        file = self._processes.directory / f"node-{id(self):x}.yaml"
        file.write_text(json.dumps(self.config))
        self._started = self._processes.serve("node", [sys.executable, "-m", "hbone", "node", "--config", str(file)])
        self._started.wait_until(lambda: any("\tready\t" in line for line in self.log()), READY_LIMIT_S)

    @property
    def process(self) -> Started:
        assert self._started is not None, "not started"
        return self._started

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> list[str]:
        """Its log and access lines so far."""
        return self.process.log.read_text().splitlines()

    def access(self) -> list[AccessLine]:
        """Its access lines so far."""
        return [AccessLine(line) for line in self.log() if "\taccess\t" in line]

    def wait_access(self, count: int = 1, fits: Callable[[AccessLine], bool] = lambda _: True) -> list[AccessLine]:
        """All lines that fit, when there are at least `count`: one is written when a connection has ended."""
        self.process.wait_until(lambda: sum(map(fits, self.access())) >= count, LINE_LIMIT_S)
        return [line for line in self.access() if fits(line)]

    def only_access(self) -> AccessLine:
        """The one access line that there is; fails when there are more."""
        (line,) = self.wait_access()
        return line

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        self.process.signal(signal.SIGTERM)

    def wait_stopped(self) -> int:
        """Its exit code, when it has ended."""
        assert self.process.wait(STOP_LIMIT_S), f"still running {STOP_LIMIT_S} s after SIGTERM"
        return self.process.process.returncode

    def resident_bytes(self) -> int:
        """Its resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
