"""Large YAML files: what is written like something before it is matched, and only the rest is parsed.

The pieces of a file are its documents, between lines of `---`, which begin a document wherever they stand; and in a
long document the items of lists, each from its `- ` to the next one in the same column. What `Shapes` knows is taken
from there. Of a list's items that are known, those between two that are parsed are left out of what the careful reader
gets. They are put in only where it found those two to be neighbours, since only then is what stood between them part
of their list, and not of a text that looks like one.

The result, lines included, is what the careful reader makes of the whole file. Wherever anything is wrong, or might be
read otherwise, it gets the whole file.
"""

import re
from collections.abc import Iterator
from dataclasses import field
from functools import cache
from typing import Final

from hbone.documents.document import MAX_VALUES, decoded, read_documents, read_lines
from hbone.documents.shapes import MAX_PIECE, Shapes
from hbone.documents.values import Array, Document, Object, Tagged, Value
from hbone.errors import InvalidConfiguration, Problem
from hbone.values import dataclass

_LONG: Final = MAX_PIECE
_MAX_COLUMN: Final = 8  # so that no item can be near the limit of nesting
_ITEM: Final = re.compile(r"^( *)- (?=[^\s#])", re.MULTILINE)
_OTHER_BREAKS: Final = ("\r", "\x85", "\u2028", "\u2029")  # YAML 1.1 §4.2: they end lines, too


def read_large(file: str, text: str | bytes, problems: list[Problem], shapes: Shapes) -> tuple[Document, ...]:
    """As `hbone.documents.document.read_documents`. `shapes` may have been met in other files."""
    try:
        plain = decoded(file, text)
        if _usual(plain) and (found := _by_pieces(file, plain, shapes)) is not None:
            return found
    except InvalidConfiguration:
        pass  # it will be said again
    return read_documents(file, text, problems)


def _usual(text: str) -> bool:
    """Without what has a meaning for other pieces (directives), or makes lines that we do not count."""
    return not (text.startswith("%") or "\n%" in text or any(one in text for one in _OTHER_BREAKS))


def _by_pieces(file: str, text: str, shapes: Shapes) -> tuple[Document, ...] | None:
    documents: list[Document] = []
    line = careful_line = careful_from = 0  # what was not read yet begins there, with that many lines before it
    for start, end in _pieces(text):
        made = shapes.made(text, start, end, line)
        line += text.count("\n", start, end)
        if made is None:
            continue
        if careful_from < start:
            rest = _carefully(file, text[careful_from:start], careful_line, shapes)
            if rest is None:
                return None
            documents += rest
        documents.append(Document(file, made.line, made))
        careful_from, careful_line = end, line
    rest = _carefully(file, text[careful_from:], careful_line, shapes)
    return None if rest is None else (*documents, *rest)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while (at := text.find("\n---\n", start)) >= 0:
        yield start, at + 1
        start = at + 1
    yield start, len(text)


def _carefully(file: str, text: str, before: int, shapes: Shapes) -> tuple[Document, ...] | None:
    """The documents of a part of a file, which begins after `before` lines; None when anything is wrong with it."""
    if len(text) > _LONG:
        folded = _folded(text, before, shapes)
        if folded.left_out:
            return _unfolded(file, folded)
    problems: list[Problem] = []
    found = read_lines(file, text, range(before + 1, before + len(text) + 3), problems)
    return None if problems else found


@dataclass(slots=True)
class _Folded:
    """A text without most items of its lists; `left_out` has those by the lines of the two items around them."""

    parts: list[str] = field(default_factory=list[str])
    lines: list[int] = field(default_factory=list[int])
    left_out: dict[tuple[int, int], list[Array]] = field(default_factory=dict[tuple[int, int], list[Array]])
    size: int = 0

    def keep(self, text: str, before: int) -> int:
        """Adds a text that is to be parsed; the lines before what follows it."""
        height = text.count("\n")
        self.parts.append(text)
        self.lines += range(before + 1, before + height + 1)
        return before + height


