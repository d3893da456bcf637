"""Medians, spreads and ratios."""

import pytest

from hbone.bench.statistics import Better, ratio, summary


def test_a_failed_sample_drops_out_of_the_median() -> None:
    seen = summary([3.0, None, 1.0, 2.0])
    assert seen is not None
    assert (seen.median, seen.spread, seen.count) == (2.0, 1.0, 3)


@pytest.mark.parametrize("samples", [[], [None, None]])
def test_nothing_measured_has_no_summary(samples: list[float | None]) -> None:
    assert summary(samples) is None


def test_a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    seen = ratio([10.0, 20.0, 90.0], [10.0, 10.0, 100.0], Better.HIGHER)
    assert seen is not None
    assert seen.per_round == (1.0, 2.0, 0.9)
    assert seen.median == 1.0
    assert (seen.agree, seen.rounds) == (2, 3)


def test_rounds_agree_downward_where_lower_is_better() -> None:
    seen = ratio([1.0, 3.0], [2.0, 2.0], Better.LOWER)
    assert seen is not None
    assert (seen.agree, seen.rounds) == (1, 2)


def test_a_round_that_lacks_either_side_does_not_count() -> None:
    seen = ratio([1.0, None, 4.0], [1.0, 2.0, None], Better.HIGHER)
    assert seen is not None
    assert seen.rounds == 1


def test_no_common_round_gives_no_ratio() -> None:
    assert ratio([None], [1.0], Better.HIGHER) is None
    assert ratio([1.0], [0.0], Better.HIGHER) is None
