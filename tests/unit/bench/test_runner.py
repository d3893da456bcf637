"""Rounds: interleaved, turned, and complete when something fails. Real processes, no proxies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from hbone.addr import SocketAddress
from hbone.bench.candidates import Candidate, Direct, Ground, HbonePair, candidates_named, node_settings
from hbone.bench.faults import NotReady, SampleFailed
from hbone.bench.figures import Figure, Lane, Slice, Workload
from hbone.bench.machine import this_machine
from hbone.bench.meshes import mesh_document
from hbone.bench.results import Results
from hbone.bench.runner import Plan, Run
from hbone.bench.solo import Solo
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Tool
from hbone.config.model import NodeSettings
from hbone.errors import UsageError

PART = Slice(seconds=1, warmup_s=0)
FIGURE = Figure(name="value", label="value", unit="", better=Better.HIGHER)


@dataclass(kw_only=True)
class Probe:
    """Notes who was measured; fails on the candidates told."""

    key: str = "probe"
    group: str = "probe"
    title: str = "a probe"
    figures: tuple[Figure, ...] = (FIGURE,)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = (TargetKind.HOLD,)
    needs_proxies: bool = False
    fails_on: str = ""
    seen: list[str] = field(default_factory=list)

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        self.seen.append(lane.candidate)
        if lane.candidate == self.fails_on:
            raise SampleFailed("the load broke")
        return {FIGURE.name: float(len(self.seen))}


@dataclass(kw_only=True)
class Lonely:
    """A workload that only hbone has."""

    key: str = "lonely"
    group: str = "lonely"
    title: str = "alone"
    figures: tuple[Figure, ...] = (FIGURE,)
    tools: tuple[Tool, ...] = ()
    target: tuple[TargetKind, ...] = ()
    broken: bool = False

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        if self.broken:
            raise SampleFailed("the load broke")
        return {FIGURE.name: 7.0}


@dataclass(frozen=True, kw_only=True)
class NeverReady:
    """A candidate that does not come up."""

    key: str = "broken"
    title: str = "broken"
    has_proxies: bool = True

    def missing(self) -> str | None:
        return None

    def open(self, ground: Ground) -> Lane:
        raise NotReady("broken ended before it was ready")


def run(workload: Workload | Solo, candidates: list[Candidate], directory: Path, *, rounds: int = 2) -> Results:
    results = Results(
        taken="2026-01-01T00:00:00+00:00",
        machine=this_machine(),
        versions={},
        rounds=rounds,
        part=PART,
        candidates=[candidate.key for candidate in candidates],
    )
    plan = Plan(workloads=[workload], candidates=candidates, rounds=rounds, part=PART)
    Run(plan, results, directory, Random(), lambda _: None)()
    return results


def test_each_round_begins_with_another_candidate(tmp_path: Path) -> None:
    probe = Probe()
    results = run(probe, [Direct(key="a"), Direct(key="b")], tmp_path)
    assert probe.seen == ["a", "b", "b", "a"]
    assert results.rows[0].samples == {"a": [1.0, 4.0], "b": [2.0, 3.0]}


def test_a_failed_sample_leaves_a_gap_and_the_run_goes_on(tmp_path: Path) -> None:
    results = run(Probe(fails_on="a"), [Direct(key="a"), Direct(key="b")], tmp_path)
    assert results.rows[0].samples == {"a": [None, None], "b": [2.0, 3.0]}
    assert results.failures == ["probe on a: the load broke"] * 2


def test_a_candidate_that_does_not_come_up_is_a_gap_and_a_failure(tmp_path: Path) -> None:
    results = run(Probe(), [NeverReady(), Direct()], tmp_path, rounds=1)
    assert results.rows[0].samples == {"broken": [None], "direct": [1.0]}
    assert results.failures == ["probe on broken: broken ended before it was ready"]


def test_a_workload_of_proxies_leaves_out_the_direct_connection(tmp_path: Path) -> None:
    results = run(Probe(needs_proxies=True), [Direct()], tmp_path, rounds=1)
    assert results.rows == []


def test_what_only_hbone_has_is_measured_once_a_round_in_the_column_of_hbone(tmp_path: Path) -> None:
    results = run(Lonely(), [Direct(), HbonePair()], tmp_path)
    assert results.rows[0].samples == {"hbone": [7.0, 7.0]}


def test_a_failure_of_what_only_hbone_has_leaves_a_gap_and_the_run_goes_on(tmp_path: Path) -> None:
    results = run(Lonely(broken=True), [HbonePair()], tmp_path)
    assert results.rows[0].samples == {"hbone": [None, None]}
    assert results.failures == ["lonely on hbone: the load broke"] * 2


def test_what_only_hbone_has_is_not_measured_without_hbone(tmp_path: Path) -> None:
    assert run(Lonely(), [Direct()], tmp_path).rows == []


def test_an_unknown_candidate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="envoy-1"):
        candidates_named(("nginx",))


def test_the_settings_given_to_our_nodes_are_valid(tmp_path: Path) -> None:
    ready = SocketAddress.parse("127.0.0.1:1")
    settings = node_settings("server", tmp_path, tmp_path / "mesh.json", ready, inbound=ready)
    forwards = {"forwards": [{"listen": "127.0.0.1:2", "to": "127.64.0.1:80"}]}
    assert NodeSettings.model_validate(settings | forwards).workload is not None


def test_the_mesh_given_to_our_nodes_has_the_server_at_its_address() -> None:
    document = mesh_document(SocketAddress.parse("127.64.0.9:4711"))
    assert "127.64.0.9" in str(document)
    assert "4711" in str(document)
