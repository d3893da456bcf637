"""Reading what the load tools print, and choosing among workloads."""

import json
from itertools import pairwise

import pytest

from hbone.bench.faults import SampleFailed
from hbone.bench.workloads.bulk import parse_iperf
from hbone.bench.workloads.catalogue import CATALOGUE, QUICK, chosen
from hbone.bench.workloads.http import parse_wrk
from hbone.errors import UsageError


def iperf(**changes: object) -> str:
    document = {
        "intervals": [{"sum": {"bytes": 1_000_000_000}}, {"sum": {"bytes": 2_000_000_000}}],
        "end": {"sum_received": {"bits_per_second": 8e9}},
    }
    return json.dumps(document | changes)


def wrk(**changes: int) -> str:
    seen = {"requests": 1000, "duration_us": 2_000_000, "failed": 0, "p50_us": 100, "p99_us": 900, "p999_us": 5000}
    return "Running 2s test\n  Requests/sec: 500\n\n" + json.dumps(seen | changes) + "\n"


def test_iperf_bytes_cover_the_warm_up_and_the_rate_does_not() -> None:
    result = parse_iperf(iperf())
    assert (result.gbps, result.gigabytes) == (8.0, 3.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"error": "unable to connect"}), "unable to connect"),
        ("Segmentation fault", "unexpected"),
        ("{}", "unexpected"),
        (iperf(intervals=[]), "moved no bytes"),
    ],
)
def test_an_iperf_failure_is_a_failed_sample_with_its_words(text: str, words: str) -> None:
    with pytest.raises(SampleFailed, match=words):
        parse_iperf(text)


def test_wrk_times_are_given_in_milliseconds() -> None:
    result = parse_wrk(wrk())
    assert (result.requests, result.seconds) == (1000, 2.0)
    assert (result.p50_ms, result.p99_ms, result.p999_ms) == (0.1, 0.9, 5.0)


@pytest.mark.parametrize("text", [wrk(requests=0), wrk(failed=20), "unable to connect", ""])
def test_a_rate_of_unanswered_requests_is_a_failed_sample(text: str) -> None:
    with pytest.raises(SampleFailed):
        parse_wrk(text)


def keys(*names: str) -> list[str]:
    return [workload.key for workload in chosen(names)]


def test_a_family_name_chooses_all_of_it_in_the_order_of_the_catalogue() -> None:
    assert keys("idle", "bulk8") == ["bulk8", "idle2000", "idle20000"]
    assert keys("bulk") == ["bulk1", "bulk1-down", "bulk8", "bulk8-down", "bulk64", "bulk64-down"]


def test_an_exact_name_chooses_that_one_alone() -> None:
    assert keys("bulk1") == ["bulk1"]
    assert keys("idle2000") == ["idle2000"]


@pytest.mark.parametrize("name", ["bulks", "b", "idle200", ""])
def test_an_unknown_workload_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="keepalive32"):
        chosen([name])


def test_workloads_of_one_group_stand_together_so_that_they_share_processes() -> None:
    groups = [workload.group for workload in CATALOGUE.values()]
    changes = sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups)) - 1


def test_figures_of_a_workload_have_names_of_their_own() -> None:
    for workload in CATALOGUE.values():
        names = [figure.name for figure in workload.figures]
        assert len(names) == len(set(names)), workload.key


def test_the_quick_run_is_made_of_known_workloads() -> None:
    assert [workload.key for workload in chosen(QUICK)] == list(QUICK)
