"""From the start of both proxies to the moment when they are ready, and what that took."""

from collections.abc import Mapping

from hbone.bench.figures import CPU_LABEL, PEAK_RSS, Figure, Lane, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.values import dataclass

TIME = Figure(name="time", label="until both are ready", unit="ms", better=Better.LOWER, digits=0)
CPU = Figure(name="cpu", label=CPU_LABEL, unit="ms", better=Better.LOWER, digits=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """What the runner saw when it started the lane; a group of its own, so that nothing else ran on it."""

    key: str = "startup"
    title: str = "start-up of a pair"
    figures: tuple[Figure, ...] = (TIME, CPU, PEAK_RSS)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = (TargetKind.HOLD,)
    needs_proxies: bool = True
    group: str = "startup"

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        return lane.proxy_figures(**{TIME.name: lane.ready_s * 1000, CPU.name: lane.cpu_s() * 1000})
