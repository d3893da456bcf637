"""`hbone node` as a process, for tests: start, wait until ready, read its lines, stop."""

import json
import signal
import sys
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from hbone.addr import SocketAddress
from hbone.bench.candidates import answers_200
from hbone.bench.processes import Processes, Started

READY_LIMIT_S = 20.0
LINE_LIMIT_S = 10.0
STOP_LIMIT_S = 20.0


def dedicated(workload: str, *, ca: Path, mesh: Path, readiness: SocketAddress, **listeners: str) -> dict[str, object]:
    """node.yaml of a node for `workload` ("NS/NAME/SA"); listeners that are not named are off."""
    off = dict.fromkeys(("inbound", "inbound_plaintext", "outbound", "socks", "admin", "metrics"), "off")
    return {
        "mode": "dedicated",
        "workload": workload,
        "ca": str(ca),
        "local_xds": str(mesh),
        "listeners": {**off, "readiness": str(readiness), **listeners},
    }


def forward(listen: SocketAddress, to: object) -> dict[str, str]:
    """One entry of node.yaml's `forwards`."""
    return {"listen": str(listen), "to": str(to)}


def mesh_file(directory: Path, workloads: Mapping[str, IPv4Address], *, protocol: str = "HBONE") -> Path:
    """ztunnel's local form for these workloads ("NS/NAME/SA" → address), all spoken to by `protocol`."""
    document = {"workloads": [_workload(name, ip, protocol) for name, ip in workloads.items()]}
    path = directory / "mesh.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def _workload(reference: str, ip: IPv4Address, protocol: str) -> dict[str, object]:
    namespace, name, account = reference.split("/")
    return {
        "uid": f"test//Pod/{namespace}/{name}",
        "name": name,
        "namespace": namespace,
        "serviceAccount": account,
        "trustDomain": "cluster.local",
        "workloadIps": [str(ip)],
        "protocol": protocol,
        "services": {},
    }


class Node:
    """One node process. A context manager: on leaving it is asked to end, then made to."""

    def __init__(self, config: Mapping[str, object], readiness: SocketAddress, processes: Processes) -> None:
        self.config = config
        self._readiness = readiness
        self._processes = processes
        self._started: Started | None = None

    def __enter__(self) -> Self:
        file = self._processes.directory / f"node-{self._readiness.port}.yaml"
        file.write_text(json.dumps(self.config))
        command = [sys.executable, "-m", "hbone", "node", "--config", str(file)]
        self._started = self._processes.serve("node", command)
        self._started.wait_until(lambda: answers_200(self._readiness, "/healthz/ready"), READY_LIMIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.stop([self.process])

    @property
    def process(self) -> Started:
        assert self._started is not None, "not started"
        return self._started

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[str]:
        """Its log and access lines so far."""
        return self.process.log.read_text().splitlines()

    def line(self, fits: Callable[[str], bool]) -> str:
        """The first line that fits, awaited: an access line is written when a connection has ended."""
        self.process.wait_until(lambda: any(map(fits, self.lines())), LINE_LIMIT_S)
        return next(filter(fits, self.lines()))

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and give its exit code; it may take its drain time."""
        self.process.signal(signal.SIGTERM)
        assert self.process.wait(STOP_LIMIT_S), f"still running {STOP_LIMIT_S} s after SIGTERM"
        return self.process.process.returncode
