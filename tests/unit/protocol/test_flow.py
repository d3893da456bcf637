"""Flow-control arithmetic: RFC 9113 §6.9."""

import pytest

from hbone.protocol.flow import MAX_WINDOW, connection_low_mark, stream_credit, widened


@pytest.mark.parametrize(("consumed", "window", "credit"), [(49, 100, 0), (50, 100, 50), (100, 100, 100), (1, 1, 1)])
def test_a_streams_credit_waits_for_half_a_window(consumed: int, window: int, credit: int) -> None:
    assert stream_credit(consumed, window) == credit


def test_the_connections_credit_is_due_when_a_quarter_of_the_window_was_used() -> None:
    assert connection_low_mark(1000) == 750


@pytest.mark.parametrize(
    ("window", "increment", "wider"),
    [(0, 1, 1), (-5, 3, -2), (10, -20, -10), (MAX_WINDOW - 1, 1, MAX_WINDOW), (MAX_WINDOW, 1, None)],
)
def test_a_window_may_be_negative_and_never_passes_its_maximum(window: int, increment: int, wider: int | None) -> None:
    assert widened(window, increment) == wider  # §6.9.1, §6.9.2
