"""Bulk transfer by iperf3: throughput, and what a gigabyte costs the proxies."""

import json
from collections.abc import Mapping
from enum import Enum

from hbone.bench.faults import SampleFailed
from hbone.bench.figures import CPU_LABEL, PEAK_RSS, Figure, Lane, Slice
from hbone.bench.processes import Started
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import IPERF3, Tool
from hbone.values import dataclass

GBPS = Figure(name="gbps", label="throughput", unit="Gb/s", better=Better.HIGHER, digits=2)
CPU_PER_GB = Figure(name="cpu_per_gb", label=CPU_LABEL, unit="s/GB", better=Better.LOWER, digits=3)
GRACE_S = 20.0


class Direction(Enum):
    """Who sends: the side that connected, or the server."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """`streams` TCP connections at once, all in one direction."""

    streams: int
    direction: Direction
    figures: tuple[Figure, ...] = (GBPS, CPU_PER_GB, PEAK_RSS)
    tools: tuple[Tool, ...] = (IPERF3,)
    target: tuple[TargetKind, ...] = (TargetKind.IPERF,)
    needs_proxies: bool = False
    group: str = "bulk"

    @property
    def key(self) -> str:
        return f"bulk{self.streams}" if self.direction is Direction.UP else f"bulk{self.streams}-down"

    @property
    def title(self) -> str:
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        way = "client to server" if self.direction is Direction.UP else "server to client"
        return f"bulk transfer, {streams}, {way}"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        cpu_before_s = lane.cpu_s()
        iperf = start_iperf(lane, part, streams=self.streams, direction=self.direction)
        try:
            result = parse_iperf(iperf.result(part.warmup_s + part.seconds + GRACE_S))
        finally:
            lane.processes.stop([iperf])
        cpu_s = lane.cpu_s() - cpu_before_s
        return {GBPS.name: result.gbps, **lane.proxy_figures(**{CPU_PER_GB.name: cpu_s / result.gigabytes})}


def start_iperf(lane: Lane, part: Slice, *, streams: int, direction: Direction) -> Started:
    """A client that runs through the lane for the slice, warm-up included."""
    entry = lane.entries[TargetKind.IPERF]
    reverse = ["-R"] if direction is Direction.DOWN else []
    where = ["-c", entry.ip, "-p", entry.port]
    how_long = ["-O", part.warmup_s, "-t", part.seconds]
    return lane.processes.spawn("iperf3", IPERF3.command(*where, *how_long, "-P", streams, "-J", *reverse))


@dataclass(frozen=True, slots=True, kw_only=True)
class IperfResult:
    """`gbps` without the warm-up; `gigabytes` (10^9 bytes) with it, because the CPU time covers it too."""

    gbps: float
    gigabytes: float


def parse_iperf(text: str) -> IperfResult:
    """iperf3's JSON; raises SampleFailed with its own words when it failed or moved nothing."""
    try:
        document = json.loads(text)
        if "error" in document:
            raise SampleFailed("iperf3 failed", why=str(document["error"]))
        moved = sum(interval["sum"]["bytes"] for interval in document["intervals"])
        bits_per_s = document["end"]["sum_received"]["bits_per_second"]
    except (ValueError, KeyError, TypeError) as error:
        raise SampleFailed("iperf3 answered something unexpected", why=text[:200]) from error
    if not moved or not bits_per_s:
        raise SampleFailed("iperf3 moved no bytes")
    return IperfResult(gbps=bits_per_s / 1e9, gigabytes=moved / 1e9)
