"""Pieces of YAML that are written alike: the first ones are parsed, the others are matched.

A large file was written by a program, and consists of a few shapes: pieces (documents, or items of a list) that differ
in some scalars only. The careful reader (`hbone.documents.document`) takes 50 µs for a small one, most of it for its
events. So a piece is parsed once more with signs in the place of its scalars; what comes out is the shape, a regular
expression with a gap where each scalar was, and the tree of values with the gaps in it. A further piece that the
expression matches is that tree with its own scalars, and the same lines counted from where it begins.

Why that is what the careful reader would say: a gap takes only what is one scalar on one line wherever a scalar of its
style can stand, unquoted words of letters, digits and `_./:@-` that begin with a letter or digit and do not end in a
colon, or quoted text without escapes. It never stands for a key. Everything else is the same, byte for byte. Nothing
with an anchor, an alias or a tag has a shape. And each shape is tried on the piece that it was learnt from.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import yaml

from hbone.documents.document import MAYBE_NO_TEXT, events, read_lines, resolved
from hbone.documents.values import Array, Key, Object, Tagged, Value
from hbone.errors import InvalidConfiguration, Problem
from hbone.values import dataclass

MAX_PIECE: Final = 16_384  # characters; what is longer takes long to parse, not to begin
MAX_DEPTH: Final = 16
_MAX_OUTLINES: Final = 4096
_MAX_SHAPES: Final = 256  # each costs some milliseconds to learn

_GAPS: Final = {
    "": r"([0-9A-Za-z][0-9A-Za-z_./:@-]*+(?<!:))",
    '"': r'"([ !#-\[\]-~]*+)"',
    "'": r"'([ -&(-~]*+)'",
}
"""By style; each group is the scalar's text."""

_NAME: Final = r"([0-9A-Za-z][0-9A-Za-z_.-]{0,250}+/[0-9A-Za-z_./-]{1,250}+)"
"""A key with a slash is a name, of a service or of a label, and may be another one (in both kinds of quotes, too)."""

