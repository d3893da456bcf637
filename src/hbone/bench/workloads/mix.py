"""Small requests beside a bulk transfer: what becomes of their p99?"""

from collections.abc import Mapping

from hbone.bench.figures import PEAK_RSS, Figure, Lane, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import IPERF3, NGINX, WRK, Tool
from hbone.bench.workloads.bulk import GRACE_S, Direction, parse_iperf, start_iperf
from hbone.bench.workloads.http import Reuse, run_wrk, wrk_command
from hbone.values import dataclass

CONNECTIONS = 8
P99 = Figure(name="p99", label="p99 of the requests", unit="ms", better=Better.LOWER, digits=3)
P50 = Figure(name="p50", label="p50 of the requests", unit="ms", better=Better.LOWER, digits=3)
RATE = Figure(name="rate", label="requests", unit="1/s", better=Better.HIGHER, digits=0)
GBPS = Figure(name="gbps", label="bulk beside them", unit="Gb/s", better=Better.HIGHER, digits=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One bulk stream up, and eight kept HTTP connections beside it through the same proxies."""

    key: str = "mix"
    title: str = f"{CONNECTIONS} HTTP connections beside one bulk stream"
    figures: tuple[Figure, ...] = (P99, P50, RATE, GBPS, PEAK_RSS)
    tools: tuple[Tool, ...] = (IPERF3, WRK, NGINX)
    target: tuple[TargetKind, ...] = (TargetKind.IPERF, TargetKind.HTTP)
    needs_proxies: bool = False
    group: str = "mix"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        # the bulk must still flow when the last request is answered
        bulk = Slice(seconds=part.seconds + 1, warmup_s=part.warmup_s)
        command = wrk_command(lane, CONNECTIONS, Reuse.KEPT)
        iperf = start_iperf(lane, bulk, streams=1, direction=Direction.UP)
        try:
            if part.warmup_s:
                run_wrk(lane.processes, command, part.warmup_s)
            requests = run_wrk(lane.processes, command, part.seconds)
            moved = parse_iperf(iperf.result(bulk.seconds + bulk.warmup_s + GRACE_S))
        finally:
            lane.processes.stop([iperf])
        return {
            P99.name: requests.p99_ms,
            P50.name: requests.p50_ms,
            RATE.name: requests.requests / requests.seconds,
            GBPS.name: moved.gbps,
            **lane.proxy_figures(),
        }
