"""Requests with a hundred policies in force, beside the same without any."""

from collections.abc import Mapping
from contextlib import ExitStack

from hbone.bench.candidates import Ground, HbonePair
from hbone.bench.figures import CPU_LABEL, Figure, Lane, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import NGINX, WRK, Tool
from hbone.bench.workloads.http import Reuse, WrkResult, run_wrk, wrk_command
from hbone.values import dataclass

POLICIES = 100
AT_LEAST = 0.95
RATIO = Figure(
    name="ratio",
    label="requests with policies / without",
    unit="",
    better=Better.HIGHER,
    digits=3,
    target=AT_LEAST,
)
RATE = Figure(name="rate", label="requests with them", unit="1/s", better=Better.HIGHER, digits=0)
WITHOUT = Figure(name="without", label="requests without", unit="1/s", better=Better.HIGHER, digits=0)
P99 = Figure(name="p99", label="p99 with them", unit="ms", better=Better.LOWER, digits=3)
CPU_RATIO = Figure(name="cpu_ratio", label=f"{CPU_LABEL}, with / without", unit="", better=Better.LOWER, digits=3)
TURNS = (False, True, True, False, True, False, False, True)  # a machine that gets slower does so for both


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesInForce:
    """Two pairs of nodes at once, one of which has policies; samples alternate between them."""

    connections: int
    reuse: Reuse
    figures: tuple[Figure, ...] = (RATIO, RATE, WITHOUT, P99, CPU_RATIO)
    tools: tuple[Tool, ...] = (WRK, NGINX)
    target: tuple[TargetKind, ...] = (TargetKind.HTTP,)

    @property
    def key(self) -> str:
        return f"policies-{self.reuse.value}{self.connections}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"{POLICIES} policies in force: {self.reuse.title(self.connections)}"

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        with ExitStack() as ending:
            lanes: dict[bool, Lane] = {}
            for some in (False, True):
                lanes[some] = HbonePair(key=f"{self.key}-{some}", policies=POLICIES if some else 0).open(ground)
                ending.callback(ground.processes.stop, lanes[some].proxies)
                if part.warmup_s:
                    run_wrk(ground.processes, wrk_command(lanes[some], self.connections, self.reuse), part.warmup_s)
            seen: dict[bool, list[tuple[WrkResult, float]]] = {False: [], True: []}
            for some in TURNS:
                seen[some].append(self._slice(lanes[some], part))
        rates = {some: sum(one.requests / one.seconds for one, _ in found) / len(found) for some, found in seen.items()}
        costs = {some: sum(cpu_s for _, cpu_s in found) / len(found) for some, found in seen.items()}
        return {
            RATIO.name: rates[True] / rates[False],
            RATE.name: rates[True],
            WITHOUT.name: rates[False],
            P99.name: max(one.p99_ms for one, _ in seen[True]),
            CPU_RATIO.name: costs[True] / costs[False],
        }

    def _slice(self, lane: Lane, part: Slice) -> tuple[WrkResult, float]:
        """What wrk saw, and the seconds of CPU that a request took the proxies."""
        before_s = lane.cpu_s()
        result = run_wrk(lane.processes, wrk_command(lane, self.connections, self.reuse), part.seconds)
        return result, (lane.cpu_s() - before_s) / result.requests
