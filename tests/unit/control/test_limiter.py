"""One caller's share."""

from hbone.control.limiter import MAX_CALLERS, CallerLimits
from hbone.protocol.limits import Rate
from hbone.times import Instant


def at(seconds: float) -> Instant:
    return Instant(1000.0 + seconds)


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    limits = CallerLimits(Rate(burst=3, per_s=2))
    assert [limits.wait_s("a", at(0)) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limits.wait_s("a", at(0.25)) == 0.25
    assert limits.wait_s("a", at(0.5)) == 0
    assert [limits.wait_s("a", at(100)) for _ in range(4)] == [0, 0, 0, 0.5], "never more than the burst"


def test_one_callers_storm_is_nothing_to_another() -> None:
    limits = CallerLimits(Rate(burst=1, per_s=1))
    assert [limits.wait_s("a", at(0)) > 0 for _ in range(100)].count(True) == 99
    assert limits.wait_s(0, at(0)) == 0


def test_a_rate_of_nothing_is_never_refilled() -> None:
    limits = CallerLimits(Rate(burst=1, per_s=0))
    assert limits.wait_s("a", at(0)) == 0
    assert limits.wait_s("a", at(1e9)) == float("inf")


def test_who_has_not_called_for_longest_is_forgotten_first() -> None:
    limits = CallerLimits(Rate(burst=1, per_s=0.001))
    limits.wait_s("first", at(0))
    for number in range(MAX_CALLERS - 1):
        limits.wait_s(number, at(1))
    assert limits.wait_s("first", at(2)) > 0, "still known"
    limits.wait_s("one more", at(3))
    assert limits.wait_s("first", at(4)) > 0
    assert limits.wait_s(0, at(5)) == 0, "forgotten"
