"""What documents consist of: values whose every key knows its line."""

import re
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

from hbone.errors import Problem
from hbone.values import dataclass

Key: TypeAlias = str | int
Path: TypeAlias = tuple[Key, ...]
Value: TypeAlias = "bool | int | float | str | Tagged | Object | Array | None"

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Object(dict[Key, "Value"]):
    """A mapping. `lines` has the line of each key, counted from `before`: mappings that are written alike share it."""

    __slots__ = ("before", "line", "lines")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: dict[Key, int] = {}
        self.before = 0

    def line_of(self, key: Key) -> int:
        return self.before + self.lines[key]


class Array(list["Value"]):
    """A list. `lines` has the line of each item, counted from `before` as in an Object."""

    __slots__ = ("before", "line", "lines")

    def __init__(self, line: int) -> None:
        self.line = line
        self.lines: list[int] = []
        self.before = 0

    def line_of(self, index: int) -> int:
        return self.before + self.lines[index]


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a local tag, `!Exact x`: tag "Exact", value "x"."""

    tag: str
    value: "Value"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file; `base` is the path of its value inside the file's document (items of a List)."""

    file: str
    line: int
    value: "Value"
    base: Path = ()

    def line_of(self, path: Path) -> int:
        """The line of what `path` (relative to `value`) leads to, or of its nearest ancestor that is there."""
        line, value = self.line, self.value
        for step in path:
            if isinstance(value, Tagged):
                value = value.value
            match value:
                case Object() if step in value:
                    line, value = value.line_of(step), value[step]
                case Array() if isinstance(step, int) and 0 <= step < len(value):
                    line, value = value.line_of(step), value[step]
                case _:
                    break
        return line

    def problem(self, path: Path, what: str, fix: str) -> Problem:
        return Problem(what=what, fix=fix, field=field_text(self.base + path), file=self.file, line=self.line_of(path))


def field_text(path: Path) -> str:
    """`("spec", "ports", 0, "number")` → `spec.ports[0].number`; keys with other characters are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


def objects(document: Document) -> Iterator[Document]:
    """The document itself, or the items of a Kubernetes `List`."""
    value = document.value
    if isinstance(value, Object) and value.get("kind") == "List" and isinstance(value.get("items"), Array):
        items = cast("Array", value["items"])
        for index, item in enumerate(items):
            yield Document(document.file, items.line_of(index), item, ("items", index))
    else:
        yield document
