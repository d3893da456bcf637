"""Which certificate is asked for when, on a clock that the test moves."""

import random

import pytest

from hbone.ca.authority import CertificateAuthority
from hbone.control.credentials import Credentials
from hbone.control.renewals import MAX_CONCURRENT, Priority, Renewals, State
from hbone.errors import Unreachable
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from hbone.net.clock import new_key
from tests.support.controlplane import FakeClock, make_authority, spiffe

TTL_S = 3600.0
WEB = spiffe("shop", "web")
AWAY = Unreachable("the CA is away")


class Desk:
    """Renewals with a CA that issues on the same clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.renewals = Renewals(self.clock, random.Random(3))
        self.authority: CertificateAuthority = make_authority(self.clock)

    def issue(self, spiffe_id: SpiffeId, ttl_s: float = TTL_S) -> Credentials:
        key = new_key()
        issued = self.authority.issue(
            key.public_key(), spiffe_id, ttl_s=ttl_s, now=self.clock.wall(), serial=random.getrandbits(64)
        )
        return Credentials(svid=X509Svid.of(issued.chain, key), bundle=self.authority.bundle)

    def state(self, spiffe_id: SpiffeId = WEB) -> State:
        return next(view.state for view in self.renewals.views() if view.spiffe_id == spiffe_id)

    def given(self, spiffe_id: SpiffeId = WEB) -> Credentials:
        """An identity that has a certificate."""
        self.renewals.need(spiffe_id, Priority.REAL_TIME)
        assert spiffe_id in self.renewals.take_due()
        credentials = self.issue(spiffe_id)
        assert self.renewals.issued(spiffe_id, credentials)
        return credentials

    def wait_due(self) -> float:
        """Move on to the next moment when something is due; how long that took."""
        due = self.renewals.next_due()
        assert due is not None
        waited = due - self.clock.now()
        self.clock.advance(waited)
        return waited


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_needed_is_asked_for_at_once_and_once(desk: Desk) -> None:
    desk.renewals.need(WEB, Priority.REAL_TIME)
    assert desk.state() is State.INITIALISING
    assert desk.renewals.take_due() == [WEB]
    desk.renewals.need(WEB, Priority.REAL_TIME)
    assert desk.renewals.take_due() == []
    assert desk.renewals.credentials(WEB) is None


def test_a_certificate_is_renewed_half_way_through_its_life_give_or_take_five_percent(desk: Desk) -> None:
    desk.given()
    assert desk.state() is State.AVAILABLE
    assert desk.renewals.take_due() == []
    waited = desk.wait_due()
    assert 0.44 * TTL_S < waited < 0.56 * TTL_S
    assert desk.renewals.take_due() == [WEB]
    old = desk.renewals.credentials(WEB)
    assert desk.renewals.issued(WEB, desk.issue(WEB))
    new = desk.renewals.credentials(WEB)
    assert old is not None
    assert new is not None
    assert old.svid.serial != new.svid.serial


def test_a_fleet_does_not_renew_in_one_moment(desk: Desk) -> None:
    for n in range(50):
        desk.given(spiffe("shop", f"w{n}"))
    due = sorted(view.renewal_in_s for view in desk.renewals.views())
    assert due[-1] - due[0] > 0.05 * TTL_S


def test_the_old_certificate_serves_through_an_outage_until_its_very_end(desk: Desk) -> None:
    old = desk.given()
    desk.wait_due()
    while desk.clock.wall() < old.svid.not_after:
        assert desk.renewals.take_due() == [WEB]
        assert desk.renewals.credentials(WEB) is old
        assert desk.state() is State.AVAILABLE
        desk.renewals.failed(WEB, AWAY)
        desk.wait_due()
    assert desk.renewals.credentials(WEB) is None
    assert desk.state() is State.EXPIRED
    assert desk.renewals.views()[0].failing == "the CA is away"
    assert desk.renewals.take_due() == [WEB]  # asked again right at the end
    assert desk.renewals.issued(WEB, desk.issue(WEB))
    assert desk.state() is State.AVAILABLE
    assert desk.renewals.views()[0].failing == ""


def test_retries_wait_from_one_second_doubling_to_a_hundred_and_fifty(desk: Desk) -> None:
    desk.renewals.need(WEB, Priority.REAL_TIME)
    waits: list[float] = []
    for _ in range(12):
        assert desk.renewals.take_due() == [WEB]
        waits.append(desk.renewals.failed(WEB, AWAY))
        assert desk.state() is State.UNAVAILABLE
        assert desk.wait_due() == pytest.approx(waits[-1])
    for attempt, waited in enumerate(waits):
        middle = min(150, 2**attempt)
        assert 0.8 * middle <= waited <= min(150, 1.2 * middle)


def test_a_callers_need_does_not_shorten_the_wait_after_a_failure(desk: Desk) -> None:
    desk.renewals.need(WEB, Priority.REAL_TIME)
    desk.renewals.take_due()
    desk.renewals.failed(WEB, AWAY)
    desk.renewals.need(WEB, Priority.REAL_TIME)
    assert desk.renewals.take_due() == []


def test_a_machine_that_slept_past_the_end_asks_again_as_soon_as_it_is_needed(desk: Desk) -> None:
    desk.given()
    desk.clock.wall_at += 10 * TTL_S  # the steady clock stood still meanwhile
    assert desk.state() is State.EXPIRED
    assert desk.renewals.take_due() == []
    desk.renewals.need(WEB, Priority.REAL_TIME)
    assert desk.renewals.take_due() == [WEB]


def test_the_urgent_goes_first_and_at_most_eight_are_out(desk: Desk) -> None:
    for n in range(10):
        desk.renewals.need(spiffe("shop", f"warm{n}"), Priority.WARM_UP)
    desk.clock.advance(1)
    desk.renewals.need(WEB, Priority.REAL_TIME)
    taken = desk.renewals.take_due()
    assert len(taken) == MAX_CONCURRENT
    assert taken[0] == WEB
    assert desk.renewals.take_due() == []
    assert desk.renewals.next_due() is None
    desk.renewals.failed(taken[1], AWAY)
    assert len(desk.renewals.take_due()) == 1


def test_a_prefetched_identity_that_is_needed_now_is_moved_forward(desk: Desk) -> None:
    for n in range(20):
        desk.renewals.need(spiffe("shop", f"w{n:02}"), Priority.WARM_UP)
    last = spiffe("shop", "w19")
    desk.renewals.need(last, Priority.REAL_TIME)
    assert desk.renewals.take_due()[0] == last


def test_what_nobody_needs_any_more_is_neither_renewed_nor_kept(desk: Desk) -> None:
    desk.given()
    desk.renewals.forget(WEB)
    assert WEB not in desk.renewals
    assert desk.renewals.views() == ()
    assert desk.renewals.next_due() is None
    assert desk.renewals.failure(WEB) is None


def test_what_arrives_after_it_was_forgotten_is_thrown_away(desk: Desk) -> None:
    other = spiffe("shop", "other")
    for one in (WEB, other):
        desk.renewals.need(one, Priority.REAL_TIME)
    desk.renewals.take_due()
    desk.renewals.forget(WEB)
    desk.renewals.forget(other)
    assert not desk.renewals.issued(WEB, desk.issue(WEB))
    assert desk.renewals.failed(other, AWAY) == 0.0
    assert desk.renewals.credentials(WEB) is None


def test_a_certificate_that_is_nearly_over_when_it_comes_is_not_asked_for_in_a_loop(desk: Desk) -> None:
    desk.renewals.need(WEB, Priority.REAL_TIME)
    desk.renewals.take_due()
    desk.renewals.issued(WEB, desk.issue(WEB, ttl_s=1))
    assert desk.renewals.take_due() == []
    assert desk.wait_due() > 0.5


def test_a_certificate_for_a_minute_is_renewed_at_half_of_it(desk: Desk) -> None:
    desk.renewals.need(WEB, Priority.REAL_TIME)
    desk.renewals.take_due()
    desk.renewals.issued(WEB, desk.issue(WEB, ttl_s=60))
    assert 26 < desk.wait_due() < 34


def test_only_valid_credentials_are_handed_out(desk: Desk) -> None:
    desk.given()
    assert desk.renewals.credentials(WEB) is not None
    desk.clock.advance(TTL_S + 1)
    assert desk.renewals.credentials(WEB) is None


# while renewals fail


def fail_until(desk: Desk, spent: float) -> list[tuple[float, float]]:
    """Every renewal fails until so much of the certificate's life is over: the warnings, with when they came."""
    came: list[tuple[float, float]] = []
    began = desk.clock.wall()
    while desk.clock.wall() - began < spent * TTL_S:
        look = desk.renewals.next_look()
        assert look is not None
        desk.clock.advance(look - desk.clock.now())
        for spiffe_id in desk.renewals.take_due():
            desk.renewals.failed(spiffe_id, AWAY)
        came += [(one.threshold, (desk.clock.wall() - began) / TTL_S) for one in desk.renewals.warnings()]
    return came


