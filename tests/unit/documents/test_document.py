"""YAML with line numbers, and what hostile YAML gets."""

from unittest.mock import patch

import pytest
import yaml

from hbone.documents.document import parse_documents, read_documents
from hbone.documents.values import Document, Object, Tagged, field_text, objects
from hbone.errors import InvalidConfiguration, Problem


def read(text: str | bytes) -> tuple[Document, ...]:
    return parse_documents("a.yaml", text)


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1", -1),
        ("0x1F", 31),
        ("007", "007"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.2.3.4", "1.2.3.4"),
        ("22:22", "22:22"),
        ("2024-01-01", "2024-01-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("!Exact 12", Tagged("Exact", 12)),
        ("!Exact '12'", Tagged("Exact", "12")),
        ("[1, ~, null, '']", [1, None, None, ""]),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("{80: 1, b: 2}", {80: 1, "b": 2}),
        ('{"a": [1, 2.5, true, null]}', {"a": [1, 2.5, True, None]}),
        ("99999999999999999999999", "99999999999999999999999"),
    ],
)
def test_scalars_mean_what_kubernetes_users_expect(text: str, value: object) -> None:
    assert [document.value for document in read(text)] == [value]


def test_a_collection_may_have_a_tag() -> None:
    (document,) = read("!Exact {a: [1]}")
    assert isinstance(document.value, Tagged)
    assert (document.value.tag, document.value.value) == ("Exact", {"a": [1]})


def test_empty_files_and_empty_documents_are_nothing() -> None:
    for text in ("", "\n", "# note\n", "---\n---\n", "\ufeff"):
        assert read(text) == ()


def test_documents_come_with_their_first_lines() -> None:
    assert [(d.line, d.value) for d in read("a: 1\n---\n\nb: 2\n")] == [(1, {"a": 1}), (4, {"b": 2})]


def test_every_key_and_item_knows_its_line() -> None:
    (document,) = read("a:\n  b:\n  - x\n  - c: !T\n      d: 1\n")
    lines = {path: document.line_of(path) for path in [(), ("a", "b"), ("a", "b", 1), ("a", "b", 1, "c", "d")]}
    assert lines == {(): 1, ("a", "b"): 2, ("a", "b", 1): 4, ("a", "b", 1, "c", "d"): 5}
    assert document.line_of(("a", "none", "deeper")) == 1
    assert document.line_of(("a", "b", 7)) == 2


def test_a_problem_names_file_line_and_field() -> None:
    (document,) = read("a:\n  - b/c: 1\n")
    assert str(document.problem(("a", 0, "b/c"), "is wrong", "write 2")) == 'a.yaml:2: a[0]["b/c"]: is wrong; write 2'


@pytest.mark.parametrize(
    ("path", "text"), [((), ""), (("a", 0, "b"), "a[0].b"), (("a", "x/y"), 'a["x/y"]'), (("a", 80), "a[80]")]
)
def test_paths_are_written_as_people_write_them(path: tuple[str | int, ...], text: str) -> None:
    assert field_text(path) == text


def test_anchors_and_merged_keys_work_and_own_keys_win() -> None:
    (document,) = read("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 9}\nc: {x: 8, <<: [*a, {z: 3}]}\nd: *a\n")
    assert document.value == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 9, "y": 2},
        "c": {"x": 8, "y": 2, "z": 3},
        "d": {"x": 1, "y": 2},
    }


def test_the_items_of_a_list_are_objects_of_their_own() -> None:
    (document,) = read("kind: List\nitems:\n- kind: A\n- kind: B\n")
    items = list(objects(document))
    assert [(item.line, item.value) for item in items] == [(3, {"kind": "A"}), (4, {"kind": "B"})]
    assert items[1].problem(("kind",), "x", "y").field == "items[1].kind"
    (single,) = read("kind: Service")
    assert list(objects(single)) == [single]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1\n", "a.yaml:3: not valid YAML: "),
        ("a: 1\n\tb: 2\n", "a.yaml:2: not valid YAML: "),
        ("a: 'x\n", "a.yaml:2: not valid YAML: "),
        ("a: \x00", "a.yaml:1: not valid YAML: control characters are not allowed"),
        ("x: 1\ny: \x07", "a.yaml:2: not valid YAML: "),
        (b"a: 1\nb: \xff\n", "a.yaml:2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a: *b", "a.yaml:1: alias *b has no anchor before it"),
        ("a: &a [*a]", "a.yaml:1: alias *a contains itself"),
        ("a: &a 1\n---\nb: *a", "a.yaml:3: alias *a has no anchor before it"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3: the key 'a' is there twice, first in line 1; keep one of them"),
        ("{[1]: 2}", "a.yaml:1: the key [1] is not a name"),
        ("true: 2", "a.yaml:1: the key True is not a name; write it in quotes"),
        ("~: 2", "a.yaml:1: the key None is not a name"),
        ("!!python/object:os.system x", "a.yaml:1: the tag 'tag:yaml.org,2002:python/object:os.system' means nothing"),
        ("!!binary aGk=", "a.yaml:1: the tag "),
        ("!<tag:example.com,2000:x> a", "a.yaml:1: the tag "),
        ("[" * 100_000, "a.yaml:1: nested deeper than 64 levels"),
        ("{a: " * 1000, "a.yaml:1: nested deeper than 64 levels"),
        ("- " * 1000, "a.yaml:1: nested deeper than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str | bytes, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_aliases_of_aliases_cannot_grow_without_bound() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n"
    (problem,) = problems(bomb)
    assert "more than 10000000 values" in problem


def test_an_oversized_file_is_refused_unread() -> None:
    with patch("hbone.documents.document.MAX_FILE_BYTES", 10):
        (problem,) = problems("a: 0123456789")
    assert "a file of 13 bytes; split it" in problem


def test_several_problems_come_together_with_what_could_be_read() -> None:
    found: list[Problem] = []
    documents = read_documents("a.yaml", "a: 1\na: 2\n---\nb: 1\nb: 1\nc: 3\n", found)
    assert [p.line for p in found] == [2, 5]
    assert [d.value for d in documents] == [{"a": 1}, {"b": 1, "c": 3}]


def test_documents_before_a_syntax_error_are_still_returned() -> None:
    found: list[Problem] = []
    assert [d.value for d in read_documents("a.yaml", "a: 1\n---\nb: [", found)] == [{"a": 1}]
    assert len(found) == 1


def test_without_libyaml_the_same_is_read() -> None:
    with patch("hbone.documents.document._LOADER", yaml.SafeLoader):
        (document,) = read("a: &x {b: [1, !T x]}\nc: *x\n")
        assert isinstance(document.value, Object)
        assert document.value == {"a": {"b": [1, Tagged("T", "x")]}, "c": {"b": [1, Tagged("T", "x")]}}
        assert problems("a: \x00")[0].startswith("a.yaml:1: not valid YAML")
        assert problems("[" * 1000)[0].startswith("a.yaml:1: nested deeper")
