"""What more cores bring: the same pair of nodes with one, two and four workers, each held to an eighth of a core.

So the proxies are what limits, as on a machine with cores to spare, and what a worker more brings shows on one that has
only two, which callers and server share.
"""

from collections.abc import Mapping
from contextlib import ExitStack

from hbone.bench import procfs
from hbone.bench.candidates import Ground, HbonePair
from hbone.bench.figures import CPU_LABEL, Figure, Lane, Slice, Workload
from hbone.bench.shares import CpuShares
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Need
from hbone.values import dataclass

SHARE = 0.125  # of a core for each worker: eight of them, with four in each node, are one core
TURNS = (1, 2, 4, 4, 2, 1)  # workers; a machine that gets slower does so for all
AT_LEAST = {2: 1.6, 4: 2.5}  # times the rate of one worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """`load` on pairs of 1, 2 and 4 workers. Each pair is up only while it is measured."""

    load: Workload

    @property
    def key(self) -> str:
        return f"cores-{self.load.key}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"1, 2 and 4 workers with an eighth of a core each: {self.load.title}"

    @property
    def tools(self) -> tuple[Need, ...]:
        return (*self.load.tools, CpuShares())

    @property
    def target(self) -> tuple[TargetKind, ...]:
        return self.load.target

    @property
    def figures(self) -> tuple[Figure, ...]:
        rate = self.load.figures[0]
        ratios = (
            Figure(
                name=f"ratio_{workers}",
                label=f"{rate.label}, workers: {workers} / 1",
                unit="",
                better=Better.HIGHER,
                digits=2,
                target=least,
            )
            for workers, least in AT_LEAST.items()
        )
        rates = (
            Figure(
                name=f"rate_{workers}",
                label=f"{rate.label}, workers: {workers}",
                unit=rate.unit,
                better=Better.HIGHER,
                digits=rate.digits,
            )
            for workers in (1, *AT_LEAST)
        )
        return (*ratios, *rates, *(_busiest(workers) for workers in AT_LEAST))

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        rates: dict[int, list[float]] = {}
        busiest: dict[int, list[float]] = {}
        for workers in TURNS:
            rate, most = self._one(ground, part, workers)
            rates.setdefault(workers, []).append(rate)
            busiest.setdefault(workers, []).append(most)
        mean = {workers: sum(seen) / len(seen) for workers, seen in rates.items()}
        return (
            {f"rate_{workers}": rate for workers, rate in mean.items()}
            | {f"ratio_{workers}": mean[workers] / mean[1] for workers in AT_LEAST}
            | {_busiest(workers).name: max(busiest[workers]) for workers in AT_LEAST}
        )

    def _one(self, ground: Ground, part: Slice, workers: int) -> tuple[float, float]:
        """The rate, and how much more CPU the busiest worker of a node took than its fellows on average."""
        with ExitStack() as ending:
            shares = CpuShares()
            ending.callback(shares.close)
            lane = HbonePair(key=f"{self.key}-{workers}", workers=workers).open(ground)
            ending.callback(ground.processes.stop, lane.proxies)
            crews = _crews(lane, workers)
            for pid in (pid for crew in crews for pid in crew):
                shares.hold(pid, SHARE)
            before_s = {pid: procfs.cpu_s((pid,)) for crew in crews for pid in crew}
            rate = self.load.sample(lane, part)[self.load.figures[0].name]
            used_s = [[procfs.cpu_s((pid,)) - before_s[pid] for pid in crew] for crew in crews]
        return rate, max(max(crew) / (sum(crew) / len(crew)) for crew in used_s)


def _crews(lane: Lane, workers: int) -> list[list[int]]:
    """The processes of each node that carry connections: all but the agent, which one with a single worker has not."""
    return [[proxy.pid] if workers == 1 else procfs.tree(proxy.pid)[1:] for proxy in lane.proxies]


def _busiest(workers: int) -> Figure:
    label = f"{CPU_LABEL}, busiest of {workers} / mean"
    return Figure(name=f"busiest_{workers}", label=label, unit="", better=Better.LOWER, digits=2)
