"""What is compared: no proxy at all, pairs of Envoys, and pairs of hbone nodes.

A pair is one outbound and one inbound proxy, as between two machines, but both here. All candidates reach the same
targets. Every configuration of hbone that the benchmark uses is made in this module.
"""

import functools
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from hbone.addr import SocketAddress
from hbone.bench.envoy import EnvoyClient, EnvoyServer, envoy_command, write_config
from hbone.bench.figures import Lane
from hbone.bench.meshes import CLIENT, NAMESPACE, SERVER, mesh_document, policy_list
from hbone.bench.pki import TRUST_DOMAIN, BenchPki
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes, Started
from hbone.bench.targets import TargetKind
from hbone.bench.tools import ENVOY
from hbone.errors import UsageError
from hbone.values import dataclass

READY_LIMIT_S = 20.0
PROBE_LIMIT_S = 0.5
HELP_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a candidate stands on: where its files go, its certificates, free ports, and where the targets are.

    `host` is the targets' address, which is also the inbound proxy's (a workload and its node share it).
    """

    processes: Processes
    pki: BenchPki
    ports: Ports
    host: IPv4Address
    targets: Mapping[TargetKind, SocketAddress]


class Candidate(Protocol):
    """Something to measure."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def has_proxies(self) -> bool: ...

    def missing(self) -> str | None:
        """Why it cannot be measured here, and what to do about that; None when it can."""
        ...

    def open(self, ground: Ground) -> Lane:
        """Start it; its processes belong to `ground.processes`. Raises NotReady."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """Straight to the target: what the machine and the load generators can do, and how steadily."""

    key: str = "direct"
    title: str = "no proxy"
    has_proxies: bool = False

    def missing(self) -> str | None:
        return None

    def open(self, ground: Ground) -> Lane:
        return Lane(candidate=self.key, entries=ground.targets, targets=ground.targets, processes=ground.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPair:
    """Two Envoys. `concurrency`: workers in each; None for Envoy's default, one for each core."""

    key: str
    concurrency: int | None
    has_proxies: bool = True

    @property
    def title(self) -> str:
        workers = "as it comes" if self.concurrency is None else f"--concurrency {self.concurrency}"
        return f"a pair of Envoys, {workers}"

    def missing(self) -> str | None:
        return ENVOY.missing()

    def open(self, ground: Ground) -> Lane:
        entries = {kind: ground.ports.free() for kind in ground.targets}
        client = ground.pki.identity(NAMESPACE, CLIENT)
        server = ground.pki.identity(NAMESPACE, SERVER)
        logs = ground.processes.directory
        inbound = EnvoyServer(
            listen=ground.ports.free(ground.host),
            admin=ground.ports.free(),
            identity=server,
            access_log=logs / f"{self.key}-inbound-access.log",
        )
        outbound = EnvoyClient(
            routes={entries[kind]: str(target) for kind, target in ground.targets.items()},
            admin=ground.ports.free(),
            identity=client,
            server=inbound.listen,
            expected=server.spiffe_id,
            access_log=logs / f"{self.key}-outbound-access.log",
        )
        ends: tuple[EnvoyClient | EnvoyServer, ...] = (outbound, inbound)
        began = time.monotonic()
        pair = tuple(self._start(ground, end) for end in ends)
        for proxy, end in zip(pair, ends, strict=True):
            proxy.wait_until(functools.partial(answers_200, end.admin, "/ready"), READY_LIMIT_S)
        return Lane(
            candidate=self.key,
            entries=entries,
            targets=ground.targets,
            processes=ground.processes,
            proxies=pair,
            tunnel=inbound.listen,
            client=client,
            ready_s=time.monotonic() - began,
        )

    def _start(self, ground: Ground, end: EnvoyClient | EnvoyServer) -> Started:
        name = "inbound" if isinstance(end, EnvoyServer) else "outbound"
        config = write_config(end.config(), ground.processes.directory / f"{self.key}-{name}-{end.admin.port}.json")
        return ground.processes.serve(f"{self.key}-{name}", envoy_command(config, concurrency=self.concurrency))


