"""Settings as a file that could be loaded again, each with its meaning and where its value came from."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, cast

from hbone.config.catalogue import section_of
from hbone.config.fields import Settings
from hbone.config.load import Loaded
from hbone.config.units import format_duration, format_size

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./+-]*")
_NOT_PLAIN: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"})
_WIDTH: Final = 110


def show(loaded: Loaded[Any]) -> str:
    """YAML text: every setting with its value, its meaning above it and its origin behind it."""
    return "\n".join(_section(loaded, loaded.settings, ())).strip() + "\n"


def _section(loaded: Loaded[Any], settings: Settings, above: tuple[str, ...]) -> Iterator[str]:
    indent = "  " * len(above)
    dumped = settings.model_dump(mode="json")
    for name, info in type(settings).model_fields.items():
        for line in textwrap.wrap(info.description or "", _WIDTH - len(indent)):
            yield f"{indent}# {line}"
        if section_of(info) is not None:
            yield f"{indent}{name}:"
            yield from _section(loaded, getattr(settings, name), (*above, name))
            yield ""
            continue
        origin = loaded.origin(".".join((*above, name)))
        yield from _value(f"{indent}{name}:", dumped[name], f"  # {origin}", name)
        if not above:
            yield ""


def _value(head: str, value: object, comment: str, name: str) -> Iterator[str]:
    indent = head[: len(head) - len(head.lstrip())]
    if isinstance(value, list):
        items = cast("list[dict[str, Any] | str]", value)
        yield f"{head}{comment}" if value else f"{head} []{comment}"
        for item in items:
            if isinstance(item, str):
                yield f"{indent}  - {scalar(item, name)}"
                continue
            for index, (key, inner) in enumerate(_given(item)):
                yield f"{indent}{'  - ' if index == 0 else '    '}{key}: {scalar(inner, key)}"
        return
    # Nothing chosen and no word for it: the line is there to be filled in.
    if value is None and not name.endswith("_s"):
        yield f"{indent}# {head.strip()}{comment}"
    else:
        yield f"{head} {scalar(value, name)}{comment}"


def _given(item: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in item.items() if value is not None]


def scalar(value: Any, name: str) -> str:
    """One value in YAML, in the unit that the setting's name ends with."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float() | int() if name.endswith("_s"):
            # Milliseconds are as fine as the text gets; a finer value stays a number.
            text = format_duration(value)
            return text if abs(round(value * 1000) - value * 1000) < 1e-6 else repr(value)
        case int() if "_bytes" in name:
            return format_size(value)
        case str() if _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
            return value
        case str() | list() | dict():  # YAML takes JSON as it is
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
