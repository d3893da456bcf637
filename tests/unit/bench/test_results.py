"""What follows from samples: ratios, noise, table, picture, and what is kept."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hbone.bench.figures import Figure, Slice
from hbone.bench.machine import Machine, this_machine, versions
from hbone.bench.picture import picture
from hbone.bench.report import report, table
from hbone.bench.results import Results, Row
from hbone.bench.session import keep
from hbone.bench.statistics import Better
from hbone.errors import UsageError

MACHINE = Machine(
    system="Linux",
    architecture="x86_64",
    kernel="6.1",
    cpu="Some <CPU> & more",
    cores=2,
    memory_mib=2048,
    congestion_control="cubic",
)
RATE = Figure(name="rate", label="requests", unit="1/s", better=Better.HIGHER, digits=0)


def results(
    direct: list[float | None] | None = None, *, candidates: tuple[str, ...] = ("direct", "envoy", "hbone")
) -> Results:
    samples: dict[str, list[float | None]] = {
        "direct": direct or [100.0, 101.0, 102.0],
        "envoy": [40.0, 41.0, 42.0],
        "hbone": [44.0, None, 41.0],
    }
    row = Row(
        workload="keepalive32",
        workload_title="HTTP, 32 at a time",
        figure=RATE,
        samples={key: value for key, value in samples.items() if key in candidates},
    )
    return Results(
        taken="2026-01-02T03:04:05+00:00",
        machine=MACHINE,
        versions={"python": "3.11"},
        rounds=3,
        part=Slice(seconds=2, warmup_s=1),
        candidates=candidates,
        rows=[row],
    )


def test_hbone_is_compared_with_every_pair_of_envoys() -> None:
    found = results(candidates=("direct", "envoy", "envoy-1", "hbone"))
    assert found.comparisons() == [("hbone", "envoy"), ("hbone", "envoy-1")]


def test_without_hbone_the_envoys_are_compared_with_each_other() -> None:
    assert results(candidates=("direct", "envoy", "envoy-1")).comparisons() == [("envoy-1", "envoy")]


def test_a_steady_direct_connection_is_not_called_noisy() -> None:
    assert results().noise() is None


def test_an_unsteady_direct_connection_is_said_in_a_sentence() -> None:
    noise = results([60.0, 100.0, 100.0]).noise()
    assert noise is not None
    assert "keepalive32 varied by 40%" in noise
    assert noise in report(results([60.0, 100.0, 100.0]))


def test_one_round_alone_says_nothing_about_noise() -> None:
    assert results([60.0, None, None]).noise() is None


def test_the_table_shows_medians_ratios_and_the_rounds_that_agree() -> None:
    line = table(results())[-1].split()
    assert line[:2] == ["requests,", "1/s"]
    assert "41" in line
    assert line[-2:] == ["1.04", "(1/2)"]


def test_the_columns_of_the_table_are_aligned() -> None:
    head, _, row = table(results())
    assert head.index("hbone/envoy") + len("hbone/envoy") == len(row)


def with_target(target: float, better: Better = Better.HIGHER) -> Results:
    found = results()
    found.rows[0].figure = Figure(name="rate", label="requests", unit="1/s", better=better, target=target)
    return found


@pytest.mark.parametrize(
    ("target", "better", "missed"),
    [
        (40.0, Better.HIGHER, []),
        (41.5, Better.HIGHER, ["envoy"]),
        (41.0, Better.LOWER, ["direct", "hbone"]),
        (101.0, Better.LOWER, []),
    ],
)
def test_a_median_that_misses_its_target_is_named_below_the_table_and_in_json(
    target: float, better: Better, missed: list[str]
) -> None:
    found = with_target(target, better)
    assert found.rows[0].missed() == missed
    assert ("Target missed: keepalive32, requests, 1/s (at " in report(found)) is bool(missed)
    document = json.loads(json.dumps(found.as_json()))
    assert (document["figures"][0]["target"], document["figures"][0]["met"]) == (target, not missed)


def test_the_table_and_the_picture_name_the_target() -> None:
    found = with_target(10.0, Better.LOWER)
    assert "requests, 1/s (at most 10)" in table(found)[-1]
    assert "requests, 1/s (at most 10)" in picture(found)


def test_what_was_not_measured_is_said_under_the_table() -> None:
    found = results()
    found.absent.append("bulk1, because iperf3 is not installed; apt install iperf3")
    found.failures.append("keepalive32 on hbone: 3 of 10 requests failed")
    text = report(found)
    assert "Not measured: bulk1, because iperf3 is not installed; apt install iperf3." in text
    assert "Failed: keepalive32 on hbone: 3 of 10 requests failed" in text


def test_the_picture_is_well_formed_and_has_a_bar_for_each_candidate() -> None:
    root = ElementTree.fromstring(picture(results()))
    bars = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("rx")]
    lengths = [float(bar.get("width", "0")) for bar in bars]
    assert len(lengths) == 3
    assert lengths[0] == max(lengths)
    assert lengths[1] == pytest.approx(lengths[0] * 41 / 101, abs=0.1)


def test_kept_results_hold_samples_medians_ratios_versions_and_the_machine(tmp_path: Path) -> None:
    path, image = keep(results(), tmp_path)
    assert path.name == "2026-01-02-linux-x86_64-2cpu.json"
    assert image.exists()
    document = json.loads(path.read_text())
    assert document["machine"]["cores"] == 2
    assert document["versions"] == {"python": "3.11"}
    (figure,) = document["figures"]
    assert figure["samples"]["hbone"] == [44.0, None, 41.0]
    assert figure["median"]["envoy"] == 41.0
    assert figure["ratios"]["hbone/envoy"]["agree"] == 1


def test_an_older_result_of_the_same_day_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    first, _ = keep(results(), tmp_path)
    second, _ = keep(results(), tmp_path)
    assert first != second
    assert first.exists()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--results"):
        keep(results(), tmp_path / "file")


def test_this_machine_and_its_versions_are_described() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_mib > 0
    assert versions()["python"].startswith("3.")