def test_a_certificate_that_is_not_renewed_is_told_once_at_each_threshold(desk: Desk) -> None:
    desk.given()
    came = fail_until(desk, 1.5)
    assert [threshold for threshold, _ in came] == [0.5, 0.75, 0.9, 1.0]
    for threshold, at in came:
        assert threshold <= at < threshold + (0.06 if threshold == 0.5 else 0.001), "the first attempt has its jitter"


def test_a_threshold_that_passes_while_the_last_one_is_told_is_told_at_once(desk: Desk) -> None:
    desk.given()
    began = desk.clock.wall()
    assert [threshold for threshold, _ in fail_until(desk, 0.8)] == [0.5, 0.75]
    desk.clock.advance(began + 0.9 * TTL_S - desk.clock.wall() - 0.001)
    assert desk.renewals.warnings() == [], "a moment too early"
    assert desk.renewals.take_due() == [WEB], "an attempt is on its way: nothing else is due"
    desk.clock.advance(0.002)
    look = desk.renewals.next_look()
    assert look is not None
    assert look - desk.clock.now() < 0.01
    desk.clock.advance(0.01)
    assert [one.threshold for one in desk.renewals.warnings()] == [0.9]


def test_a_certificate_that_is_renewed_is_not_told(desk: Desk) -> None:
    desk.given()
    desk.wait_due()
    assert desk.renewals.take_due() == [WEB]
    desk.renewals.failed(WEB, AWAY)
    desk.renewals.warnings()
    desk.wait_due()
    while not desk.renewals.take_due():
        desk.wait_due()
    assert desk.renewals.issued(WEB, desk.issue(WEB))
    assert [threshold for threshold, _ in fail_until(desk, 0.8)] == [0.5, 0.75], "and the next one begins anew"


def test_a_certificate_is_in_danger_from_nine_tenths_of_its_life_on_if_it_is_not_renewed(desk: Desk) -> None:
    desk.given()
    fail_until(desk, 0.85)
    (view,) = desk.renewals.views()
    assert view.spent is not None
    assert (view.in_danger, view.spent < 0.9) == (False, True)
    fail_until(desk, 0.1)
    (view,) = desk.renewals.views()
    assert (view.in_danger, view.state) == (True, State.AVAILABLE)
