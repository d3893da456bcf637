"""Merging log levels."""

import pytest

from hbone.admin.levels import MAX_TARGETS, merged
from hbone.config.levels import InvalidLevel, parse_levels


@pytest.mark.parametrize(
    ("current", "change", "after"),
    [
        ("info", "debug", "debug"),
        ("info,proxy=debug", "hbone.proxy=WARN", "info,proxy=warn"),
        ("proxy=debug", "net=trace", "info,proxy=debug,net=trace"),
        ("info", " , debug , ", "debug"),
        ("info", "hbone=debug", "info,hbone=debug"),
    ],
)
def test_a_change_is_put_over_what_is_in_force(current: str, change: str, after: str) -> None:
    assert merged(current, change) == after
    parse_levels(after)


def test_the_same_change_again_adds_nothing() -> None:
    once = merged("info", "proxy=debug,access=off")
    assert merged(once, "proxy=debug,access=off") == once


def test_targets_do_not_grow_without_bound() -> None:
    many = ",".join(f"t{n}=debug" for n in range(MAX_TARGETS))
    levels = merged("info", many)
    assert merged(levels, "t0=warn").count("=") == MAX_TARGETS
    with pytest.raises(InvalidLevel, match="the limit is 64; reset them first"):
        merged(levels, "one_more=debug")


@pytest.mark.parametrize("change", ["", " ", ",", "loud", "a b=debug"])
def test_what_is_no_level_is_refused(change: str) -> None:
    with pytest.raises(InvalidLevel):
        merged("info", change)
