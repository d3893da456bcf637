"""Durations, sizes and rates as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.config.units import (
    InvalidQuantity,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from hbone.protocol.limits import Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5), (0.25, 0.25), ("5", 5), ("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172_800)],
)
def test_a_duration_is_a_number_of_seconds_or_text_with_units(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("wrong", [-1, "-1s", "5 min", "", "s", "1y", True, None, float("nan"), float("inf"), [5]])
def test_what_is_no_duration_is_refused_with_the_forms_that_are(wrong: object) -> None:
    with pytest.raises(InvalidQuantity) as caught:
        parse_duration(wrong)
    assert "250ms" in caught.value.fix


@pytest.mark.parametrize(("text", "size"), [(7, 7), ("7", 7), ("64KiB", 65_536), ("4MiB", 4 << 20), ("1 KB", 1000)])
def test_a_size_is_a_number_of_bytes_or_text_with_units(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("wrong", [-1, 1.5, "1.5B", "4 mib", "", True, None])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidQuantity):
        parse_size(wrong)


@given(st.integers(0, 10**12))
def test_a_duration_to_the_millisecond_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 1 << 50))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 10**8), st.integers(0, 10**6))
def test_a_rate_survives_being_written(burst: int, per_s: int) -> None:
    rate = Rate(burst=burst, per_s=float(per_s))
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize("wrong", ["50", "50/s", "50/s burst 0", "-1/s burst 5", 50])
def test_what_is_no_rate_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidQuantity):
        parse_rate(wrong)
