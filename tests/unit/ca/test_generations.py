"""The ways of an authority from prepared to retired."""

import random
from collections.abc import Callable

import pytest

from hbone.ca.authority import AuthorityEnded, CaKeys, CannotRenew, CertificateAuthority, Lifetimes
from hbone.ca.generations import (
    Generation,
    Generations,
    Phase,
    State,
    Surroundings,
    WrongPhase,
    waits_for,
)
from hbone.identity.spiffe import TrustDomain
from hbone.times import WallTime
from tests.support.pki import new_key

DOMAIN = TrustDomain("cluster.local")
NOW = WallTime(1_800_000_000)
RNG = random.Random(7)


def authority(**lifetimes: float) -> CertificateAuthority:
    keys = CaKeys(root=new_key(), intermediate=new_key())
    return CertificateAuthority.create(DOMAIN, keys, now=NOW, rng=RNG, lifetimes=Lifetimes(**lifetimes))


OLD, NEW = authority(), authority()


def generation(number: int, of: CertificateAuthority, state: State = State.PREPARED, at: float = 0.0) -> Generation:
    return Generation(number=number, authority=of, state=state, since=WallTime(NOW + at))


START = Generations.of([generation(1, OLD, State.ACTIVE)])
PREPARED = START.prepare(generation(2, NEW))
PUBLISHED = PREPARED.publish(NOW)
ACTIVATED = PUBLISHED.activate(NOW)
RETIRED = ACTIVATED.retire(NOW)


def states(generations: Generations) -> dict[int, str]:
    return {number: one.state.value for number, one in generations.by_number.items()}


ROTATION = [
    (START, Phase.NONE, {1: "active"}, OLD, (OLD,)),
    (PREPARED, Phase.PREPARED, {1: "active", 2: "prepared"}, OLD, (OLD,)),
    (PUBLISHED, Phase.PUBLISHED, {1: "active", 2: "published"}, OLD, (OLD, NEW)),
    (ACTIVATED, Phase.ACTIVATED, {1: "retiring", 2: "active"}, NEW, (NEW, OLD)),
    (RETIRED, Phase.NONE, {1: "retired", 2: "active"}, NEW, (NEW,)),
]


@pytest.mark.parametrize(("generations", "phase", "expected", "signs", "trusted"), ROTATION)
def test_a_rotation_adds_a_root_then_signs_with_it_then_takes_the_old_one_out(
    generations: Generations,
    phase: Phase,
    expected: dict[int, str],
    signs: CertificateAuthority,
    trusted: tuple[CertificateAuthority, ...],
) -> None:
    assert generations.phase is phase
    assert states(generations) == expected
    assert generations.active.authority is signs
    assert generations.roots == tuple(one.roots[0] for one in trusted)
    assert generations.bundle.roots == {DOMAIN: generations.roots}
    assert set(generations.trusted_chains) == {one.signer for one in trusted}


@pytest.mark.parametrize(
    ("generations", "before"), [(ACTIVATED, PUBLISHED), (PUBLISHED, PREPARED), (ACTIVATED.back(NOW), PUBLISHED)]
)
def test_a_step_back_restores_the_state_before(generations: Generations, before: Generations) -> None:
    if generations == before:
        return
    assert states(generations.back(NOW)) == states(before)
    assert generations.back(NOW).roots == before.roots


def test_a_prepared_authority_that_is_taken_back_is_never_used_again() -> None:
    assert states(PREPARED.back(NOW)) == {1: "active", 2: "retired"}
    assert PREPARED.back(NOW).phase is Phase.NONE


def test_there_is_no_way_back_after_the_end_or_to_an_authority_that_has_ended() -> None:
    with pytest.raises(WrongPhase, match="no rotation is under way"):
        RETIRED.back(NOW)
    with pytest.raises(WrongPhase, match="the former authority has ended"):
        ACTIVATED.back(WallTime(NOW + 20 * 365 * 86400))


STEPS: list[tuple[Generations, Callable[[Generations], object]]] = [
    (START, lambda all_: all_.publish(NOW)),
    (START, lambda all_: all_.activate(NOW)),
    (START, lambda all_: all_.retire(NOW)),
    (PREPARED, lambda all_: all_.activate(NOW)),
    (PREPARED, lambda all_: all_.prepare(generation(3, NEW))),
    (PUBLISHED, lambda all_: all_.retire(NOW)),
    (PUBLISHED, lambda all_: all_.with_intermediate(generation(3, NEW))),
    (ACTIVATED, lambda all_: all_.publish(NOW)),
]


