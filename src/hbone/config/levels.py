"""Log level specifications: `info`, `warn,proxy=debug,access=off` (the syntax of RUST_LOG, as far as ztunnel's goes).

A target is a module below `hbone` ("proxy", "proxy.inbound", or spelled `ztunnel::proxy`); `access` is the
access log. The most specific target that fits wins.
"""

import re
from typing import Final

from hbone.errors import UsageError
from hbone.values import dataclass

LEVELS: Final = {"off": 100, "error": 40, "warn": 30, "warning": 30, "info": 20, "debug": 10, "trace": 5}
"""Name → number of the standard library's logging."""
_TARGET = re.compile(r"[A-Za-z0-9_]+(?:(?:\.|::)[A-Za-z0-9_]+)*")
ROOT: Final = "hbone"


class InvalidLevel(UsageError):
    """Text that is not a log level specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpec:
    """`default` for everything, and per logger name ("hbone.proxy", "access") what differs."""

    default: int
    targets: tuple[tuple[str, int], ...] = ()


def parse_levels(text: str) -> LevelSpec:
    """A specification; later items win. Raises InvalidLevel."""
    default = LEVELS["info"]
    targets: dict[str, int] = {}
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        target, equals, level = item.rpartition("=")
        number = LEVELS.get(level.lower())
        if number is None or (equals and not _TARGET.fullmatch(target)):
            raise InvalidLevel(
                f"{item[:80]!r} is not a log level",
                fix="write off, error, warn, info, debug or trace, or TARGET=LEVEL, separated by commas",
                text=text,
            )
        if equals:
            targets[logger_name(target)] = number
        else:
            default = number
    return LevelSpec(default=default, targets=tuple(targets.items()))


def check_levels(text: str) -> None:
    """Raises InvalidLevel unless `text` is a specification."""
    parse_levels(text)


def logger_name(target: str) -> str:
    """`proxy`, `ztunnel::proxy` and `hbone.proxy` are all the logger "hbone.proxy"; names outside stay."""
    name = target.replace("::", ".")
    if name in {"access", ROOT} or name.startswith(f"{ROOT}."):
        return name
    if name == "ztunnel":
        return ROOT
    return f"{ROOT}.{name.removeprefix('ztunnel.')}"
