"""Memory of tunnels' streams that do nothing: what the proxies grow by, per connection held."""

import json
import resource
import sys
import time
from collections.abc import Mapping

from hbone.bench.faults import SampleFailed
from hbone.bench.figures import PEAK_RSS, Figure, Lane, Slice
from hbone.bench.processes import Processes, Started
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.values import dataclass

PER_STREAM = Figure(name="per_stream", label="per idle stream, both proxies", unit="KiB", better=Better.LOWER, digits=2)
BASE = Figure(name="base", label="both proxies, one tunnel, resident", unit="MiB", better=Better.LOWER)
HELD = Figure(name="held", label="streams held", unit="", better=Better.HIGHER, digits=0)
RESERVED_DESCRIPTORS = 300  # of a process's limit, for all that is not a stream
LIMIT_S = 150.0
SETTLE_S = 0.5  # allocators and collectors give back what the opening took


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """`streams` connections, proven by one byte and then left alone; fewer where descriptors do not allow it."""

    streams: int
    figures: tuple[Figure, ...] = (PER_STREAM, BASE, HELD, PEAK_RSS)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = (TargetKind.HOLD,)
    needs_proxies: bool = True

    @property
    def key(self) -> str:
        return f"idle{self.streams}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"{self.streams} idle streams"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        wanted = min(self.streams, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS)
        holders: list[Started] = []
        try:
            _hold(lane, 1, holders)
            base_mib = lane.rss_mib()
            held = _hold(lane, wanted, holders)
            grown_mib = lane.rss_mib() - base_mib
        finally:
            lane.processes.stop(holders)
        if held < wanted:
            raise SampleFailed(f"only {held} of {wanted} connections could be held")
        per_stream_kib = grown_mib * 1024 / held
        return lane.proxy_figures(**{PER_STREAM.name: per_stream_kib, BASE.name: base_mib, HELD.name: float(held)})


def _hold(lane: Lane, count: int, holders: list[Started]) -> int:
    """Open and keep `count` connections; the holder joins `holders`. How many there are."""
    entry = lane.entries[TargetKind.HOLD]
    holder = _spawn(lane.processes, str(entry.ip), entry.port, count)
    holders.append(holder)
    line = holder.read_line(LIMIT_S)
    held: int = json.loads(line)["held"]
    time.sleep(SETTLE_S)
    return held


def _spawn(processes: Processes, ip: str, port: int, count: int) -> Started:
    return processes.spawn("idle", [sys.executable, "-m", "hbone.bench.load.idle", ip, str(port), str(count)])
