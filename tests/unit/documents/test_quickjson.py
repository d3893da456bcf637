"""JSON without lines: what it gives is what the careful way gives, and what it doubts is left to that."""

import pytest

from hbone.documents.document import parse_documents
from hbone.documents.quickjson import QuickDocument, QuickJson
from hbone.documents.values import Array, Object

TEXTS = (
    "{}",
    ' {"a" : 1 , "b":[ ] , "c":[1, 2.5, -3, 1e3] }\n',
    '{"a": {"b": [{"c": null}, true, "x"]}, "d": ["\\u00e9", "yes", "12", "~"]}',
)


def read(text: str) -> dict[str, object]:
    json = QuickJson(text)
    found: dict[str, object] = {key: json.value() for key in json.members()}
    json.end()
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_read_is_what_the_careful_way_reads(text: str) -> None:
    (careful,) = parse_documents("f", text)
    assert read(text) == careful.value


def test_mappings_and_lists_are_those_of_documents() -> None:
    found = read('{"a": {"b": [1]}, "c": [[]]}')
    assert isinstance(found["a"], Object)
    assert isinstance(found["a"]["b"], Array)
    assert isinstance(found["c"], Array)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: b",
        "# comment\n{}",
        "{a: 1}",
        '{"a": 1',
        '{"a": }',
        '{"a" 1}',
        '{"a": 1,}',
        '{"a": 1 "b": 2}',
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": 1} {}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1234567890123456789}',
        '{"a": "\\ud800"}',
        '{"a": "tab\there"}',
        "{1: 2}",
    ],
)
def test_what_the_careful_way_might_read_otherwise_is_doubted(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text)


def test_a_value_s_text_is_given_with_the_lines_before_it() -> None:
    json = QuickJson('{"a": 1,\n\n"b": [1,\n2], "c": 3}')
    spans = {key: json.span() for key in json.members()}
    assert spans == {"a": ("1", 0), "b": ("[1,\n2]", 2), "c": ("3", 3)}


def test_items_come_one_by_one() -> None:
    json = QuickJson('{"a": [{"b": 1}, 2], "c": []}')
    assert {key: list(json.items()) for key in json.members()} == {"a": [{"b": 1}, 2], "c": []}


def test_a_document_without_lines_has_no_problems() -> None:
    with pytest.raises(ValueError, match="is missing"):
        QuickDocument("f", 0, None).problem((), "is missing", "add it")
