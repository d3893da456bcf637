"""When a worker's successor begins."""

import signal

import pytest

from hbone.app.workers.restarts import LAST_S, WORKED_S, Restarts, how_it_ended


def test_a_worker_that_fails_at_once_is_tried_again_after_pauses_that_double_up_to_half_a_minute() -> None:
    restarts = Restarts()
    pauses = [restarts.after(0.5) for _ in range(11)]
    assert pauses[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert pauses[-1] == LAST_S
    assert restarts.count == 11


def test_a_worker_that_had_worked_is_replaced_soon_however_often_it_failed_before() -> None:
    restarts = Restarts()
    for _ in range(8):
        restarts.after(0.5)
    assert restarts.after(WORKED_S) == pytest.approx(0.1)
    assert restarts.after(0.5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (2, "exit code 2"), (-signal.SIGKILL, "SIGKILL"), (-99, "signal 99")]
)
def test_an_exit_status_is_told_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words
