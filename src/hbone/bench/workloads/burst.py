"""A cold burst: many connections at once through proxies that have no tunnel yet."""

import json
import sys
from collections.abc import Mapping

from hbone.bench.faults import SampleFailed
from hbone.bench.figures import CPU_LABEL, PEAK_RSS, Figure, Lane, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import NGINX, Tool
from hbone.values import dataclass

TIME = Figure(name="time", label="until the last answer", unit="ms", better=Better.LOWER)
P50 = Figure(name="p50", label="median connection", unit="ms", better=Better.LOWER)
CPU = Figure(name="cpu", label=CPU_LABEL, unit="ms", better=Better.LOWER, digits=0)
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """`connections` at once, each one request; a group of its own, so that the proxies are fresh."""

    connections: int
    figures: tuple[Figure, ...] = (TIME, P50, CPU, PEAK_RSS)
    tools: tuple[Tool, ...] = (NGINX,)
    target: tuple[TargetKind, ...] = (TargetKind.HTTP,)
    needs_proxies: bool = False

    @property
    def key(self) -> str:
        return f"burst{self.connections}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"cold burst of {self.connections} connections, one request each"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        entry = lane.entries[TargetKind.HTTP]
        where = map(str, (entry.ip, entry.port, self.connections))
        cpu_before_s = lane.cpu_s()
        output = lane.processes.run("burst", [sys.executable, "-m", "hbone.bench.load.burst", *where], limit_s=LIMIT_S)
        cpu_ms = (lane.cpu_s() - cpu_before_s) * 1000
        seen: dict[str, float] = json.loads(output)
        if seen["failed"]:
            raise SampleFailed(f"{seen['failed']} of {self.connections} connections got no answer")
        own = lane.proxy_figures(**{CPU.name: cpu_ms})
        return {TIME.name: seen["seconds"] * 1000, P50.name: seen["p50_s"] * 1000, **own}
