"""A YAML settings file as plain values, with the line of every key and item."""

from dataclasses import field
from typing import Any, Final

from hbone.documents.document import read_documents
from hbone.documents.values import Array, Document, Object, Tagged, Value, field_text
from hbone.errors import Problem
from hbone.values import dataclass

Path = tuple[str | int, ...]
MAX_FILE_CHARS: Final = 1 << 20
MAX_VALUES: Final = 20_000  # aliases multiply: nine lines can stand for a billion items

dotted = field_text


@dataclass(slots=True, kw_only=True)
class Tree:
    """`values` by key; what was wrong on the way."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    problems: list[Problem] = field(default_factory=list[Problem])
    document: Document | None = None

    def line(self, path: Path) -> int | None:
        """The line (from 1) of `path`, or of the nearest thing above it; None when none of it is written down."""
        top = self.document.value if self.document is not None else None
        if self.document is None or not isinstance(top, Object) or not path or path[0] not in top:
            return None
        return self.document.line_of(path)


def read_tree(text: str, file: str) -> Tree:
    """One document, a mapping; empty text is an empty mapping. Never raises: mistakes are in `problems`."""
    tree = Tree()
    if len(text) > MAX_FILE_CHARS:
        tree.problems.append(Problem(what="larger than 1 MiB", fix="this is no settings file", file=file))
        return tree
    documents = read_documents(file, text, tree.problems)
    for extra in documents[1:]:
        fix = "write all settings into one document, without '---'"
        tree.problems.append(Problem(what="a second document", fix=fix, file=file, line=extra.line))
    if not documents:
        return tree
    first = documents[0]
    if not isinstance(first.value, Object):
        fix = "write settings as KEY: VALUE, one a line"
        tree.problems.append(Problem(what="not a mapping of settings", fix=fix, file=file, line=first.line))
        return tree
    try:
        copy = _Copy()
        tree.values = copy.mapping(first.value)
        tree.document = first
        for tag in copy.tags:
            tree.problems.append(Problem(what=f"the tag !{tag}", fix="write the value alone", file=file))
    except _TooMany:
        fix = "this is no settings file"
        tree.problems.append(Problem(what=f"more than {MAX_VALUES} values", fix=fix, file=file))
    return tree


class _TooMany(Exception):
    pass


class _Copy:
    """Values of our own, to lay others over: aliases share theirs."""

    def __init__(self) -> None:
        self._count = 0
        self.tags: list[str] = []

    def mapping(self, given: Object) -> dict[str, Any]:
        return {str(key): self._value(value) for key, value in given.items()}

    def _value(self, value: Value) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooMany
        match value:
            case Object():
                return self.mapping(value)
            case Array():
                return [self._value(item) for item in value]
            case Tagged():
                self.tags.append(value.tag)
                return self._value(value.value)
            case _:
                return value
