"""Shapes: what fits one is what the careful reader would say, and what may not fit has none."""

import pytest

from hbone.documents.document import parse_documents
from hbone.documents.shapes import MAX_DEPTH, MAX_PIECE, Shapes, learnt, same
from hbone.documents.values import Array, Object, Value

ENTRY = """---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, labels: {{app.kubernetes.io/name: "{label}"}}}}
spec:
  address: {address}
  weight: {weight}
  ports: [80, 443]
  tags: ['{tag}', null, 1.5]
"""
USUAL = {"name": "w1", "label": "a b: {c}", "address": "10.0.0.1", "weight": "5", "tag": '"x"'}


def careful(text: str) -> Value:
    (document,) = parse_documents("f", text)
    return document.value


def entry(**values: str) -> str:
    return ENTRY.format(**{**USUAL, **values})


def quick(shape_of: str, text: str) -> Object | Array | None:
    shape = learnt(shape_of)
    assert shape is not None
    return shape.made(text, 0, len(text), 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "another-1.x"},
        {"label": "", "tag": ""},
        {"label": "it's # no comment", "tag": "a \\n b"},
        {"address": "fd00::1"},
        {"address": "host.example", "weight": "true"},
        {"weight": "0x1F"},
        {"weight": "007"},
        {"weight": "22:22"},
        {"weight": "null"},
        {"name": "yes", "weight": "1e3"},
        {"weight": "99999999999999999999999"},
    ],
)
def test_a_piece_of_the_same_shape_is_what_the_careful_reader_says(changed: dict[str, str]) -> None:
    text = entry(**changed)
    found = quick(entry(), text)
    assert found is not None
    assert same(found, careful(text)), (found, careful(text))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "a, b: c"},
        {"name": "a: b"},
        {"name": "a:"},
        {"name": "*a"},
        {"name": "&a x"},
        {"name": "!t x"},
        {"address": "10.0.0.1 # comment"},
        {"address": ""},
        {"address": "|\n    text"},
        {"address": "- a"},
        {"weight": "-1"},
        {"weight": "5\n  more: 6"},
        {"label": 'a\\"b'},
        {"label": "a\n  b"},
        {"tag": "it''s"},
        {"tag": "a', 'b"},
        {"name": "wört"},
    ],
)
def test_whatever_else_might_be_meant_does_not_fit(changed: dict[str, str]) -> None:
    assert quick(entry(), entry(**changed)) is None


def test_lines_are_counted_from_where_the_piece_begins() -> None:
    shape, text = learnt(entry()), "# first\n" + entry(name="w2")
    assert shape is not None
    found = shape.made(text, text.index("---"), len(text), 1)
    assert found is not None
    assert same(found, careful(text))


def test_names_with_a_slash_may_be_others_but_not_the_same_twice() -> None:
    template = "- services:\n    ns/{}: {{80: 8080}}\n    ns/{}: {{80: 8081}}\n"
    one, two, twice = template.format("a", "b"), template.format("c", "d.example"), template.format("x", "x")
    found = quick(one, two)
    assert found is not None
    assert same(found, careful(two))
    assert quick(one, twice) is None


@pytest.mark.parametrize(
    "piece",
    [
        "a: &x 1\n",
        "a: *x\n",
        "a: &x 1\nb: *x\n",
        "a: !t 1\n",
        "a: !t {b: 1}\n",
        "a: 1\na: 2\n",
        "a: {b: 1, b: 2}\n",
        "a: [1\n",
        "text\n",
        "---\n",
        "a: 1\n---\nb: 1\n",
        f"a: {'[' * MAX_DEPTH}{']' * MAX_DEPTH}\n",
    ],
)
def test_what_has_to_be_read_carefully_has_no_shape(piece: str) -> None:
    assert learnt(piece) is None


def test_core_tags_are_no_gaps() -> None:
    assert quick("a: !!str 12\n", "a: !!str 13\n") is None


def test_a_shape_is_learnt_when_it_comes_again() -> None:
    shapes = Shapes()
    texts = [entry(name=f"w{number}") for number in range(4)]
    found = [shapes.made(text, 0, len(text), 0) is not None for text in texts]
    assert found == [False, True, True, True]


def test_shapes_may_take_turns() -> None:
    shapes = Shapes()
    texts = [text for number in range(4) for text in (entry(name=f"w{number}"), f"a: {number}\n", "a: b c\n")]
    found = [shapes.made(text, 0, len(text), 0) for text in texts]
    assert [one is not None for one in found[:6]] == [False, False, False, True, True, True]
    assert all(one is not None and same(one, careful(text)) for one, text in zip(found[6:], texts[6:], strict=True))


def test_what_comes_once_or_is_long_is_not_learnt() -> None:
    shapes = Shapes()
    long = f"a: {'x' * MAX_PIECE}\n"
    for text in [*(f"key{number}: 1\n" for number in range(5000)), long, long, long]:
        assert shapes.made(text, 0, len(text), 0) is None


def test_a_file_of_too_many_shapes_is_parsed_from_there_on() -> None:
    shapes = Shapes()
    texts = [f"key{number}: []\nqq: {number}\n" for number in range(300) for _ in range(2)]
    found = [shapes.made(text, 0, len(text), 0) is not None for text in texts]
    assert sum(found) == 256
    assert found[:512:2] == [False] * 256
