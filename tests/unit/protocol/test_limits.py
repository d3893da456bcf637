"""Rates: token buckets with the time handed in."""

import re
from dataclasses import fields, replace

import pytest

from hbone.errors import UsageError
from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.limits import Limits, Rate
from hbone.protocol.meters import Meters
from hbone.times import Instant


def spend(meters: Meters, name: str, times: int, now: float) -> None:
    for _ in range(times):
        meters.count(name, Instant(now))


def test_a_burst_passes_and_one_more_does_not() -> None:
    meters = Meters(Limits(pings=Rate(burst=3, per_s=1)))
    spend(meters, "pings", 3, 10.0)
    with pytest.raises(ConnectionViolation, match="too many PING frames: over 3 at once and 1 a second") as caught:
        meters.count("pings", Instant(10.5))
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_time_gives_tokens_back_up_to_the_burst() -> None:
    meters = Meters(Limits(pings=Rate(burst=3, per_s=1)))
    spend(meters, "pings", 3, 10.0)
    spend(meters, "pings", 2, 12.0)
    spend(meters, "pings", 3, 1000.0)
    with pytest.raises(ConnectionViolation):
        meters.count("pings", Instant(1000.0))


def test_each_kind_has_its_own_bucket() -> None:
    meters = Meters(Limits(pings=Rate(burst=1, per_s=0), settings=Rate(burst=1, per_s=0)))
    spend(meters, "pings", 1, 0)
    spend(meters, "settings", 1, 0)


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Limits) if isinstance(getattr(Limits(), field.name), Rate)]
)
def test_every_rate_can_be_counted_and_named(name: str) -> None:
    meters = Meters(replace(Limits(), **{name: Rate(burst=1, per_s=0)}))  # type: ignore[arg-type] # by name
    meters.count(name, Instant(0))
    with pytest.raises(ConnectionViolation, match=r"too many [A-Za-z]"):
        meters.count(name, Instant(0))


def test_every_limit_says_what_it_guards_against() -> None:
    told = set(re.findall(r"- `(\w+)`", Limits.__doc__ or "")) | set(
        re.findall(r"`(\w+)`, `(\w+)`", Limits.__doc__ or "")
    )
    names = {name for item in told for name in ((item,) if isinstance(item, str) else item)}
    assert {field.name for field in fields(Limits)} <= names


@pytest.mark.parametrize(("burst", "per_s"), [(0, 1), (1, -1)])
def test_a_rate_that_lets_nothing_through_is_refused(burst: int, per_s: float) -> None:
    with pytest.raises(UsageError):
        Rate(burst=burst, per_s=per_s)
