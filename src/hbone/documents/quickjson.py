"""JSON read by the standard library's decoder: some ten times faster than as YAML, and without lines.

For very large files that are right, as nearly all are. Whatever the careful way (`hbone.documents.document`) would
have something to say about, or would read differently, raises Doubtful here; the caller then reads it that way.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from hbone.documents.values import Array, Document, Object, Path, Value
from hbone.errors import Problem

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DIGITS: Final = 18  # as many as any number that means the same to both ways of reading


class Doubtful(ValueError):
    """To be read carefully instead."""


class QuickDocument(Document):
    """A document whose values have no lines: so it has no problems either."""

    __slots__ = ()

    def problem(self, path: Path, what: str, fix: str) -> Problem:
        raise Doubtful(what)


class QuickJson:
    """One walk over a JSON text, value by value; each value that is given out is forgotten here.

    Every method raises ValueError (Doubtful among them) or RecursionError for what cannot be read so.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._skip()
        if text.startswith("{", self._at) and _SURROGATE.search(text):
            raise Doubtful("half a character")

    def members(self) -> Iterator[str]:
        """The keys of an object; the value must be taken before the next one is asked for."""
        seen: set[str] = set()
        for _ in self._parts("{", "}"):
            key, self._at = _DECODER.raw_decode(self._text, self._at)
            if not isinstance(key, str) or key in seen:
                raise Doubtful(f"the key {key!r}")
            seen.add(key)
            self._expect(":")
            yield key

    def items(self) -> Iterator[Value]:
        """The items of a list, one by one."""
        for _ in self._parts("[", "]"):
            yield self.value()

    def span(self) -> tuple[str, int]:
        """The text of a value, and how many lines are before it."""
        self._skip()
        began = self._at
        self.value()
        return self._text[began : self._at], self._text.count("\n", 0, began)

    def end(self) -> None:
        """Nothing more may come."""
        self._skip()
        if self._at != len(self._text):
            raise Doubtful("more after the end")

    def value(self) -> Value:
        """The value that is next."""
        self._skip()
        value: Any
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return _array(value) if type(value) is list else value  # pyright: ignore[reportUnknownArgumentType] - JSON

    def _parts(self, opening: str, closing: str) -> Iterator[None]:
        self._expect(opening)
        self._skip()
        if self._text.startswith(closing, self._at):
            self._at += 1
            return
        while True:
            self._skip()
            yield
            self._skip()
            if self._text.startswith(closing, self._at):
                self._at += 1
                return
            self._expect(",")

    def _expect(self, character: str) -> None:
        self._skip()
        if not self._text.startswith(character, self._at):
            raise Doubtful(f"no {character}")
        self._at += 1

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at


def _object(pairs: list[tuple[str, Any]]) -> Object:
    found = Object(0)
    for key, value in pairs:
        found[key] = _array(value) if type(value) is list else value  # pyright: ignore[reportUnknownArgumentType] - JSON
    if len(found) != len(pairs):
        raise Doubtful("a key twice")
    return found


def _array(values: list[Any]) -> Array:
    found = Array(0)
    found.extend(values)
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise Doubtful(f"the number {text[:60]}")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise Doubtful(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
