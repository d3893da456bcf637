"""Runs workloads against candidates, interleaved, and gathers the samples.

A round: for each group of workloads the targets and all candidates are started afresh, then each workload takes one
short sample of each candidate in turn, so that the samples of a round are seconds apart; the next round begins with
another candidate. Candidates that wait their turn are idle and cost nothing. What only hbone has is measured once a
round, in the column of the first hbone.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from hbone.bench.candidates import Candidate, Ground
from hbone.bench.faults import NotReady, SampleFailed
from hbone.bench.figures import Lane, Slice, Workload
from hbone.bench.pki import BenchPki
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.bench.procfs import forget_peak
from hbone.bench.results import OURS, Results, Row
from hbone.bench.solo import Solo
from hbone.bench.targets import Targets
from hbone.values import dataclass

Progress = Callable[[str], None]
RowKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. Candidates and workloads that are missing something were left out before."""

    workloads: Sequence[Workload | Solo]
    candidates: Sequence[Candidate]
    rounds: int
    part: Slice

    @property
    def alone(self) -> str | None:
        """The candidate that is measured where there is nothing to compare with; None without one of ours."""
        return next((one.key for one in self.candidates if one.key.startswith(OURS)), None)


class Run:
    """One run; its samples go into `results` as they are taken, so an interrupted run keeps what it has."""

    def __init__(self, plan: Plan, results: Results, directory: Path, rng: random.Random, progress: Progress) -> None:
        self._plan = plan
        self._results = results
        self._directory = directory
        self._ports = Ports(rng)
        self._pki = BenchPki(directory / "pki")
        self._progress = progress
        self._rows: dict[RowKey, Row] = {}

    def __call__(self) -> None:
        """All rounds. Whatever happens, every process has ended when this returns or raises."""
        for number in range(self._plan.rounds):
            self._progress(f"round {number + 1} of {self._plan.rounds}")
            for _, group in groupby(self._plan.workloads, key=lambda workload: workload.group):
                self._group(number, tuple(group))

    def _group(self, number: int, workloads: Sequence[Workload | Solo]) -> None:
        host = self._ports.free_host()
        with Processes(self._directory) as processes:
            targets = Targets(processes, self._ports, host)
            kinds = frozenset(kind for workload in workloads for kind in workload.target)
            ground = Ground(
                processes=processes, pki=self._pki, ports=self._ports, host=host, targets=targets.start(kinds)
            )
            paired = [workload for workload in workloads if not isinstance(workload, Solo)]
            lanes = self._open(ground, _turned(self._plan.candidates, number), paired) if paired else []
            for workload in workloads:
                self._progress(f"  {workload.key}: {workload.title}")
                if isinstance(workload, Solo):
                    self._measure(workload, ground)
                    continue
                for lane in lanes:
                    if lane.proxies or not workload.needs_proxies:
                        self._sample(workload, lane)

    def _measure(self, workload: Solo, ground: Ground) -> None:
        candidate = self._plan.alone
        if candidate is None:
            return
        values: Mapping[str, float] = {}
        try:
            values = workload.measure(ground, self._plan.part)
        except (SampleFailed, NotReady) as error:
            self._fail(workload.key, candidate, error)
        self._record(workload, candidate, values)

    def _open(self, ground: Ground, candidates: Sequence[Candidate], workloads: Sequence[Workload]) -> list[Lane]:
        """The candidates that come up; the others' samples of this group are missing and said to be."""
        lanes: list[Lane] = []
        for candidate in candidates:
            if not candidate.has_proxies and all(workload.needs_proxies for workload in workloads):
                continue
            try:
                lanes.append(candidate.open(ground))
            except NotReady as error:
                self._fail(", ".join(workload.key for workload in workloads), candidate.key, error)
                for workload in workloads:
                    self._record(workload, candidate.key, {})
        return lanes

    def _sample(self, workload: Workload, lane: Lane) -> None:
        forget_peak(lane.pids)
        values: Mapping[str, float] = {}
        try:
            values = workload.sample(lane, self._plan.part)
        except SampleFailed as error:
            self._fail(workload.key, lane.candidate, error)
        self._record(workload, lane.candidate, values)

    def _fail(self, workload: str, candidate: str, error: Exception) -> None:
        said = f"{workload} on {candidate}: {error}"
        self._results.failures.append(said)
        self._progress(f"  failed: {said}")

    def _record(self, workload: Workload | Solo, candidate: str, values: Mapping[str, float]) -> None:
        for figure in workload.figures:
            key = (workload.key, figure.name)
            if key not in self._rows:
                row = Row(workload=workload.key, workload_title=workload.title, figure=figure, samples={})
                self._rows[key] = row
                self._results.rows.append(row)
            self._rows[key].samples.setdefault(candidate, []).append(values.get(figure.name))


def _turned(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """The candidates, another one first in each round."""
    turn = number % len(candidates)
    return [*candidates[turn:], *candidates[:turn]]
