"""When certificates are renewed."""

import random

import pytest

from hbone.identity.rotation import MAX_RETRY_S, has_ended, renew_at, retry_after
from hbone.times import WallTime
from tests.support.pki import SpiffeCA

SVID = SpiffeCA().svid("spiffe://a.test/x", begins_h=-4, ends_h=20)
BEGIN, DAY_S = SVID.not_before, 86400.0


@pytest.mark.parametrize(("jitter", "hours"), [(0.0, 12.0), (1.0, 13.2), (-1.0, 10.8)])
def test_renewal_is_due_at_half_life_moved_by_the_jitter(jitter: float, hours: float) -> None:
    assert renew_at(SVID, jitter, came=BEGIN) - BEGIN == pytest.approx(hours * 3600, abs=2)


def test_life_begins_when_a_certificate_came_not_at_its_backdated_beginning() -> None:
    """A minute's certificate begins two minutes before it is issued: half-way between its dates is in the past."""
    short = SpiffeCA().svid("spiffe://a.test/x", begins_h=-2 / 60, ends_h=1 / 60)
    came = WallTime(short.not_after - 60)
    assert renew_at(short, 0.0, came=came) - came == pytest.approx(30)


def test_retries_double_from_one_second_to_the_ceiling() -> None:
    rng = random.Random(1)
    for attempt, base in enumerate([1, 2, 4, 8, 16, 32, 64, 128, 150, 150]):
        for _ in range(50):
            wait = retry_after(attempt, rng)
            assert 0.8 * base <= wait <= min(1.2 * base, MAX_RETRY_S)


def test_retries_stay_bounded_however_long_the_ca_is_away() -> None:
    assert retry_after(10**9, random.Random(1)) <= MAX_RETRY_S


def test_two_nodes_do_not_retry_in_step() -> None:
    rng = random.Random(1)
    assert retry_after(3, rng) != retry_after(3, rng)


def test_a_certificate_has_ended_at_its_last_second() -> None:
    assert not has_ended(SVID, WallTime(SVID.not_after - 1))
    assert has_ended(SVID, SVID.not_after)
