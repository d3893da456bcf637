"""What a run found, and what follows from it; also as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from hbone.bench.figures import Figure, Slice
from hbone.bench.machine import Machine
from hbone.bench.statistics import Ratio, Summary, ratio, summary
from hbone.values import dataclass

SCHEMA = 1
DIRECT = "direct"
OURS = "hbone"  # what the names of our candidates begin with
NOISY_SPREAD = 0.25  # of the direct connection, which runs no code of any candidate
NOISY_SHARE = 0.25  # of the workloads


@dataclass(slots=True, kw_only=True)
class Row:
    """One figure of one workload: a sample for each round, by candidate."""

    workload: str
    workload_title: str
    figure: Figure
    samples: dict[str, list[float | None]]

    def summary(self, candidate: str) -> Summary | None:
        return summary(self.samples.get(candidate, ()))

    def ratio(self, ours: str, theirs: str) -> Ratio | None:
        return ratio(self.samples.get(ours, ()), self.samples.get(theirs, ()), self.figure.better)

    def missed(self) -> list[str]:
        """The candidates whose median falls short of the figure's target."""
        seen = {candidate: self.summary(candidate) for candidate in self.samples}
        return [candidate for candidate, one in seen.items() if one and not self.figure.meets(one.median)]


@dataclass(slots=True, kw_only=True)
class Results:
    """A whole run. `absent`: why something was not measured; `failures`: samples that could not be taken.

    `interrupted`: the user ended it; what was sampled until then is here.
    """

    taken: str
    machine: Machine
    versions: Mapping[str, str]
    rounds: int
    part: Slice
    candidates: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    def comparisons(self) -> list[tuple[str, str]]:
        """Who is set against whom: hbone against each pair of Envoys; without hbone the Envoys among themselves."""
        envoys = [candidate for candidate in self.candidates if candidate.startswith("envoy")]
        ours = [candidate for candidate in self.candidates if candidate.startswith(OURS)]
        if ours:
            return [(a, b) for a in ours for b in envoys]
        return [(a, envoys[0]) for a in envoys[1:]]

    def noise(self) -> str | None:
        """A sentence when the machine was too unsteady to believe small differences; None when it was steady."""
        spreads = self._direct_spreads()
        noisy = {workload: spread for workload, spread in spreads.items() if spread > NOISY_SPREAD}
        if not noisy or len(noisy) < NOISY_SHARE * len(spreads):
            return None
        worst = max(noisy, key=lambda workload: noisy[workload])
        return (
            f"The machine was noisy: without any proxy, {worst} varied by {noisy[worst]:.0%} from round to round "
            f"({len(noisy)} of {len(spreads)} workloads by more than {NOISY_SPREAD:.0%}). "
            "Trust the ratios and their counts of rounds, not the absolute figures; run again on a quieter machine "
            "or with more --rounds for differences below 10 %."
        )

    def _direct_spreads(self) -> dict[str, float]:
        """Spread of the direct connection's first figure, by workload; workloads with one round tell nothing."""
        spreads: dict[str, float] = {}
        for row in self.rows:
            seen = row.summary(DIRECT)
            if row.workload not in spreads and seen is not None and seen.count > 1:
                spreads[row.workload] = seen.spread
        return spreads

    def as_json(self) -> dict[str, object]:
        """The document kept under bench/results."""
        return {
            "schema": SCHEMA,
            "taken": self.taken,
            "machine": self.machine.as_json(),
            "versions": dict(self.versions),
            "rounds": self.rounds,
            "seconds": self.part.seconds,
            "warmup_s": self.part.warmup_s,
            "candidates": list(self.candidates),
            "noise": self.noise(),
            "absent": self.absent,
            "failures": self.failures,
            "interrupted": self.interrupted,
            "figures": [self._row_json(row) for row in self.rows],
        }

    def _row_json(self, row: Row) -> dict[str, object]:
        summaries = {candidate: row.summary(candidate) for candidate in row.samples}
        ratios = {f"{ours}/{theirs}": row.ratio(ours, theirs) for ours, theirs in self.comparisons()}
        return {
            "workload": row.workload,
            "figure": row.figure.name,
            "label": row.figure.label,
            "unit": row.figure.unit,
            "better": row.figure.better.value,
            **({"target": row.figure.target, "met": not row.missed()} if row.figure.target is not None else {}),
            "samples": row.samples,
            "median": {candidate: seen.median for candidate, seen in summaries.items() if seen},
            "spread": {candidate: seen.spread for candidate, seen in summaries.items() if seen},
            "ratios": {
                name: {
                    "median": seen.median,
                    "agree": seen.agree,
                    "rounds": seen.rounds,
                    "per_round": list(seen.per_round),
                }
                for name, seen in ratios.items()
                if seen
            },
        }
