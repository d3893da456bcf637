"""Processes held to a part of a core, in both forms of control groups: files of the test's own."""

import os
from pathlib import Path

import pytest

from hbone.bench.faults import NotReady
from hbone.bench.shares import CpuShares


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Version 1: a hierarchy for CPU time alone."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    return tmp_path


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Version 2: one for all."""
    (tmp_path / "cgroup.subtree_control").write_text("cpu io memory\n")
    return tmp_path


def written(place: Path) -> dict[str, str]:
    (group,) = [path for path in place.iterdir() if path.name.startswith("hbone-bench-")]
    return {file.name: file.read_text() for file in group.iterdir()}


def test_an_eighth_of_a_core_in_version_1(first: Path) -> None:
    shares = CpuShares(first)
    assert shares.missing() is None
    shares.hold(4711, 0.125)
    assert written(first / "cpu") == {
        "cpu.cfs_period_us": "10000",
        "cpu.cfs_quota_us": "1250",
        "cgroup.procs": "4711",
    }


def test_an_eighth_of_a_core_in_version_2(second: Path) -> None:
    shares = CpuShares(second)
    assert shares.missing() is None
    shares.hold(4711, 0.125)
    assert written(second) == {"cpu.max": "1250 10000", "cgroup.procs": "4711"}


def test_where_there_is_no_controller_it_says_so(tmp_path: Path) -> None:
    assert "no control group for CPU time" in str(CpuShares(tmp_path).missing())
    with pytest.raises(NotReady, match="process 1 cannot be held"):
        CpuShares(tmp_path).hold(1, 0.5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_not_write_there_is_told_to_be_root(second: Path) -> None:
    second.chmod(0o500)
    try:
        assert "run it as root" in str(CpuShares(second).missing())
    finally:
        second.chmod(0o700)


def test_groups_go_with_the_bench_and_those_of_a_killed_one_too(second: Path) -> None:
    """Real groups have no files that would have to be deleted before."""
    (second / "hbone-bench-999999999-17").mkdir()
    (second / f"hbone-bench-{os.getppid()}-17").mkdir()  # of a bench that lives
    shares = CpuShares(second)
    shares.hold(4711, 0.5)
    for file in (second / f"hbone-bench-{os.getpid()}-4711").iterdir():
        file.unlink()
    shares.close()
    assert [path.name for path in second.iterdir() if path.is_dir()] == [f"hbone-bench-{os.getppid()}-17"]
