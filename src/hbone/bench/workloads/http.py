"""HTTP requests by wrk, on kept connections or on a new one each, from nginx with a 1 KiB answer."""

import json
from collections.abc import Mapping, Sequence
from enum import Enum

from hbone.bench.faults import SampleFailed
from hbone.bench.figures import CPU_LABEL, PEAK_RSS, Figure, Lane, Slice
from hbone.bench.processes import Processes
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import NGINX, WRK, Tool
from hbone.values import dataclass

GRACE_S = 20.0
MAX_FAILED = 0.01  # of the requests; more than that and the rate is not one of answered requests

# wrk prints no p99.9 by itself; the script is Lua, run by wrk at the end
REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


class Reuse(Enum):
    """Does a connection carry many requests, or one?"""

    KEPT = "keepalive"
    NEVER = "connect"

    def title(self, connections: int) -> str:
        """The load in words."""
        what = "kept connections" if self is Reuse.KEPT else "a connection per request"
        return f"HTTP, {what}, {connections} at a time"


def _rate(label: str, unit: str) -> Figure:
    return Figure(name="rate", label=label, unit=unit, better=Better.HIGHER, digits=0)


RATES = {Reuse.KEPT: _rate("requests", "1/s"), Reuse.NEVER: _rate("new connections", "1/s")}
P50 = Figure(name="p50", label="p50", unit="ms", better=Better.LOWER, digits=3)
P99 = Figure(name="p99", label="p99", unit="ms", better=Better.LOWER, digits=3)
P999 = Figure(name="p999", label="p99.9", unit="ms", better=Better.LOWER, digits=3)
CPU_PER_1000 = Figure(name="cpu_per_1000", label=CPU_LABEL, unit="ms/1000", better=Better.LOWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """`connections` clients, each sending its next request when the last is answered."""

    connections: int
    reuse: Reuse
    tools: tuple[Tool, ...] = (WRK, NGINX)
    target: tuple[TargetKind, ...] = (TargetKind.HTTP,)
    needs_proxies: bool = False
    group: str = "http"

    @property
    def key(self) -> str:
        return f"{self.reuse.value}{self.connections}"

    @property
    def title(self) -> str:
        return self.reuse.title(self.connections)

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (RATES[self.reuse], P50, P99, P999, CPU_PER_1000, PEAK_RSS)

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        command = wrk_command(lane, self.connections, self.reuse)
        if part.warmup_s:
            run_wrk(lane.processes, command, part.warmup_s)
        cpu_before_s = lane.cpu_s()
        result = run_wrk(lane.processes, command, part.seconds)
        cpu_ms = (lane.cpu_s() - cpu_before_s) * 1000
        own = lane.proxy_figures(**{CPU_PER_1000.name: cpu_ms / (result.requests / 1000)})
        return {
            "rate": result.requests / result.seconds,
            P50.name: result.p50_ms,
            P99.name: result.p99_ms,
            P999.name: result.p999_ms,
            **own,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WrkResult:
    """What wrk saw; times of one request, from its first byte sent to its answer's last."""

    requests: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def wrk_command(lane: Lane, connections: int, reuse: Reuse) -> list[str]:
    """wrk on one thread through the lane; the time is still to be added (`run_wrk`)."""
    script = lane.processes.directory / "wrk.lua"
    script.write_text(REPORT)
    close = ["-H", "Connection: close"] if reuse is Reuse.NEVER else []
    url = f"http://{lane.entries[TargetKind.HTTP]}/"
    return WRK.command("-t", 1, "-c", connections, "-s", script, *close, url)


def run_wrk(processes: Processes, command: Sequence[str], seconds: int) -> WrkResult:
    """Raises SampleFailed when too many requests failed."""
    return parse_wrk(processes.run("wrk", [*command, "-d", f"{seconds}s"], limit_s=seconds + GRACE_S))


def parse_wrk(text: str) -> WrkResult:
    """wrk's output with the line of our script at its end; raises SampleFailed."""
    line = text.rstrip().rpartition("\n")[2]
    try:
        seen = json.loads(line)
        result = WrkResult(
            requests=seen["requests"],
            failed=seen["failed"],
            seconds=seen["duration_us"] / 1e6,
            p50_ms=seen["p50_us"] / 1e3,
            p99_ms=seen["p99_us"] / 1e3,
            p999_ms=seen["p999_us"] / 1e3,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SampleFailed("wrk answered something unexpected", why=text[-200:]) from error
    if not result.requests or result.failed > result.requests * MAX_FAILED:
        raise SampleFailed(f"{result.failed} of {result.requests + result.failed} requests failed")
    return result