@dataclass(frozen=True, slots=True)
class _Item:
    start: int
    end: int
    line: int
    made: Array | None


def _folded(text: str, before: int, shapes: Shapes) -> _Folded:
    folded = _Folded()
    at = kept_to = 0
    while (found := _ITEM.search(text, at)) is not None:
        column = len(found[1])
        if column > _MAX_COLUMN:
            at = found.end()
            continue
        line = folded.keep(text[kept_to : found.start()], before)
        items = _run(text, found.start(), column, line, shapes)
        before = _fold_run(folded, text, items)
        at = kept_to = items[-1].end
    before = folded.keep(text[kept_to:], before)
    folded.lines += range(before + 1, before + 4)  # libyaml counts beyond the end
    return folded


@cache
def _next_at(column: int) -> re.Pattern[str]:
    """Where a line begins that belongs to no item in that column."""
    return re.compile(rf"\n(?= {{0,{column}}}[^ \n])")


def _run(text: str, start: int, column: int, before: int, shapes: Shapes) -> list[_Item]:
    """The items one after the other in that column, from the one at `start`."""
    items: list[_Item] = []
    opening = " " * column + "- "
    search = _next_at(column).search
    while True:
        following = search(text, start)
        end = following.end() if following is not None else len(text)
        made = shapes.made(text, start, end, before)
        items.append(_Item(start, end, before + 1, made if isinstance(made, Array) and len(made) == 1 else None))
        if not text.startswith(opening, end):
            return items
        before += text.count("\n", start, end)
        start = end


def _fold_run(folded: _Folded, text: str, items: list[_Item]) -> int:
    """Keeps the first and the last one, and those that have to be parsed; the lines before what comes after them."""
    line = folded.keep(text[items[0].start : items[0].end], items[0].line - 1)
    last_kept = items[0].line
    between: list[Array] = []
    for item in items[1:]:
        if item.made is not None and item is not items[-1]:
            between.append(item.made)
            continue
        if between:
            folded.left_out[last_kept, item.line] = between
            between = []
        line = folded.keep(text[item.start : item.end], item.line - 1)
        last_kept = item.line
    return line


def _unfolded(file: str, folded: _Folded) -> tuple[Document, ...] | None:
    """The documents of the whole text; None if it must be read otherwise."""
    text = "".join(folded.parts)
    problems: list[Problem] = []
    if "&" in text:  # a list that is put together here must not be in two places
        return None
    documents = read_lines(file, text, folded.lines, problems)
    size = len(text) + sum(_size(one) for between in folded.left_out.values() for one in between)
    if problems or size > MAX_VALUES:  # a value takes a character at least
        return None
    waiting = dict(folded.left_out)
    for array in _arrays(documents):
        _put_in(array, waiting)
    return None if waiting else documents


def _arrays(documents: tuple[Document, ...]) -> list[Array]:
    found: list[Array] = []
    values: list[Value] = [document.value for document in documents]
    while values:
        value = values.pop()
        if isinstance(value, Tagged):
            values.append(value.value)
        elif isinstance(value, Object):
            values += value.values()
        elif isinstance(value, Array):
            values += value
            found.append(value)
    return found


def _put_in(array: Array, waiting: dict[tuple[int, int], list[Array]]) -> None:
    items: list[Value] = []
    lines: list[int] = []
    for index, (item, line) in enumerate(zip(array, array.lines, strict=True)):
        items.append(item)
        lines.append(line)
        following = array.lines[index + 1] if index + 1 < len(array) else 0
        for one in waiting.pop((line, following), ()):
            items.append(one[0])
            lines.append(one.line_of(0))
    array[:], array.lines = items, lines


def _size(value: Value) -> int:
    if isinstance(value, Object):
        return 1 + len(value) + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, Array) else 1
