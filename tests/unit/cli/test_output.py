"""Tables, durations and sizes for people."""

import io
import json

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hbone.cli import output
from hbone.cli.output import Style, duration, emit, fit, shows_colour, size, styled, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    assert table(["name", "bytes", "open"], [("web", 5, True), ("cart-0", 12345, False), ("x", None, "")]) == (
        "NAME    BYTES  OPEN\n"
        "web         5  yes\n"
        "cart-0  12345  no\n"
        "x           -  -"
    )  # fmt: skip


def test_lists_are_joined_and_nothing_breaks_a_row() -> None:
    assert table(["a"], [(("x", "y"),), ("evil\x1b[2J\nrow",)]) == "A\nx,y\nevil\\x1b[2J row"


def test_an_empty_table_says_so() -> None:
    assert table(["a"], [], empty="no workloads") == "no workloads"


def test_into_a_pipe_nothing_is_cut() -> None:
    assert "x" * 500 in table(["a"], [("x" * 500,)])


def test_on_a_terminal_the_widest_columns_give_way() -> None:
    lines = table(["name", "identity"], [("web", "spiffe://cluster.local/ns/shop/sa/web")], room=30).splitlines()
    assert all(len(line) <= 30 for line in lines)
    assert lines[1].endswith("…")


@given(st.lists(st.integers(1, 200), min_size=1, max_size=10), st.integers(1, 300))
def test_columns_fit_unless_they_are_all_narrow(widths: list[int], room: int) -> None:
    found = fit(widths, room)
    assert sum(found) <= room or max(found) <= 8
    assert all(new == old or new >= 8 for new, old in zip(found, widths, strict=True))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals_that_want_it(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shows_colour(Terminal()) is expected
    assert shows_colour(io.StringIO()) is False
    assert (styled("x", Style.BAD, Terminal()) == "x") is not expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "<1ms"),
        (0.014, "14ms"),
        (0.9999, "1.0s"),
        (3.24, "3.2s"),
        (9.97, "10s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (330, "5m30s"),
        (11_520, "3h12m"),
        (187_200, "2d4h"),
        (86_400, "1d"),
        (-330, "-5m30s"),
    ],
)
def test_a_duration_is_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (20 << 20, "20 MiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 40, "5120 GiB"),
    ],
)
def test_a_size_is_told_in_binary_units(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_each_form_of_output_has_the_same_content(form: str) -> None:
    @click.command()
    @output.output_option
    def show(output: output.Format) -> None:
        value = [{"name": "café", "port": 80}]
        emit(output, value, lambda: table(["name", "port"], [list(row.values()) for row in value]))

    text = CliRunner().invoke(show, ["-o", form]).output
    expected = [{"name": "café", "port": 80}]
    match form:
        case "json":
            assert json.loads(text) == expected
        case "yaml":
            assert yaml.safe_load(text) == expected
        case _:
            assert text == "NAME  PORT\ncafé    80\n"
