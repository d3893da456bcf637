"""New tunnels: what an inbound proxy spends on a full handshake and the first CONNECT."""

import json
import sys
from collections.abc import Mapping

from hbone.bench import procfs
from hbone.bench.faults import SampleFailed
from hbone.bench.figures import PEAK_RSS, Figure, Lane, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.values import dataclass

RATE = Figure(name="rate", label="new tunnels, one client", unit="1/s", better=Better.HIGHER, digits=0)
P50 = Figure(name="p50", label="p50 of one tunnel", unit="ms", better=Better.LOWER, digits=3)
P99 = Figure(name="p99", label="p99 of one tunnel", unit="ms", better=Better.LOWER, digits=3)
CPU = Figure(name="cpu", label="CPU of the inbound proxy", unit="ms/tunnel", better=Better.LOWER, digits=3)
GRACE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshakes:
    """Tunnels one after the other, straight to the inbound proxy: the same client for every candidate."""

    key: str = "handshakes"
    title: str = "a new tunnel each: TCP, mutual TLS, CONNECT"
    figures: tuple[Figure, ...] = (RATE, P50, P99, CPU, PEAK_RSS)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = (TargetKind.HOLD,)
    needs_proxies: bool = True
    group: str = "handshakes"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        if part.warmup_s:
            self._run(lane, part.warmup_s)
        inbound = (lane.pids[-1],)
        cpu_before_s = procfs.cpu_s(inbound)
        seen = self._run(lane, part.seconds)
        cpu_ms = (procfs.cpu_s(inbound) - cpu_before_s) * 1000
        return lane.proxy_figures(
            **{
                RATE.name: seen["tunnels"] / seen["seconds"],
                P50.name: seen["p50_s"] * 1000,
                P99.name: seen["p99_s"] * 1000,
                CPU.name: cpu_ms / seen["tunnels"],
            }
        )

    def _run(self, lane: Lane, seconds: int) -> dict[str, float]:
        if lane.tunnel is None or lane.client is None:
            raise SampleFailed(f"{lane.candidate} has no tunnel")
        files = (lane.client.chain, lane.client.key, lane.client.root)
        where = (lane.tunnel.ip, lane.tunnel.port, lane.targets[TargetKind.HOLD])
        command = [sys.executable, "-m", "hbone.bench.load.handshakes", *map(str, (*where, *files, seconds))]
        seen: dict[str, float] = json.loads(lane.processes.run("handshakes", command, limit_s=seconds + GRACE_S))
        if seen["failed"] or not seen["tunnels"]:
            raise SampleFailed(f"{seen['failed']} of {seen['failed'] + seen['tunnels']} tunnels failed")
        return seen
