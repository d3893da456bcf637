"""Large meshes: how long a node takes to load one, what that weighs, and how fast a workload among them is found."""

import functools
import json
import sys
from collections.abc import Mapping

from hbone.addr import SocketAddress
from hbone.bench import procfs
from hbone.bench.candidates import Ground, answers_200, forward_settings, node_settings, serve_node
from hbone.bench.envoy import write_config
from hbone.bench.figures import Figure, Slice
from hbone.bench.meshes import CLIENT, FIRST_IP, large_mesh
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.values import dataclass

LIMIT_S = 120.0
MAX_S, MAX_MB, MAX_LOOKUP_US = 10.0, 1000.0, 2.0
TIME = Figure(name="time", label="a node's start until ready", unit="s", better=Better.LOWER, digits=2, target=MAX_S)
PEAK = Figure(name="peak", label="peak memory of that node", unit="MB", better=Better.LOWER, digits=0, target=MAX_MB)
STREAM = Figure(
    name="stream",
    label="taken from a control plane's messages",
    unit="s",
    better=Better.LOWER,
    digits=2,
    target=MAX_S,
)
LOOKUP = Figure(
    name="lookup",
    label="a workload found by address",
    unit="µs",
    better=Better.LOWER,
    digits=3,
    target=MAX_LOOKUP_US,
)
PLAN = Figure(name="plan", label="where a connection goes", unit="µs", better=Better.LOWER, digits=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A node that reads ztunnel's local file with so many workloads; then the same mesh in a process of our own."""

    workloads: int
    figures: tuple[Figure, ...] = (TIME, PEAK, STREAM, LOOKUP, PLAN)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = ()

    @property
    def key(self) -> str:
        return f"load{self.workloads}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"a mesh of {self.workloads:,} workloads"

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        mesh = ground.processes.directory / f"{self.key}.json"
        if not mesh.exists():  # from an earlier round
            write_config(large_mesh(self.workloads), mesh)
        ready = ground.ports.free()
        forwards = forward_settings({ground.ports.free(): SocketAddress(FIRST_IP, 8080)})
        settings = node_settings(CLIENT, ground.pki.directory, mesh, ready) | forwards
        node = serve_node(ground, self.key, settings)
        try:
            took_s = node.wait_until(functools.partial(answers_200, ready, "/healthz/ready"), LIMIT_S)
            peak_mb = procfs.peak_rss_kib([node.pid]) * 1024 / 1e6
        finally:
            ground.processes.stop([node])
        command = [sys.executable, "-m", "hbone.bench.load.mesh", str(mesh)]
        seen: dict[str, float] = json.loads(ground.processes.run(self.key, command, limit_s=LIMIT_S))
        return {
            TIME.name: took_s,
            PEAK.name: peak_mb,
            STREAM.name: seen["stream_s"],
            LOOKUP.name: seen["lookup_s"] * 1e6,
            PLAN.name: seen["plan_s"] * 1e6,
        }