@dataclass(frozen=True, slots=True, kw_only=True)
class HbonePair:
    """Two of our nodes, each dedicated to one workload, with their logs as users have them. `workers` in each.

    `policies`: how many are in force at both; they let the client through (`hbone.bench.meshes`).
    """

    key: str = "hbone"
    workers: int = 1
    policies: int = 0
    has_proxies: bool = True

    @property
    def title(self) -> str:
        return "a pair of hbone nodes" if self.workers == 1 else f"a pair of hbone nodes, --workers {self.workers}"

    def missing(self) -> str | None:
        return None if _node_command_works() else "`hbone node` does not run; try `hbone node --help`"

    def open(self, ground: Ground) -> Lane:
        entries = {kind: ground.ports.free() for kind in ground.targets}
        directory = ground.processes.directory
        tunnel = ground.ports.free(ground.host)
        mesh = write_config(
            mesh_document(tunnel) | {"policies": policy_list(self.policies)}, mesh_file(directory, self.key)
        )
        ready = {name: ground.ports.free() for name in (CLIENT, SERVER)}
        forwards = {entries[kind]: target for kind, target in ground.targets.items()}
        configs: dict[str, dict[str, object]] = {
            CLIENT: node_settings(CLIENT, ground.pki.directory, mesh, ready[CLIENT]) | forward_settings(forwards),
            SERVER: node_settings(SERVER, ground.pki.directory, mesh, ready[SERVER], inbound=tunnel),
        }
        began = time.monotonic()
        pair = tuple(self._start(ground, name, config) for name, config in configs.items())
        for proxy, name in zip(pair, configs, strict=True):
            proxy.wait_until(functools.partial(answers_200, ready[name], "/healthz/ready"), READY_LIMIT_S)
        return Lane(
            candidate=self.key,
            entries=entries,
            targets=ground.targets,
            processes=ground.processes,
            proxies=pair,
            tunnel=tunnel,
            client=ground.pki.identity(NAMESPACE, CLIENT),
            ready_s=time.monotonic() - began,
        )

    def _start(self, ground: Ground, name: str, config: dict[str, object]) -> Started:
        return serve_node(ground, f"{self.key}-{name}", config | {"workers": self.workers})


def serve_node(ground: Ground, name: str, settings: dict[str, object]) -> Started:
    """Start one of our nodes."""
    file = write_config(settings, ground.processes.directory / f"{name}.yaml")  # JSON is YAML
    return ground.processes.serve(name, [sys.executable, "-m", "hbone", "node", "--config", str(file)])


def mesh_file(directory: Path, key: str) -> Path:
    """Where the mesh of a pair of nodes is written; they read it again when it changes."""
    place = directory / f"{key}-mesh"  # its own: what lies beside a file that is watched should lie still
    place.mkdir(exist_ok=True)
    return place / "mesh.json"


def node_settings(
    account: str, ca: Path, mesh: Path, ready: SocketAddress, *, inbound: SocketAddress | None = None
) -> dict[str, object]:
    """node.yaml of a node dedicated to `account`, in whose environment nothing else may be listening."""
    return {
        "mode": "dedicated",
        "workload": f"{NAMESPACE}/{account}/{account}",
        "trust_domain": TRUST_DOMAIN,
        "ca": str(ca),
        "local_xds": str(mesh),
        "listeners": {
            "inbound": str(inbound) if inbound else "off",
            "readiness": str(ready),
            "socks": "off",
            "admin": "off",
            "metrics": "off",
        },
    }


def forward_settings(forwards: Mapping[SocketAddress, SocketAddress]) -> dict[str, object]:
    """node.yaml's local ports that lead to mesh destinations."""
    return {"forwards": [{"listen": str(listen), "to": str(to)} for listen, to in forwards.items()]}


def answers_200(address: SocketAddress, path: str) -> bool:
    """Does an HTTP server there answer GET `path` with 200 now?"""
    conn = HTTPConnection(str(address.ip), address.port, timeout=PROBE_LIMIT_S)
    try:
        conn.request("GET", path)
        return conn.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        conn.close()


@functools.cache
def _node_command_works() -> bool:
    command = [sys.executable, "-m", "hbone", "node", "--help"]
    try:
        return subprocess.run(command, capture_output=True, timeout=HELP_LIMIT_S, check=False).returncode == 0  # noqa: S603 - ourselves
    except subprocess.TimeoutExpired:
        return False


CANDIDATES: Mapping[str, Candidate] = {
    candidate.key: candidate
    for candidate in (
        Direct(),
        EnvoyPair(key="envoy", concurrency=None),
        EnvoyPair(key="envoy-1", concurrency=1),
        HbonePair(),
        HbonePair(key="hbone-2", workers=2),
    )
}


def candidates_named(keys: tuple[str, ...]) -> tuple[Candidate, ...]:
    """The candidates named, in the order of the table; raises UsageError."""
    for key in keys:
        if key not in CANDIDATES:
            raise UsageError(f"there is no candidate {key!r}", fix=f"choose from {', '.join(CANDIDATES)}", key=key)
    return tuple(candidate for key, candidate in CANDIDATES.items() if key in keys)