_GAP: Final = {style: re.compile(pattern) for style, pattern in _GAPS.items()}
_VARIABLE: Final = re.compile(
    r"""(?<=[:,\[{-] )(?:[0-9A-Za-z][0-9A-Za-z_./:@-]*+|"[^"\n]*+"|'[^'\n]*+')"""
    r"""|[0-9A-Za-z_.-]++/[0-9A-Za-z_./-]++(?=["']?:)"""
)
"""Roughly what may differ between pieces of one shape."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """Where in a piece a scalar is, quotes included; `pattern` takes what may stand there instead."""

    start: int
    end: int
    style: str
    text: str
    pattern: str


_Values = list[Any]  # Any: of each kind of Value; a shape knows which stands where
_Step = Callable[[_Values, int], None]
"""Makes a collection of values that are there, counting its lines from the second argument, and adds it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a piece of text must look like, and what it comes to: its scalars, then `constants`, then what `steps` make
    of those, the last of which is the value."""

    pattern: re.Pattern[str]
    unquoted: tuple[int, ...]
    constants: tuple[Value, ...]
    steps: tuple[_Step, ...]
    size: int

    def made(self, text: str, start: int, end: int, before: int) -> Object | Array | None:
        """The value of the piece between `start` and `end`, which has `before` lines before it; None if it has
        another shape."""
        match = self.pattern.fullmatch(text, start, end)
        if match is None:
            return None
        values: _Values = [*match.groups(), *self.constants]
        for gap in self.unquoted:
            scalar: str = values[gap]
            if scalar[0] in MAYBE_NO_TEXT:
                values[gap] = resolved(scalar)
        try:
            for step in self.steps:
                step(values, before)
        except _Unfit:
            return None
        found: Object | Array = values[-1]
        return found


class Shapes:
    """The shapes that were met. A piece whose like was not seen before costs nothing but a glance."""

    def __init__(self) -> None:
        self._last: Shape | None = None
        self._known: dict[int, Shape | None] = {}  # by outline
        self._once: set[int] = set()

    def made(self, text: str, start: int, end: int, before: int) -> Object | Array | None:
        """As `Shape.made`, of whatever shape fits; None: to be read carefully."""
        if self._last is not None and (found := self._last.made(text, start, end, before)) is not None:
            return found
        shape = self._shape_for(text[start:end]) if end - start <= MAX_PIECE else None
        found = shape.made(text, start, end, before) if shape is not None else None
        if found is not None:
            self._last = shape
        return found

    def _shape_for(self, piece: str) -> Shape | None:
        outline = hash(_VARIABLE.sub("", piece))
        if outline in self._known:
            return self._known[outline]
        if outline not in self._once:
            if len(self._once) >= _MAX_OUTLINES:
                self._once.clear()
            self._once.add(outline)
            return None
        if len(self._known) >= _MAX_SHAPES:
            return None
        shape = self._known[outline] = learnt(piece)
        return shape


def learnt(piece: str) -> Shape | None:
    """The shape of a piece, whose value must be a collection; None for one that has to be read carefully."""
    try:
        gaps = list(_scalars(piece))
        sign = _unused(piece)
        _, texts = _tree(_marked(piece, gaps, sign))
        gaps = [
            gap if f"{sign}{number}" in texts else replace(gap, pattern=f"{gap.style}{_NAME}{gap.style}")
            for number, gap in enumerate(gaps)
            if f"{sign}{number}" in texts or re.fullmatch(_NAME, gap.text)  # the others are keys
        ]
        tree, _ = _tree(_marked(piece, gaps, sign))
        plan = _Plan([f"{sign}{number}" for number in range(len(gaps))])
        plan.add(tree, 1)
        shape = plan.shape(piece, gaps)
        careful, _ = _tree(piece)
    except (yaml.YAMLError, InvalidConfiguration, _Unfit):
        return None
    tried = shape.made(piece, 0, len(piece), 0)
    return shape if tried is not None and same(tried, careful) else None


class _Unfit(Exception):
    """A piece that has no shape, or not this one."""


def _scalars(piece: str) -> Iterator[_Gap]:
    """The scalars of which others may stand in the place, keys among them."""
    for event in events(piece):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Unfit
        if isinstance(event, yaml.ScalarEvent) and event.tag is None:
            found: Any = event
            start, end, style = found.start_mark.index, found.end_mark.index, found.style or ""
            if style in _GAP and (match := _GAP[style].fullmatch(piece, start, end)) and match[1] == found.value:
                yield _Gap(start, end, style, found.value, _GAPS[style])


def _unused(piece: str) -> str:
    sign = "q"
    while sign in piece:
        sign += "q"
    return sign


def _marked(piece: str, gaps: list[_Gap], sign: str) -> str:
    parts: list[str] = []
    at = 0
    for number, gap in enumerate(gaps):
        parts += piece[at : gap.start], f"{gap.style}{sign}{number}{gap.style}"
        at = gap.end
    return "".join((*parts, piece[at:]))


def _tree(piece: str) -> tuple[Object | Array, set[str]]:
    """What a piece says, and the texts in it that are no keys."""
    problems: list[Problem] = []
    documents = read_lines("", piece, range(1, len(piece) + 3), problems)
    if problems or len(documents) != 1 or not isinstance(documents[0].value, Object | Array):
        raise _Unfit
    names: set[str] = set()
    values: list[Value] = [documents[0].value]
    while values:
        match values.pop():
            case Object() as found:
                values += found.values()
            case Array() as found:
                values += found
            case str() as text:
                names.add(text)
            case Tagged():
                raise _Unfit
            case _:
                pass
    return documents[0].value, names


class _Plan:
    """A shape in the making: which value stands where, and what makes which collection of them."""

    def __init__(self, signs: list[str]) -> None:
        self._slots = {sign: slot for slot, sign in enumerate(signs)}
        self._collections: list[Object | Array] = []
        self._parts: list[list[int]] = []  # of each collection, as `add` says
        self._named: list[list[int]] = []  # the same of its keys, where some are gaps
        self._constants: list[Value] = []
        self._gaps = len(signs)
        self._size = 0  # keys are values too, as the careful reader counts

    def add(self, value: Value, depth: int) -> int:
        """Where the value will stand: a gap's or a collection's number, or below 0 for a constant."""
        self._size += 1
        if isinstance(value, Object | Array):
            if depth > MAX_DEPTH:
                raise _Unfit
            self._size += len(value) if isinstance(value, Object) else 0
            inside = value.values() if isinstance(value, Object) else value
            parts = [self.add(one, depth + 1) for one in inside]
            keys = list(value) if isinstance(value, Object) else []
            named = [self._scalar(key) for key in keys] if any(key in self._slots for key in keys) else []
            self._collections.append(value)
            self._parts.append(parts)
            self._named.append(named)
            return self._gaps + len(self._parts) - 1
        return self._scalar(value)

    def _scalar(self, value: Value) -> int:
        if isinstance(value, str) and value in self._slots:
            return self._slots[value]
        self._constants.append(value)
        return -len(self._constants)

    def shape(self, piece: str, gaps: list[_Gap]) -> Shape:
        pattern: list[str] = []
        at = 0
        for gap in gaps:
            pattern += re.escape(piece[at : gap.start]), gap.pattern
            at = gap.end
        pattern.append(re.escape(piece[at:]))
        return Shape(
            pattern=re.compile("".join(pattern)),
            unquoted=tuple(number for number, gap in enumerate(gaps) if not gap.style),
            constants=tuple(self._constants),
            steps=tuple(map(self._step, self._collections, self._parts, self._named)),
            size=self._size,
        )

    def _step(self, like: Object | Array, parts: list[int], named: list[int]) -> _Step:
        """Gaps come first in the list of values, then constants, then collections in their order."""
        places = [self._place(part) for part in parts]
        if isinstance(like, Object):
            if named:
                return _names_maker(like, [self._place(part) for part in named], places)
            return _object_maker(like, tuple(like), places)
        return _array_maker(like, places)

    def _place(self, part: int) -> int:
        if part < 0:
            return self._gaps - part - 1
        return part if part < self._gaps else part + len(self._constants)


def _object_maker(like: Object, keys: tuple[Key, ...], places: list[int]) -> _Step:
    line, lines, new = like.line, like.lines, Object.__new__
    members = tuple(zip(keys, places, strict=True))

    def make(values: _Values, before: int) -> None:
        made = new(Object)  # not by __init__, of which none of the values would stay
        made.line = before + line
        made.lines = lines
        made.before = before
        for key, place in members:  # a third of what `update` of a `zip` takes for the few that there are
            made[key] = values[place]
        values.append(made)

    return make


def _names_maker(like: Object, names: list[int], places: list[int]) -> _Step:
    line, lines = like.line, list(like.lines.values())

    def make(values: _Values, before: int) -> None:
        found = [values[place] for place in names]
        made = Object(before + line)
        made.lines = dict(zip(found, lines, strict=True))
        made.before = before
        made.update(zip(found, [values[place] for place in places], strict=True))
        if len(made) != len(found):
            raise _Unfit  # a name twice
        values.append(made)

    return make


def _array_maker(like: Array, places: list[int]) -> _Step:
    line, lines = like.line, like.lines

    def make(values: _Values, before: int) -> None:
        made = Array(before + line)
        made.lines = lines
        made.before = before
        made += [values[place] for place in places]
        values.append(made)

    return make


def same(one: Value, other: Value) -> bool:
    """Whether two values are the same, types, order of keys, and lines included."""
    match one, other:
        case Object(), Object():
            return (
                one.line == other.line
                and list(one) == list(other)
                and all(one.line_of(key) == other.line_of(key) and same(one[key], other[key]) for key in one)
            )
        case Array(), Array():
            return (
                one.line == other.line
                and len(one) == len(other)
                and all(one.line_of(at) == other.line_of(at) and same(one[at], other[at]) for at in range(len(one)))
            )
        case _:
            return type(one) is type(other) and one == other
