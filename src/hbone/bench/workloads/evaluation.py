"""The policy engine alone: how many connections it judges in a second, and how long one takes."""

import json
import sys
from collections.abc import Mapping

from hbone.bench.candidates import Ground
from hbone.bench.figures import Figure, Slice
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.values import dataclass

RATE = Figure(name="rate", label="verdicts, one core", unit="1/s", better=Better.HIGHER, digits=0)
AGAIN = Figure(
    name="again",
    label="10,000 open connections judged again",
    unit="ms",
    better=Better.LOWER,
    digits=0,
    target=100.0,
)
GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Connections of several callers to one workload, under `policies` of which few have to do with them."""

    policies: int
    max_us: float
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = ()

    @property
    def key(self) -> str:
        return f"policy{self.policies}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"verdicts with {self.policies:,} policies in force"

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self._verdict, RATE, AGAIN)

    @property
    def _verdict(self) -> Figure:
        return Figure(name="verdict", label="one verdict", unit="µs", better=Better.LOWER, digits=2, target=self.max_us)

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        command = [sys.executable, "-m", "hbone.bench.load.verdicts", str(self.policies), str(part.seconds)]
        seen: dict[str, float] = json.loads(ground.processes.run(self.key, command, limit_s=part.seconds + GRACE_S))
        return {
            self._verdict.name: seen["verdict_s"] * 1e6,
            RATE.name: 1 / seen["verdict_s"],
            AGAIN.name: seen["again_s"] * 1e3,
        }
