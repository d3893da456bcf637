"""What hbone is measured with alone: it measures what it says, at a small size. Real nodes, real tools."""

import json
from collections.abc import Generator
from pathlib import Path
from random import Random

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.bench.candidates import Ground
from hbone.bench.figures import Slice
from hbone.bench.load import mesh, verdicts
from hbone.bench.meshes import large_mesh, mesh_document, policy_list
from hbone.bench.pki import BenchPki
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.bench.shares import CpuShares
from hbone.bench.solo import Solo
from hbone.bench.targets import Targets
from hbone.bench.workloads.catalogue import CATALOGUE
from hbone.bench.workloads.cores import Cores
from hbone.bench.workloads.evaluation import Evaluation
from hbone.bench.workloads.http import Http, Reuse
from hbone.bench.workloads.load import Load
from hbone.bench.workloads.policies import PoliciesInForce
from hbone.bench.workloads.reload import Reload, changed
from hbone.discovery.localfile import parse_local_file
from hbone.policy.decide import PolicyEngine

PART = Slice(seconds=1, warmup_s=0)


@pytest.fixture
def processes(tmp_path: Path) -> Generator[Processes]:
    with Processes(tmp_path) as started:
        yield started


def ground_for(workload: Solo, processes: Processes) -> Ground:
    ports = Ports(Random())
    host = ports.free_host()
    targets = Targets(processes, ports, host).start(frozenset(workload.target))
    return Ground(
        processes=processes, pki=BenchPki(processes.directory / "pki"), ports=ports, host=host, targets=targets
    )


def assert_every_figure_is_there(workload: Solo, seen: dict[str, float]) -> None:
    assert seen.keys() == {figure.name for figure in workload.figures}


def test_a_node_s_load_of_a_mesh_is_timed_until_it_is_ready(processes: Processes) -> None:
    workload = Load(workloads=50)
    seen = dict(workload.measure(ground_for(workload, processes), PART))
    assert_every_figure_is_there(workload, seen)
    assert seen["peak"] > 20
    assert 0 < seen["lookup"] < 1000


def test_verdicts_are_timed(processes: Processes) -> None:
    workload = Evaluation(policies=10, max_us=10.0)
    seen = dict(workload.measure(ground_for(workload, processes), PART))
    assert_every_figure_is_there(workload, seen)
    assert seen["rate"] == pytest.approx(1e6 / seen["verdict"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PoliciesInForce, Reload])
def test_requests_go_on_under_policies_and_reloads(kind: type[PoliciesInForce | Reload], processes: Processes) -> None:
    workload = kind(connections=2, reuse=Reuse.KEPT)
    for tool in workload.tools:
        if reason := tool.missing():
            pytest.skip(reason)
    seen = dict(workload.measure(ground_for(workload, processes), PART))
    assert_every_figure_is_there(workload, seen)
    assert seen["rate"] > 0


def test_more_workers_carry_more(processes: Processes) -> None:
    """As real nodes whose workers have an eighth of a core each: no exact figure, on a machine with other work."""
    workload = Cores(load=Http(connections=64, reuse=Reuse.KEPT))
    for need in workload.tools:
        if reason := need.missing():
            pytest.skip(reason)
    seen = dict(workload.measure(ground_for(workload, processes), Slice(seconds=1, warmup_s=1)))
    assert_every_figure_is_there(workload, seen)
    assert seen["ratio_4"] > 1.5
    assert not list(CpuShares().groups())


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_the_policies_let_the_client_through_and_nobody_else(count: int) -> None:
    engine = PolicyEngine(verdicts.policies(count))
    assert len(engine.policies) == count
    facts = verdicts.connections(5)
    assert [engine.judge(one).allowed for one in facts] == [True, True, False, False, False]


def test_few_of_the_policies_are_compared_with_a_connection() -> None:
    engine = PolicyEngine(verdicts.policies(1000))
    applicable = engine.applicable(verdicts.connections(1)[0].destination)
    assert 500 < len(applicable) < 1000


def test_a_large_mesh_has_each_workload_at_an_address_of_its_own() -> None:
    found = parse_local_file("mesh", json.dumps(large_mesh(2000))).state.workloads
    assert len({workload.addresses for workload in found}) == 2000
    assert found[257].addresses == (parse_ip("10.0.1.1"),)


def test_a_stream_s_lookups_find_what_was_sent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mesh.json"
    file.write_text(json.dumps(large_mesh(20)))
    mesh.main(str(file))
    assert json.loads(capsys.readouterr().out).keys() == {"stream_s", "lookup_s", "plan_s"}


def test_a_changed_mesh_keeps_the_pair_and_is_another_one_each_time() -> None:
    own = mesh_document(SocketAddress.parse("127.64.0.9:4711")) | {"policies": policy_list(1)}
    first, second = (parse_local_file("mesh", json.dumps(changed(own, number))) for number in (0, 1))
    assert first.state.workloads[:2] == second.state.workloads[:2]
    assert not set(first.state.workloads[2:]) & set(second.state.workloads[2:])
    assert len(first.policies) != len(second.policies)


def test_only_what_hbone_is_measured_with_alone_has_targets() -> None:
    for workload in CATALOGUE.values():
        assert any(figure.target is not None for figure in workload.figures) is isinstance(workload, Solo), workload.key
