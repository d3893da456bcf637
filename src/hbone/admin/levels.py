"""Log levels changed while the process runs: a change is merged into what is in force."""

from typing import Final

from hbone.config.levels import ROOT, InvalidLevel, logger_name, parse_levels

MAX_TARGETS: Final = 64  # the logging module never forgets a logger: what can be named is bounded


def merged(current: str, change: str) -> str:
    """`current` with what `change` says put over it, each target once; raises InvalidLevel."""
    if not change.strip(" ,"):
        raise InvalidLevel("no log level is given", fix="write one, for example debug or proxy=debug", text=change)
    parse_levels(change)
    default = "info"
    targets: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in f"{current},{change}".split(","))):
        target, equals, level = item.rpartition("=")
        if equals:
            targets[logger_name(target).removeprefix(f"{ROOT}.")] = level.lower()
        else:
            default = level.lower()
    if len(targets) > MAX_TARGETS:
        raise InvalidLevel(
            f"levels for {len(targets)} targets; the limit is {MAX_TARGETS}", fix="reset them first", text=change
        )
    return ",".join((default, *(f"{target}={level}" for target, level in targets.items())))
