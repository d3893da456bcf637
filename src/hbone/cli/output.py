"""How commands show things: aligned tables for people, JSON and YAML for machines.

Colour only on a terminal, and never with NO_COLOR set or TERM=dumb. On a terminal a table is made to fit its width by
cutting its widest columns; into a pipe nothing is ever cut.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Literal, TextIO, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Format = Literal["table", "json", "yaml"]
_GAP: Final = "  "
_NARROWEST: Final = 8


class Style(Enum):
    """What a text means; the value is its SGR code."""

    GOOD = "32"
    WARNING = "33"
    BAD = "31"
    STRONG = "1"
    FAINT = "2"


def styled(text: str, style: Style, stream: TextIO) -> str:
    """`text` in the colour of `style` where `stream` shows colours."""
    return f"\x1b[{style.value}m{text}\x1b[0m" if shows_colour(stream) else text


def shows_colour(stream: TextIO) -> bool:
    """https://no-color.org: any value of NO_COLOR but the empty one turns colour off."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def output_option(command: Command) -> Command:
    """Adds `-o/--output table|json|yaml`; the command gets it as `output`."""
    option = click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How to print.",
    )
    return option(command)


def emit(output: Format, value: Any, table: Callable[[], str]) -> None:
    """Print `value` (JSON-shaped) for a machine, or `table()` for people."""
    match output:
        case "json":
            click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        case "yaml":
            import yaml

            click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False)
        case "table":
            click.echo(table())


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "none", room: int | None = None
) -> str:
    """Aligned columns under a heading; numbers to the right. None is shown as "-", no rows as `empty`.

    `room` is the width to fit into; by default that of the terminal, and none in a pipe.
    """
    if not rows:
        return empty
    cells = [[_cell(value) for value in row] for row in rows]
    right = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
    widths = [max(len(columns[i]), *(len(row[i]) for row in cells)) for i in range(len(columns))]
    room = room or terminal_width(sys.stdout)
    if room is not None:
        widths = fit(widths, room - len(_GAP) * (len(columns) - 1))
    heading = _row([name.upper() for name in columns], widths, right)
    lines = [styled(heading, Style.STRONG, sys.stdout), *(_row(row, widths, right) for row in cells)]
    return "\n".join(lines)


def fit(widths: list[int], room: int) -> list[int]:
    """Column widths that add up to `room` at most: the widest give way first, none below 8."""
    widths = list(widths)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal behind `stream`; None when there is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def duration(seconds: float) -> str:
    """For people, two units at most: 14ms, 3.2s, 5m30s, 3h12m, 2d4h."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.001 or seconds == 0 else "<1ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for big, small, big_s, small_s in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= big_s:
            count, left = divmod(whole, big_s)
            return f"{count}{big}{left // small_s}{small}" if left >= small_s else f"{count}{big}"
    return f"{whole}s"


def size(count: float) -> str:
    """For people: 512 B, 1.5 KiB, 20 MiB."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 999.5 or unit == "GiB":
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    raise AssertionError


def _cell(value: object) -> str:
    from hbone.cli.failures import printable

    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple() | list():
            return ",".join(_cell(item) for item in cast("Sequence[object]", value)) or "-"
        case _:
            return printable(str(value)).replace("\n", " ")


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    shown: list[str] = []
    for cell, width, to_the_right in zip(cells, widths, right, strict=True):
        text = cell if len(cell) <= width else f"{cell[: width - 1]}…"
        shown.append(text.rjust(width) if to_the_right else text.ljust(width))
    return _GAP.join(shown).rstrip()
