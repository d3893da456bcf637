"""JSON in pieces is the JSON that would be written at once."""

import json
from itertools import count

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.admin.jsontext import SLICE, Keyed, Listed, json_pieces
from hbone.admin.messages import Layout
from hbone.telemetry.views import ListenerView

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\n", max_size=3), inner),
    max_leaves=20,
)


@given(plain, st.sampled_from(Layout))
def test_lists_and_objects_made_in_pieces_are_written_as_if_whole(value: object, layout: Layout) -> None:
    options = orjson.OPT_INDENT_2 if layout is Layout.PRETTY else 0
    assert b"".join(json_pieces(_piecewise(value), layout)) == orjson.dumps(value, option=options) + b"\n"


def _piecewise(value: object) -> object:
    if isinstance(value, list):
        return Listed(iter(value))  # pyright: ignore[reportUnknownArgumentType]  # anything
    if isinstance(value, dict):
        return Keyed((str(key), _piecewise(inner)) for key, inner in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def test_a_long_list_is_made_as_it_is_taken() -> None:
    made = count()
    pieces = json_pieces(Listed(next(made) for _ in range(10 * SLICE)), Layout.COMPACT)
    next(pieces)
    assert next(made) <= SLICE + 1


@pytest.mark.parametrize("layout", Layout)
def test_views_ports_and_other_things_have_a_text(layout: Layout) -> None:
    view = ListenerView(name="a", address="b")
    text = b"".join(json_pieces(Listed([view, {80: 8080}, {"error": ValueError("x")}]), layout))
    assert json.loads(text) == [{"name": "a", "address": "b", "connections": 0}, {"80": 8080}, {"error": "x"}]