@pytest.mark.parametrize(("generations", "step"), STEPS)
def test_a_step_that_does_not_follow_is_refused(
    generations: Generations, step: Callable[[Generations], object]
) -> None:
    with pytest.raises(WrongPhase):
        step(generations)


def test_a_new_intermediate_leaves_the_roots_as_they_are_and_goes_with_its_root() -> None:
    renewed = OLD.with_intermediate(new_key(), now=NOW, rng=RNG)
    two = START.with_intermediate(generation(2, renewed))
    assert states(two) == {1: "replaced", 2: "active"}
    assert two.roots == START.roots
    assert set(two.trusted_chains) == {OLD.signer, renewed.signer}
    rotated = two.prepare(generation(3, NEW)).publish(NOW).activate(NOW).retire(NOW)
    assert states(rotated) == {1: "retired", 2: "retired", 3: "active"}
    assert rotated.trusted_chains == (NEW.signer,)


def test_recovery_trusts_no_root_that_has_ended_and_keeps_the_others_for_a_while() -> None:
    later = NOW + 3600.0
    ended = Generations.of([generation(1, authority(root_s=60), State.ACTIVE)])
    alive = Generations.of([generation(1, authority(intermediate_s=60), State.ACTIVE)])
    new = generation(2, NEW, at=3600.0)
    assert states(ended.recover(new)) == {1: "retired", 2: "active"}
    assert states(alive.recover(new)) == {1: "retiring", 2: "active"}
    assert alive.recover(new).back(NOW).phase is Phase.PUBLISHED
    with pytest.raises(WrongPhase):
        alive.recover(new).back(WallTime(later))


def test_a_plugged_in_authority_alone_says_what_is_trusted() -> None:
    plugged = ACTIVATED.plug(generation(3, authority()))
    assert states(plugged) == {1: "retired", 2: "retired", 3: "active"}


WAITING = [
    (Phase.NONE, Surroundings(laggards=("a",), old_leaves=1), ()),
    (Phase.PREPARED, Surroundings(laggards=("a",)), ()),
    (Phase.PUBLISHED, Surroundings(), ()),
    (Phase.PUBLISHED, Surroundings(laggards=("node a",)), ("node a has not acknowledged the new root",)),
    (Phase.PUBLISHED, Surroundings(old_leaves=9), ()),
    (
        Phase.PUBLISHED,
        Surroundings(unannounced_s=899.6),
        ("other trust domains have not had the time to see it (900 s more)",),
    ),
    (Phase.ACTIVATED, Surroundings(), ()),
    (Phase.ACTIVATED, Surroundings(old_leaves=2), ("2 certificates of the old root still in use",)),
    (Phase.ACTIVATED, Surroundings(laggards=("b",)), ("b has not acknowledged the change",)),
]


@pytest.mark.parametrize(("phase", "around", "reasons"), WAITING)
def test_what_a_step_waits_for(phase: Phase, around: Surroundings, reasons: tuple[str, ...]) -> None:
    assert waits_for(phase, around) == reasons


def test_clients_that_learn_of_roots_late_are_waited_for() -> None:
    (reason,) = waits_for(Phase.PUBLISHED, Surroundings(unaware=1))
    assert reason == "1 certificate of clients that learn of roots when they renew"


def test_only_who_has_the_roots_key_makes_intermediates_and_only_while_it_lasts() -> None:
    from dataclasses import replace

    with pytest.raises(CannotRenew, match="not in this CA's hands"):
        replace(OLD, root_key=None).with_intermediate(new_key(), now=NOW, rng=RNG)
    with pytest.raises(AuthorityEnded, match="--recover"):
        authority(root_s=60).with_intermediate(new_key(), now=WallTime(NOW + 3600), rng=RNG)
    renewed = OLD.with_intermediate(new_key(), now=NOW, rng=RNG, ttl_s=3600.0)
    assert renewed.not_after == NOW + 3600
    assert renewed.own_root == OLD.roots[0]
    assert replace(renewed, root_key=None).own_root == OLD.roots[0]
