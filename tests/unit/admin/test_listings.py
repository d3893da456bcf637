"""The tables of `hbone get` fit the views that they show."""

from dataclasses import fields
from pathlib import Path

import pytest

from hbone.admin.client import DEFAULT_PLACE, admin_socket, default_places, parse_place
from hbone.admin.listings import LISTINGS, Column, Form, Listing
from hbone.cli.commands.get import cell, repeat
from hbone.config.listen import UnixListen
from hbone.errors import UsageError


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.name)
def test_every_field_of_a_table_is_one_of_the_view(listing: Listing) -> None:
    named = {name for column in listing.columns for name in column.fields} | {*listing.names, *listing.namespaces}
    assert named <= {field.name for field in fields(listing.view)}
    titles = [column.title for column in listing.columns]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("column", "row", "shown"),
    [
        (Column("age", ("age_s",), Form.DURATION), {"age_s": 330}, "5m30s"),
        (Column("age", ("age_s",), Form.DURATION), {}, None),
        (Column("sent", ("bytes",), Form.BYTES), {"bytes": 1536}, "1.5 KiB"),
        (Column("up", ("e",), Form.HEALTHY), {"e": [{"health": "Healthy"}, {"health": "Unhealthy"}]}, "1/2"),
        (Column("print", ("f",), Form.FINGERPRINT), {"f": "ab" * 32}, "ab" * 8),
        (Column("from", ("name", "address")), {"name": None, "address": "10.0.0.1"}, "10.0.0.1"),
        (Column("zero", ("n", "m")), {"n": 0, "m": 1}, 0),
        (Column("sent", ("bytes",), Form.BYTES), {"bytes": "odd"}, "odd"),
    ],
)
def test_a_cell_shows_the_first_field_with_a_value(column: Column, row: dict[str, object], shown: object) -> None:
    assert cell(column, row) == shown


def test_without_a_name_the_usual_port_is_asked_and_then_the_state_directory(tmp_path: Path) -> None:
    places = default_places({"HBONE_STATE_DIR": str(tmp_path)})
    assert places == (DEFAULT_PLACE, UnixListen(str(tmp_path / "admin.sock")))


def test_a_state_directory_that_is_named_is_the_only_place(tmp_path: Path) -> None:
    assert default_places({}, tmp_path) == (UnixListen(str(admin_socket(tmp_path))),)


@pytest.mark.parametrize("text", ["fd:3", "localhost", "unix:relative", "127.0.0.1:99999"])
def test_a_place_that_cannot_be_asked_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_place(text)


def test_watching_shows_again_after_each_pause() -> None:
    said: list[str] = []

    def pause() -> None:
        said.append("pause")
        if len(said) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repeat(lambda: said.append("show"), pause)
    assert said == ["show", "pause", "show", "pause"]
