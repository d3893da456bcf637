"""`hbone get`: what a running node or control plane holds, asked of its admin listener."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from hbone.admin.listings import LISTINGS, Column, Form, Listing
from hbone.cli.arguments import PATH
from hbone.cli.output import Format, duration, emit, output_option, size, table
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.admin.client import Place

Row = Mapping[str, Any]
CONFIG: Final = "config"
WATCH_S: Final = 2.0
_LISTINGS: Final = {listing.name: listing for listing in LISTINGS}


def _help() -> str:
    """The list of what there is, from the table of listings."""
    rows = [*((listing.name, listing.help) for listing in LISTINGS), (CONFIG, "everything in one document (YAML)")]
    return "\b\n" + "\n".join(f"  {name.ljust(13)} {text}" for name, text in rows)


class _Known(click.Choice[str]):
    """One of the choices, or as much of it as tells it from the others: `workload`, `conn`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = [str(choice) for choice in self.choices]
        fitting = [choice for choice in known if choice.startswith(str(value))]
        if value in known or len(fitting) == 1:
            return super().convert(value if value in known else fitting[0], param, ctx)
        from difflib import get_close_matches

        near = fitting or get_close_matches(str(value), known, n=1, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise click.BadParameter(f"{value!r} is not one of {', '.join(known)}{hint}", ctx, param)


@click.command(epilog=_help())
@click.argument("what", type=_Known([*_LISTINGS, CONFIG]), metavar="WHAT")
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Only of this namespace.")
@click.option("--node", metavar="ADDR:PORT|unix:PATH", help="Admin listener to ask.  [default: 127.0.0.1:15000]")
@click.option("--state-dir", type=PATH, help="Ask the `hbone up` with this state directory.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@output_option
def get(
    *,
    what: str,
    name: str | None,
    namespace: str | None,
    node: str | None,
    state_dir: Path | None,
    watch: bool,
    output: Format,
) -> None:
    """What a running node holds.

    WHAT is one of those below; NAME keeps only what has this text in its name, address or identity. The answer comes
    from the node on 127.0.0.1:15000, else from a running `hbone up`, unless --node or --state-dir names another.
    """
    places = _places(node, state_dir)
    wanted = _Wanted(name, namespace)
    listing = _LISTINGS.get(what)
    if listing is None and wanted != _Wanted(None, None):
        raise click.UsageError("config is one document: NAME and --namespace do not apply")
    if listing is not None and namespace is not None and not listing.namespaces:
        raise click.UsageError(f"--namespace does not apply to {what}")

    def show() -> None:
        if listing is None:
            _show_config(places, output)
        else:
            _show(listing, places, wanted, output)

    if watch:
        repeat(show, lambda: time.sleep(WATCH_S))
    else:
        show()


def repeat(show: Callable[[], None], pause: Callable[[], None]) -> None:
    """`show` for ever; on a terminal in place of what was there before."""
    while True:
        if sys.stdout.isatty():
            click.clear()
        show()
        sys.stdout.flush()
        pause()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which rows to show; None for all."""

    name: str | None
    namespace: str | None

    def takes(self, listing: Listing, row: Row) -> bool:
        name, namespace = self.name, self.namespace
        if name is not None and not any(name in text for text in _texts(row, listing.names)):
            return False
        return namespace is None or any(_in_namespace(text, namespace) for text in _texts(row, listing.namespaces))


def _places(node: str | None, state_dir: Path | None) -> "tuple[Place, ...]":
    from hbone.admin.client import default_places, parse_place

    if node is not None and state_dir is not None:
        raise click.UsageError("--node and --state-dir both say whom to ask")
    return (parse_place(node),) if node is not None else default_places(os.environ, state_dir)


def _show(listing: Listing, places: "tuple[Place, ...]", wanted: _Wanted, output: Format) -> None:
    from hbone.admin.client import ask

    answer = ask(places, listing.path)
    rows = [row for row in _rows(answer) if wanted.takes(listing, row)]

    def text() -> str:
        titles = [column.title for column in listing.columns]
        return table(titles, [[cell(column, row) for column in listing.columns] for row in rows])

    emit(output, rows if isinstance(answer, list) else answer, text)


def _show_config(places: "tuple[Place, ...]", output: Format) -> None:
    from hbone.admin.client import ask

    # A document is no table: YAML is what people read
    emit("yaml" if output == "table" else output, ask(places, "/config_dump"), str)


def _rows(answer: object) -> list[Row]:
    """The objects in an answer: a list of them, or one."""
    entries = cast("list[object]", answer) if isinstance(answer, list) else [answer]
    return [cast("Row", entry) for entry in entries if isinstance(entry, dict)]


def _texts(row: Row, fields: tuple[str, ...]) -> list[str]:
    """The values of `fields`, those of lists one by one."""
    texts: list[str] = []
    for field in fields:
        value = row.get(field)
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        texts += [str(one) for one in values if one is not None]
    return texts


def _in_namespace(text: str, namespace: str) -> bool:
    """`shop`, `shop/cart`, `spiffe://cluster.local/ns/shop/sa/cart` are all in the namespace `shop`."""
    if text.startswith("spiffe://"):
        return f"/ns/{namespace}/sa/" in text
    return text.partition("/")[0] == namespace


def cell(column: Column, row: Row) -> object:
    """What a table shows in a column."""
    value = next((row[field] for field in column.fields if row.get(field) is not None), None)
    match column.form, value:
        case Form.DURATION, int() | float():
            return duration(value)
        case Form.BYTES, int() | float():
            return size(value)
        case Form.COUNT, list():
            return len(cast("list[object]", value))
        case Form.HEALTHY, list():
            endpoints = cast("list[Row]", value)
            healthy = sum(endpoint.get("health") == "Healthy" for endpoint in endpoints)
            return f"{healthy}/{len(endpoints)}"
        case Form.FINGERPRINT, str():
            return value[:16]
        case _:
            return cast("object", value)
