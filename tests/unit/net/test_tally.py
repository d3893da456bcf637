"""Who is to have the next connection: by numbers that all workers see."""

import pytest

from hbone.net.tally import AWAY, Allowance, Load, Tally, slack, tally_bytes
from hbone.times import Instant


def tally(*counts: int, load: Load = Load.TUNNELS) -> Tally:
    made = Tally(memoryview(bytearray(tally_bytes(len(counts)))), len(counts))
    for worker, count in enumerate(counts, 1):
        made.hold(load, worker, count)
    return made


@pytest.mark.parametrize(
    ("counts", "own", "heir"),
    [
        ((0, 0), 1, None),
        ((1, 1), 2, None),
        ((1, 0), 1, 2),
        ((0, 1), 1, None),
        ((5, 4), 1, 2),
        ((2, 0, 0), 1, 2),
        ((0, 2, 0), 2, 3),  # of equals the first one after us, not the first of all
        ((0, 0, 2), 3, 1),
        ((3, 1, 2), 1, 2),
        ((1, AWAY), 1, None),
        ((1, AWAY, 0), 1, 3),
    ],
)
def test_a_tunnel_goes_to_whoever_has_fewest(counts: tuple[int, ...], own: int, heir: int | None) -> None:
    assert tally(*counts).heir(Load.TUNNELS, own) == heir


@pytest.mark.parametrize(
    ("counts", "heir"),
    [((1, 0), None), ((2, 0), 2), ((4, 2), 2), ((16, 14), None), ((16, 13), None), ((16, 12), 2), ((800, 700), None)],
)
def test_a_connection_stays_while_the_difference_is_small(counts: tuple[int, ...], heir: int | None) -> None:
    assert tally(*counts, load=Load.CONNECTIONS).heir(Load.CONNECTIONS, 1) == heir


def test_tunnels_and_connections_are_counted_apart() -> None:
    both = tally(3, 0, load=Load.TUNNELS)
    assert (both.heir(Load.TUNNELS, 1), both.heir(Load.CONNECTIONS, 1)) == (2, None)


def test_what_is_given_counts_before_it_is_taken() -> None:
    """So that a burst does not all go to the same."""
    counts = tally(8, 0, 0)
    given: list[int] = []
    for _ in range(6):
        heir = counts.heir(Load.TUNNELS, 1)
        assert heir is not None
        counts.give(Load.TUNNELS, heir)
        given.append(heir)
    assert given == [2, 3, 2, 3, 2, 3]


def test_a_worker_that_left_takes_nothing_until_it_begins() -> None:
    counts = tally(1, 0)
    counts.leave(2)
    assert counts.heir(Load.TUNNELS, 1) is None
    counts.begin(2)
    assert counts.heir(Load.TUNNELS, 1) == 2


def test_its_memory_can_be_given_back() -> None:
    memory = bytearray(tally_bytes(3))
    view = memoryview(memory)
    made = Tally(view, 3)
    made.release()
    made.release()
    view.release()
    memory.append(0)  # would fail while somebody looks at it


def test_few_connections_are_handed_on_at_once_and_then_some_each_second() -> None:
    allowance = Allowance(Instant(10.0))
    assert all(allowance.spend(Instant(10.0)) for _ in range(Allowance.AT_ONCE))
    assert not allowance.spend(Instant(10.0))
    assert allowance.spend(Instant(10.0 + 1.1 / Allowance.PER_S))
    assert not allowance.spend(Instant(10.0 + 1.1 / Allowance.PER_S))
    taken = sum(allowance.spend(Instant(20.0)) for _ in range(1000))
    assert taken == Allowance.AT_ONCE  # what was not used does not add up


def test_the_slack_grows_with_what_a_worker_has_but_not_for_tunnels() -> None:
    assert [slack(Load.CONNECTIONS, count) for count in (0, 8, 80)] == [1, 2, 11]
    assert slack(Load.TUNNELS, 1000) == 0
