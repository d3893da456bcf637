"""Log level specifications."""

import pytest

from hbone.config.levels import InvalidLevel, LevelSpec, logger_name, parse_levels


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("info", LevelSpec(default=20)),
        ("", LevelSpec(default=20)),
        ("WARN", LevelSpec(default=30)),
        ("off", LevelSpec(default=100)),
        ("info,debug", LevelSpec(default=10)),
        ("proxy=trace", LevelSpec(default=20, targets=(("hbone.proxy", 5),))),
        ("error, access=off", LevelSpec(default=40, targets=(("access", 100),))),
        ("ztunnel::proxy=debug,ztunnel=warn", LevelSpec(default=20, targets=(("hbone.proxy", 10), ("hbone", 30)))),
    ],
)
def test_a_level_may_differ_for_parts(text: str, spec: LevelSpec) -> None:
    assert parse_levels(text) == spec


@pytest.mark.parametrize("wrong", ["loud", "proxy=", "=debug", "a b=info", "proxy[x]=info"])
def test_what_is_no_level_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidLevel) as caught:
        parse_levels(wrong)
    assert "TARGET=LEVEL" in caught.value.fix


def test_a_target_is_a_module_below_hbone() -> None:
    assert logger_name("hbone.net") == "hbone.net"
    assert logger_name("proxy.inbound") == "hbone.proxy.inbound"
