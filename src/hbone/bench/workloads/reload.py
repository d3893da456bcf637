"""Requests while the mesh and its policies change all the time: how many fail, and what becomes of their p99?"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from hbone.bench.candidates import Ground, HbonePair, mesh_file
from hbone.bench.faults import SampleFailed
from hbone.bench.figures import Figure, Lane, Slice
from hbone.bench.meshes import Json, numbered_workload, policy_list
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import NGINX, WRK, Tool
from hbone.bench.workloads.http import GRACE_S, Reuse, WrkResult, parse_wrk, run_wrk, wrk_command
from hbone.values import dataclass

EVERY_S = 0.25
WORKLOADS, POLICIES = 200, 20  # that come and go with each change
RELOADED = "manifests read"  # what a node logs when it has put a change in force
FAILED = Figure(name="failed", label="requests failed", unit="", better=Better.LOWER, digits=0, target=0.0)
P99 = Figure(name="p99", label="p99 meanwhile", unit="ms", better=Better.LOWER, digits=3)
BESIDE = Figure(name="beside", label="p99 without changes", unit="ms", better=Better.LOWER, digits=3)
RATE = Figure(name="rate", label="requests meanwhile", unit="1/s", better=Better.HIGHER, digits=0)
RELOADS = Figure(name="reloads", label="changes put in force, both nodes", unit="", better=Better.HIGHER, digits=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """First without changes, then with some four a second: workloads and policies come and go."""

    connections: int
    reuse: Reuse
    figures: tuple[Figure, ...] = (FAILED, P99, BESIDE, RATE, RELOADS)
    tools: tuple[Tool, ...] = (WRK, NGINX)
    target: tuple[TargetKind, ...] = (TargetKind.HTTP,)

    @property
    def key(self) -> str:
        return f"reload-{self.reuse.value}{self.connections}"

    @property
    def group(self) -> str:
        return self.key

    @property
    def title(self) -> str:
        return f"the mesh changes all the time: {self.reuse.title(self.connections)}"

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        lane = HbonePair(key=self.key, policies=1).open(ground)
        mesh = mesh_file(ground.processes.directory, self.key)
        command = wrk_command(lane, self.connections, self.reuse)
        try:
            if part.warmup_s:
                run_wrk(ground.processes, command, part.warmup_s)
            beside = run_wrk(ground.processes, command, part.seconds)
            before = _reloads(lane)
            seen = _while_changing(lane, command, mesh, part.seconds)
            reloads = _reloads(lane) - before
        finally:
            ground.processes.stop(lane.proxies)
        if not reloads:
            raise SampleFailed("no change was put in force", why=lane.proxies[0].log_tail())
        return {
            FAILED.name: seen.failed,
            P99.name: seen.p99_ms,
            BESIDE.name: beside.p99_ms,
            RATE.name: seen.requests / seen.seconds,
            RELOADS.name: reloads,
        }


def _while_changing(lane: Lane, command: list[str], mesh: Path, seconds: int) -> WrkResult:
    wrk = lane.processes.spawn("wrk", [*command, "-d", f"{seconds}s"])
    try:
        number, deadline = 0, time.monotonic() + seconds + GRACE_S
        original: Json = json.loads(mesh.read_text())
        while wrk.running() and time.monotonic() < deadline:
            _replace(mesh, changed(original, number))
            number += 1
            wrk.wait(EVERY_S)
        return parse_wrk(wrk.result(GRACE_S))
    finally:
        lane.processes.stop([wrk])


def changed(mesh: Json, number: int) -> Json:
    """The mesh with workloads and policies that nobody calls, others at each number."""
    workloads, some = mesh["workloads"], range(number * WORKLOADS, (number + 1) * WORKLOADS)
    assert isinstance(workloads, list)  # noqa: S101 - as we wrote it
    return {
        "workloads": [*workloads, *map(numbered_workload, some)],
        "policies": policy_list(1 + (number % 2) * POLICIES),
    }


def _replace(mesh: Path, document: Json) -> None:
    """As editors do: never half a file."""
    new = mesh.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.replace(mesh)


def _reloads(lane: Lane) -> int:
    return sum(proxy.log.read_text(errors="replace").count(RELOADED) for proxy in lane.proxies)
