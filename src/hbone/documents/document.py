"""YAML (and so JSON) text → documents whose every key knows its line.

Read event by event, not recursively: neither depth nor aliases of a hostile file can exhaust anything. Of YAML 1.1's
surprises only what Kubernetes users rely on is kept: `yes`, `on` and `22:22` are strings, `true`, `12` and `1.5`
are not; a repeated key is an error. Local tags (`!Exact x`) become `Tagged`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import yaml

from hbone.documents.values import Array, Document, Key, Object, Tagged, Value
from hbone.errors import InvalidConfiguration, Problem

MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # 200,000 workloads of a local XDS file
MAX_DEPTH: Final = 64  # the deepest manifest, an AuthorizationPolicy, needs 9
MAX_VALUES: Final = 10_000_000  # after aliases are followed; "billion laughs" is 10^9

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster, where it was built in
_CORE: Final = "tag:yaml.org,2002:"
_NUMBER: Final = re.compile(
    r"([-+]?(?:0|[1-9][0-9]{0,18}))"
    r"|(0x[0-9a-fA-F]{1,16})"
    r"|([-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,3})?|[-+]?\.[0-9]+)"
)
"""A decimal number, a hexadecimal one, or one with a fraction."""
_WORDS: Final[Mapping[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
MAYBE_NO_TEXT: Final = frozenset("+-.0123456789~ntfNTF")
"""How an unquoted scalar begins that may be something else than text."""


def parse_documents(file: str, text: str | bytes) -> tuple[Document, ...]:
    """The documents of a file, empty ones left out; raises InvalidConfiguration."""
    problems: list[Problem] = []
    documents = read_documents(file, text, problems)
    if problems:
        raise InvalidConfiguration(problems)
    return documents


def read_documents(file: str, text: str | bytes, problems: list[Problem]) -> tuple[Document, ...]:
    """As `parse_documents`, but adds what is wrong to `problems` and returns what could be read."""
    try:
        plain = decoded(file, text)
        return read_lines(file, plain, range(1, len(plain) + 3), problems)  # libyaml counts beyond the end
    except InvalidConfiguration as error:
        problems.extend(error.problems)
        return ()


def read_lines(file: str, text: str, lines: Sequence[int], problems: list[Problem]) -> tuple[Document, ...]:
    """The documents of a part of a file; `lines` are the numbers that its lines have there. Mistakes of syntax have
    the number in `text`. Raises InvalidConfiguration for what stops the reading otherwise."""
    reader = _Reader(file, lines, problems)
    try:
        loader: Any = _LOADER(text)
        reader.read(loader)
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(file, text, error))
    return tuple(reader.documents)


def events(text: str) -> Iterator[Any]:  # Any: PyYAML's events have no types
    """What libyaml sees in a text, one by one; raises YAMLError."""
    loader: Any = _LOADER(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
    finally:
        loader.dispose()


def decoded(file: str, text: str | bytes) -> str:
    """The text of a file; raises InvalidConfiguration for one that is too long, or no UTF-8."""
    if len(text) > MAX_FILE_BYTES:
        raise InvalidConfiguration(
            [
                Problem(
                    what=f"a file of {len(text)} bytes",
                    fix=f"split it; the limit is {MAX_FILE_BYTES} bytes",
                    file=file,
                )
            ]
        )
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidConfiguration(
            [
                Problem(
                    what=f"byte 0x{text[error.start]:02x} is not UTF-8",
                    fix="save the file as UTF-8",
                    file=file,
                    line=line,
                )
            ]
        ) from error


def _syntax_problem(file: str, text: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    position = getattr(error, "position", None)
    if line is None and isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
    lines = text.split("\n")
    if line is not None:
        line = min(line, len(lines))  # libyaml counts beyond the end
    written = lines[line - 1] if line is not None else ""
    indent = written[: len(written) - len(written.lstrip())]
    fix = "indent with spaces, not tabs" if "\t" in indent else "check indentation, colons and quotes near this line"
    return Problem(what=f"not valid YAML: {said}", fix=fix, file=file, line=line)


_NO_KEY: Final = object()


class _Open:
    """A collection whose end has not come yet."""

    __slots__ = ("anchor", "collection", "inherited", "key", "key_line", "size", "tag")

    def __init__(self, collection: Object | Array, anchor: str | None, tag: str | None) -> None:
        self.collection = collection
        self.anchor = anchor
        self.tag = tag
        self.key: object = _NO_KEY
        self.key_line = 0
        self.inherited: set[Key] = set()  # keys that came by "<<" and may be overridden
        self.size = 1


class _Reader:
    """Builds values from YAML events."""

    def __init__(self, file: str, lines: Sequence[int], problems: list[Problem]) -> None:
        self.documents: list[Document] = []
        self._file = file
        self._lines = lines
        self._problems = problems
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._pending: set[str] = set()
        self._taken: dict[type[object], Callable[[Any, int], None]] = {
            yaml.ScalarEvent: self._taken_scalar,
            yaml.MappingStartEvent: self._taken_mapping,
            yaml.SequenceStartEvent: self._taken_sequence,
            yaml.MappingEndEvent: self._taken_end,
            yaml.SequenceEndEvent: self._taken_end,
            yaml.AliasEvent: self._taken_alias,
            yaml.DocumentStartEvent: self._taken_document,
        }

    def read(self, loader: Any) -> None:  # Any: PyYAML's loaders and events have no types
        """All events of a text. A table by the event's class costs half of what `match` does: half of all time goes
        into the reading of large files."""
        event_of, taken, lines = loader.get_event, self._taken, self._lines
        try:
            while (event := event_of()) is not None:
                kind: type[object] = event.__class__
                take = taken.get(kind)
                if take is not None:
                    at: int = event.start_mark.line
                    take(event, lines[at])
        finally:
            loader.dispose()

    def _taken_scalar(self, event: Any, line: int) -> None:
        if event.tag is None and event.implicit[0]:
            self._value(resolved(event.value), line, 1, event.anchor)
        else:
            self._value(self._scalar(event, line), line, 1, event.anchor)

    def _taken_mapping(self, event: Any, line: int) -> None:
        self._open(Object(line), event, line)

    def _taken_sequence(self, event: Any, line: int) -> None:
        self._open(Array(line), event, line)

    def _taken_end(self, _event: Any, _line: int) -> None:
        self._close()

    def _taken_alias(self, event: Any, line: int) -> None:
        self._alias(event.anchor or "", line)

    def _taken_document(self, _event: Any, _line: int) -> None:
        self._anchors.clear()

    def _fail(self, what: str, fix: str, line: int) -> InvalidConfiguration:
        return InvalidConfiguration([Problem(what=what, fix=fix, file=self._file, line=line)])

    def _open(self, collection: Object | Array, event: Any, line: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise self._fail(f"nested deeper than {MAX_DEPTH} levels", "write it flatter", line)
        tag = None if event.implicit or event.tag is None else self._local_tag(event.tag, line)
        self._stack.append(_Open(collection, event.anchor, tag))
        if event.anchor is not None:
            self._pending.add(event.anchor)
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        done = self._stack.pop()
        value: Value = done.collection if done.tag is None else Tagged(done.tag, done.collection)
        if done.anchor is not None:
            self._pending.discard(done.anchor)
        self._value(value, done.collection.line, done.size, done.anchor)

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            what = f"alias *{anchor} " + ("contains itself" if anchor in self._pending else "has no anchor before it")
            raise self._fail(what, f"define &{anchor} before it is used", line)
        value, size = self._anchors[anchor]
        self._value(value, line, size, None)

    def _value(self, value: Value, line: int, size: int, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._stack:
            if value is not None:
                self.documents.append(Document(self._file, line, value))
            return
        parent = self._stack[-1]
        parent.size += size
        if parent.size > MAX_VALUES:
            raise self._fail(f"more than {MAX_VALUES} values", "use fewer aliases", line)
        if isinstance(parent.collection, Array):
            parent.collection.append(value)
            parent.collection.lines.append(line)
        elif parent.key is _NO_KEY:
            parent.key, parent.key_line = value, line
        else:
            self._put(parent, parent.collection, value)
            parent.key = _NO_KEY

    def _put(self, parent: _Open, collection: Object, value: Value) -> None:
        key, line = parent.key, parent.key_line
        if key == "<<" and (merged := _merged(value)) is not None:
            for source in merged:
                for name, inherited in source.items():
                    if name not in collection:
                        parent.inherited.add(name)
                        collection[name] = inherited
                        collection.lines[name] = source.line_of(name)
        elif isinstance(key, bool) or not isinstance(key, str | int):
            self._problem(f"the key {_shown(key)} is not a name", "write it in quotes", line)
        elif key in collection and key not in parent.inherited:
            what = f"the key {_shown(key)} is there twice, first in line {collection.line_of(key)}"
            self._problem(what, "keep one of them", line)
        else:
            parent.inherited.discard(key)
            collection[key] = value
            collection.lines[key] = line

    def _problem(self, what: str, fix: str, line: int) -> None:
        self._problems.append(Problem(what=what, fix=fix, file=self._file, line=line))

    def _scalar(self, event: Any, line: int) -> Value:
        text = cast("str", event.value)
        if event.tag is not None and event.tag not in {"!", f"{_CORE}str"}:
            tag = self._local_tag(cast("str", event.tag), line)
            value = text if event.style else resolved(text)
            return value if tag is None else Tagged(tag, value)
        return text

    def _local_tag(self, tag: str, line: int) -> str | None:
        """The name of a local tag, None for one of YAML's own."""
        if tag.startswith("!") and len(tag) > 1:
            return tag[1:]
        if tag.removeprefix(_CORE) in {"!", "map", "seq", "int", "float", "bool", "null"}:
            return None
        raise self._fail(f"the tag {tag!r} means nothing here", "leave it out", line)


def _merged(value: Value) -> list[Object] | None:
    """What a `<<` key brings in; None when its value is nothing that could be merged."""
    if isinstance(value, Object):
        return [value]
    if isinstance(value, Array) and all(isinstance(item, Object) for item in value):
        return [item for item in value if isinstance(item, Object)]
    return None


def resolved(text: str) -> Value:
    """The value of an unquoted scalar."""
    if text and text[0] not in MAYBE_NO_TEXT:  # most are words
        return text
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    match number.lastindex if number is not None else 0:
        case 1:
            return int(text)
        case 2:
            return int(text, 16)
        case 3 if not (digits := text.lstrip("-+")).startswith("00") and not digits.isdigit():
            return float(text)
        case _:
            return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
