"""Reading documents field by field: typed values out, every problem collected with its place.

A `Section` is one mapping. Whatever is asked of it counts as known; `finish` reports the keys that nobody asked
for, with the nearest known name. A wrong value is reported and its default returned, so that one mistake does not
hide the next.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final, TypeVar

from hbone.addr import InvalidAddress
from hbone.documents.values import Array, Document, Key, Object, Path, Tagged, Value
from hbone.errors import Problem

_T = TypeVar("_T")

_WORDS: Final[Mapping[type, str]] = {
    str: "text",
    int: "a number",
    float: "a number with a fraction",
    bool: "true or false",
    Object: "a mapping",
    Array: "a list",
    Tagged: "a tagged value",
    type(None): "nothing",
}
_NONE: Final[frozenset[str]] = frozenset()
_DNS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def shown(value: object) -> str:
    """A value as its file has it, shortened."""
    text = _plain(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _plain(value: object) -> str:
    if isinstance(value, Tagged):
        return f"!{value.tag} {_plain(value.value)}".removesuffix(" null")
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)


def nearest(name: str, known: Mapping[str, object] | set[str] | list[str], instead: str) -> str:
    """What to write for a misspelt name: the closest known one, or else `instead`."""
    folded = {candidate.lower().replace("_", ""): candidate for candidate in known}
    close = get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[close[0]]!r}?" if close else instead


class Section:
    """One mapping of a document, being read."""

    __slots__ = ("_all", "_known", "document", "path", "problems", "value")

    def __init__(self, document: Document, value: Object, path: Path, problems: list[Problem]) -> None:
        self.document = document
        self.value = value
        self.path = path
        self.problems = problems
        self._known: set[str] | None = None  # made when needed: a large mesh has many sections
        self._all: frozenset[str] = _NONE

    @classmethod
    def root(cls, document: Document, problems: list[Problem], what: str) -> "Section | None":
        """The document's own mapping; None, with a problem, when it is something else."""
        if isinstance(document.value, Object):
            return cls(document, document.value, (), problems)
        problems.append(document.problem((), f"a document that is {_kind(document.value)}", f"write {what}"))
        return None

    # problems

    def problem(self, key: Key | Path, what: str, fix: str) -> None:
        path = key if isinstance(key, tuple) else (key,)
        self.problems.append(self.document.problem(self.path + path, what, fix))

    def wrong_type(self, key: Key | Path, value: Value, wanted: str) -> None:
        self.problem(key, f"{shown(value)} is {_kind(value)}", f"write {wanted}")

    def missing(self, key: str, fix: str) -> None:
        self.problem(key, "is missing", fix)

    def ignore(self, *keys: str) -> None:
        """Fields that are right to have there and mean nothing to us."""
        for key in keys:
            self._ask(key)

    def know(self, keys: frozenset[str]) -> None:
        """All keys that there can be, for who asks for those only that are there, or always for the same."""
        self._all = keys

    def finish(self) -> None:
        """Reports every key that was not asked for."""
        if self._all.issuperset(self.value):
            return
        known = self._all if self._known is None else self._known | self._all
        for key in self.value:
            if key not in known:
                all_known = ", ".join(sorted(known)) or "none"
                self.problem(
                    key, "is not a known field", nearest(str(key), set(known), f"the fields here are: {all_known}")
                )

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    # values

    def raw(self, key: str) -> Value:
        """The value as it stands; None also where it is absent."""
        if key not in self._all:
            self._ask(key)
        return self.value.get(key)

    def _ask(self, key: str) -> None:
        if self._known is None:
            self._known = {key}
        else:
            self._known.add(key)

    def text(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        if isinstance(value, str):
            return value
        if value is None:
            return default
        fix = f'text; in quotes if it is meant: "{value}"' if isinstance(value, int | float) else "text"
        self.wrong_type(key, value, fix)
        return default

    def required_text(self, key: str, example: str) -> str | None:
        """None, with a problem, when it is missing, empty or no text."""
        value = self.raw(key)
        if isinstance(value, str) and value:
            return value
        if value is None or value == "":
            self.missing(key, f"write {key}: {example}")
            return None
        return self.text(key) or None

    def dns_name(self, key: str, default: str | None, example: str) -> str | None:
        """A Kubernetes object name; None, with a problem, when it is none (or missing, without a default)."""
        if default is not None and self.raw(key) is None:
            return default
        name = self.required_text(key, example)
        if name is None or (len(name) <= 253 and _DNS_NAME.fullmatch(name)):
            return name
        self.problem(key, f"{shown(name)} is not a name", f"use a-z 0-9 '-' '.', for example {example}")
        return None

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong_type(key, value, f"a number from {low} to {high}")
        elif low <= value <= high:
            return value
        else:
            self.problem(key, f"{value} is out of range", f"write a number from {low} to {high}")
        return default

    def flag(self, key: str) -> bool:
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            self.wrong_type(key, value, "true or false")
        return value is True

    def choice(self, key: str, choices: Mapping[str, _T], default: _T) -> _T:
        """One of the words in `choices`."""
        value = self.raw(key)
        if value is None:
            return default
        return self.word((key,), value, choices, default)

    def word(self, path: Path, value: Value, choices: Mapping[str, _T], default: _T) -> _T:
        if isinstance(value, str) and value in choices:
            return choices[value]
        known = f"write one of: {', '.join(choices)}"
        if isinstance(value, str):
            self.problem(path, f"{shown(value)} is not a choice here", nearest(value, choices, known))
        else:
            self.wrong_type(path, value, f"one of: {', '.join(choices)}")
        return default

    def parsed(self, path: Path, text: str, parse: Callable[[str], _T]) -> _T | None:
        """`parse(text)`; None, with its InvalidAddress as a problem."""
        try:
            return parse(text)
        except InvalidAddress as error:
            self.problem(path, error.what, error.fix or "write an IP address")
            return None

    # collections

    def section(self, key: str) -> "Section | None":
        """A mapping inside; None where absent or wrong."""
        value = self.raw(key)
        return None if value is None else self._inner((key,), value)

    def sections(self, key: str) -> list["Section"]:
        """A list of mappings; wrong items are reported and left out."""
        return list(self.each(key))

    def each(self, key: str) -> Iterator["Section"]:
        """As `sections`, for lists that are too long to have all of them at once."""
        for index, item in self._items(key, "a list of mappings"):
            section = self._inner((key, index), item)
            if section is not None:
                yield section

    def _inner(self, path: Path, value: Value) -> "Section | None":
        if isinstance(value, Object):
            return Section(self.document, value, self.path + path, self.problems)
        self.wrong_type(path, value, "a mapping")
        return None

    def _items(self, key: str, wanted: str) -> Iterable[tuple[int, Value]]:
        value = self.raw(key)
        if value is None:
            return ()
        if isinstance(value, Array):
            return enumerate(value)
        self.wrong_type(key, value, wanted)
        return ()

    def texts(self, key: str) -> list[tuple[Path, str]]:
        """A list of texts, each with its path for further problems."""
        found: list[tuple[Path, str]] = []
        for index, item in self._items(key, "a list of texts"):
            if isinstance(item, str):
                found.append(((key, index), item))
            else:
                self.wrong_type((key, index), item, "text")
        return found

    def values(self, key: str) -> list[tuple[Path, Value]]:
        return [((key, index), item) for index, item in self._items(key, "a list")]

    def labels(self, key: str) -> dict[str, str]:
        """A mapping of texts to texts."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Object):
            self.wrong_type(key, value, "a mapping of texts")
            return {}
        found: dict[str, str] = {}
        for name, content in value.items():
            if not isinstance(name, str):
                self.problem((key, name), f"{shown(name)} is a number", f'write it in quotes: "{name}"')
            elif isinstance(content, str):
                found[name] = content
            else:
                self.wrong_type((key, name), content, _quoted(content))
        return found

    def ports(self, key: str) -> dict[str, int]:
        """A mapping of port names to numbers."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Object):
            self.wrong_type(key, value, "a mapping of names to ports, for example {http: 8080}")
            return {}
        found: dict[str, int] = {}
        for name, number in value.items():
            port = self.port((key, name), number)
            if port is not None:
                found[str(name)] = port
        return found

    def port(self, path: Path, value: Value) -> int | None:
        """A port number; None, with a problem, when it is none."""
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 < value < 65536:
                return value
            self.problem(path, f"{value} is not a port", "write a number from 1 to 65535")
        else:
            self.wrong_type(path, value, "a number from 1 to 65535")
        return None

    def number(self, path: Path, key: Key) -> int | None:
        """A port as the key of a mapping, where "80" is as good as 80."""
        if isinstance(key, str) and key.isdecimal() and key.isascii():
            return self.port(path, int(key[:10]))
        return self.port(path, key)


def _kind(value: object) -> str:
    return _WORDS.get(type(value), "something else")


def _quoted(value: Value) -> str:
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else value
    return f'text: "{text}"' if isinstance(value, bool | int | float) else "text"
