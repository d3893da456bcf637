"""Large files: what is left out of parsing, and that nobody can tell."""

import pytest

from hbone.documents.document import read_documents
from hbone.documents.large import read_large
from hbone.documents.shapes import MAX_PIECE, Shapes, same
from hbone.documents.values import Document, Value
from hbone.errors import Problem

MANY = 400


def both(text: str | bytes) -> tuple[tuple[Document, ...], list[Problem]]:
    """Documents and problems, which must be those of the careful reader."""
    problems: list[Problem] = []
    careful: list[Problem] = []
    found, wanted = read_large("f", text, problems, Shapes()), read_documents("f", text, careful)
    assert problems == careful
    assert [one.line for one in found] == [one.line for one in wanted]
    assert all(same(one.value, two.value) for one, two in zip(found, wanted, strict=True))
    return found, problems


def item(number: int, column: int = 0) -> str:
    space = " " * column
    return f"{space}- name: w{number}\n{space}  address: 10.0.0.{number % 256}\n{space}  tags:\n{space}  - t{number}\n"


def items(column: int = 0, *, start: int = 0) -> str:
    return "".join(item(number, column) for number in range(start, start + MANY))


def document(number: int) -> str:
    return f"---\nkind: A\nmetadata: {{name: w{number}}}\n"


def is_shared(value: Value, other: Value) -> bool:
    """Whether two mappings share the lines of their keys: only those do that were not parsed."""
    return getattr(value, "lines", 0) is getattr(other, "lines", 1)


def test_documents_that_are_alike_are_parsed_once() -> None:
    found, _ = both("".join(map(document, range(MANY))))
    assert all(is_shared(found[2].value, one.value) for one in found[2:])


@pytest.mark.parametrize("column", [0, 2, 8])
def test_items_that_are_alike_are_parsed_once(column: int) -> None:
    text = f"# made by a program\nfirst: 1\nlist:\n{items(column)}last: 2\n"
    assert len(text) > MAX_PIECE
    (found,), _ = both(text)
    assert isinstance(found.value, dict)
    listed = found.value["list"]
    assert isinstance(listed, list)
    assert len(listed) == MANY
    assert sum(is_shared(listed[5], one) for one in listed) > MANY - 10


def test_items_in_a_column_that_is_far_to_the_right_are_parsed() -> None:
    both(f"list:\n{items(20)}")


def test_what_differs_is_read_in_its_place() -> None:
    parts = [document(number) for number in range(MANY)]
    for at, odd in ((3, "---\n[a]\n"), (4, "---\n# nothing\n"), (90, "---\n!t {x: &a 1, y: *a}\n"), (91, "--- text\n")):
        parts.insert(at, odd)
    both("".join(parts))
    listed = [item(number) for number in range(MANY)]
    for at, odd in (
        (3, "- text\n"),
        (4, "- - x\n  - y\n"),
        (90, "- |\n  - a\n\n"),
        (91, "# c\n"),
        (200, "-\n  a: 1\n"),
    ):
        listed.insert(at, odd)
    both("a:\n" + "".join(listed))


@pytest.mark.parametrize(
    "text",
    [
        f"text: |\n{items(2)}",
        f"text: >-\n{items(2)}end: 1\n",
        f'text: "\n{items(2)}"\n',
        f"text: '\n{items()}'\n",
        f'- "text\n{items()}- end"\n',
        f"text: [\n{items()}]\n",
        f"a: &x\n{items()}b: *x\n",
        f"- &x a\n{items()}- *x\n",
        f"%TAG ! tag:x,2000:\n---\n{items()}",
        f"a:\n{items()}  more: 1\n",
        f"a:\n{items()} - wrong\n",
        f"a:\n{items()}\tb: 1\n",
        f"a:\n{items()}- [\n",
        f"a:\n{items()}a: 2\n",
        f"a:\n{items()}b: !t [!t 1]\n",
        f"a:\n{items()}...\nb: 1\n",
        f"a:\n{items()}---\nb:\n{items(2)}",
        items() + "- last",
        items().replace("\n", "\r\n"),
        items().replace("t99\n", "t99\x85"),
        items().replace("- t7\n", "- t7\n\n\n"),
        items().replace("name: w7\n", "name: w7\n  name: x\n"),
        items().replace("name: w7\n", "name: w7\n  <<: {address: 1, b: 2}\n"),
    ],
    ids=range(23),
)
def test_what_looks_like_items_is_read_as_what_it_is(text: str) -> None:
    both(text)


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(document, range(MANY))) + "---\na: [\n",
        "---\na: [\n" + "".join(map(document, range(MANY))),
        "---\nkey: 'open\n" + "".join(map(document, range(MANY))),
        "".join(map(document, range(MANY))).replace("w99}", "w99, name: x}"),
        "".join(map(document, range(MANY))).replace("w99}", "&a w99}").replace("w100}", "*a}"),
        "".join(map(document, range(MANY))).replace("---\n", "---\r\n"),
        "%YAML 1.1\n" + "".join(map(document, range(MANY))),
        "".join(map(document, range(MANY))).replace("w7}\n", "w7}\n...\n%TAG ! tag:x,2000:\n"),
        "text: |\n  a\n" + "".join(map(document, range(MANY))),
    ],
    ids=range(9),
)
def test_what_is_wrong_is_told_as_ever(text: str) -> None:
    both(text)


def test_a_file_that_cannot_be_read_at_all_is_told_once() -> None:
    _, problems = both(b"a: \xff\n")
    assert len(problems) == 1


def test_a_byte_order_mark_is_taken_off() -> None:
    both(("\ufeff" + "".join(map(document, range(3)))).encode())
    both("\ufeff\ufeff" + "".join(map(document, range(3))))


def test_shapes_are_known_in_the_next_file() -> None:
    shapes, problems = Shapes(), list[Problem]()
    first = read_large("a", document(1) + document(2), problems, shapes)
    second = read_large("b", document(3), problems, shapes)
    assert is_shared(first[1].value, second[0].value)
    assert (second[0].file, second[0].line) == ("b", 2)
