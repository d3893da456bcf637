"""Laws of reading: files whose pieces are alike are read as if nobody had noticed."""

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.documents.document import read_documents
from hbone.documents.large import read_large
from hbone.documents.shapes import Shapes, same
from hbone.errors import Problem

USUAL = ("a", "w1", "x-y.z", "10.0.0.7", "fd00::1", "8080", "true", "~n", "1.5", "0x1F", "007", "yes", "1e3", "null")
ODD = (
    *("", "a b", "a:", "a: b", ":a", "a #c", "#c", "-", "- a", "---", "...", "?", "? a", "<<", "{a: <<}", "@a", "`a`"),
    *("'q'", "'it''s'", '"d"', '"a\\n"', '"', "'", '""', '"a: {b"', '"x\n  y"', "'x\n\n y'", '"x\ny"'),
    *(
        "[a, b]",
        "[",
        "]",
        "{a: b}",
        "{",
        "}",
        "{a: b, a: c}",
        "a, b",
        "&a x",
        "*a",
        "&a",
        "!t x",
        "!!str 12",
        "!!int 1",
    ),
    *("|\n   x", ">-\n   x\n    y", "|+\n   x\n\n", "\n    y", "é", "\t", "\u2028", "\x85", "%a", "a\n%TAG ! b"),
)
LINES = (
    *("a: %s", "b: %s", "a: {x: %s, y: %s}", "c:\n  d: %s", "c: [%s, %s]", 'e: "%s"', "e: '%s'", "%s: v", "? %s"),
    *("- %s", "- a: %s\n  b: %s", "l:\n- %s\n- %s", "l:\n  - x: %s\n    y: %s", "k: |\n  %s", "# %s", "%s", " %s", ""),
    *("m:\n  n/%s: %s\n  n/%s: b", "m: {n/%s: a, n/%s: %s}", '"n/%s": a', "'n/%s' : a", "? n/%s\n: a", "{n/%s}"),
    *(
        "- - %s",
        "- {a: %s}",
        "  b: %s",
        "    - %s",
        "a: %s # c",
        "<<: {m: %s}",
        "80: %s",
        "{a: %s}",
        "n/%s: a",
        "...",
        "- !t %s",
    ),
)
values = st.sampled_from(USUAL) | st.sampled_from(USUAL) | st.sampled_from(ODD)
pieces = st.lists(st.sampled_from(LINES), min_size=1, max_size=4).map("\n".join)


@st.composite
def alike(draw: st.DrawFn, opening: str, line: st.SearchStrategy[str]) -> str:
    """Texts of a few templates, again and again with other values."""
    templates = draw(st.lists(line, min_size=1, max_size=2))
    texts: list[str] = []
    for _ in range(draw(st.integers(0, 9))):
        template = opening + draw(st.sampled_from(templates))
        texts.append(template % tuple(draw(values) for _ in range(template.count("%s"))))
    return "".join(f"{text}\n" for text in texts)


items = pieces.map(lambda text: text.removeprefix("- ").replace("\n", "\n  "))
documents = st.sampled_from(["", "---\n", "# c\n---\n", "---\n- a\n"])
lists = st.sampled_from(["", "w:\n", "v: &a 1\nw: *a\nx:\n", "w: |\n", 'w: "\n', "w: [\n", "- a: |\n"])
tails = st.sampled_from(["", "z: 1\n", "  c: d\n", '"\n', "]\n", "  - a\n", "- a", "---\n- b: c\n", "# c\n", "z: *a\n"])


def both_ways(text: str, shapes: Shapes) -> None:
    careful: list[Problem] = []
    quick: list[Problem] = []
    wanted = read_documents("f", text, careful)
    found = read_large("f", text, quick, shapes)
    assert quick == careful
    assert [(one.line, one.base) for one in found] == [(one.line, one.base) for one in wanted]
    assert all(same(one.value, two.value) for one, two in zip(found, wanted, strict=True)), (found, wanted)


@settings(max_examples=400, deadline=None)
@given(first=documents, text=alike("---\n", pieces), more=alike("---\n", pieces))
def test_documents_that_are_alike_are_read_as_each_by_itself(first: str, text: str, more: str) -> None:
    shapes = Shapes()
    both_ways(first + text, shapes)
    both_ways(text + more, shapes)


@settings(max_examples=400, deadline=None)
@given(head=lists, text=alike("- ", items), indented=alike("  - ", items), tail=tails)
def test_items_that_are_alike_are_read_as_each_by_itself(head: str, text: str, indented: str, tail: str) -> None:
    shapes = Shapes()
    with patch("hbone.documents.large._LONG", 0):
        both_ways(head + text + tail, shapes)
        both_ways(head + indented + tail, shapes)
        both_ways(head + text + "y:\n" + indented + tail, shapes)
