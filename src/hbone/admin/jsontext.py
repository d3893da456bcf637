"""JSON text in pieces: a mesh of a hundred thousand workloads is shown without stopping the loop for a second.

orjson writes dataclasses in the order of their fields, slotted ones too.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import orjson

from hbone.admin.messages import JSON, Answer, Layout
from hbone.values import dataclass

SLICE: Final = 100  # entries a piece: about a millisecond of work
_OPTIONS: Final = orjson.OPT_NON_STR_KEYS  # ports are numbers


@dataclass(frozen=True, slots=True)
class Listed:
    """Entries to be written as a JSON array, as they come."""

    entries: Iterable[object]


@dataclass(frozen=True, slots=True)
class Keyed:
    """Keys and entries to be written as a JSON object, as they come; an entry may be Listed or Keyed again."""

    entries: Iterable[tuple[str, object]]


def json_answer(value: object, layout: Layout) -> Answer:
    """`value`: views, plain values, Listed, Keyed."""
    return Answer(content_type=JSON, body=json_pieces(value, layout))


def json_pieces(value: object, layout: Layout) -> Iterator[bytes]:
    """The text of `value`, with a newline at its end, in pieces of some kilobytes."""
    texts = _texts(value, layout, b"")
    while piece := b"".join(islice(texts, SLICE)):
        yield piece
    yield b"\n"


def _texts(value: object, layout: Layout, indent: bytes) -> Iterator[bytes]:
    """The parts of the text, none of them empty; `indent` is that of the line where `value` begins."""
    inner = indent + b"  " if layout is Layout.PRETTY else b""
    line, colon = (b"\n", b": ") if layout is Layout.PRETTY else (b"", b":")
    match value:
        case Listed(entries=entries):
            gap = b"[" + line + inner
            for entry in entries:
                yield gap + _text(entry, layout, inner)
                gap = b"," + line + inner
            yield b"[]" if gap.startswith(b"[") else line + indent + b"]"
        case Keyed(entries=entries):
            gap = b"{" + line + inner
            for key, entry in entries:
                yield gap + orjson.dumps(key) + colon
                yield from _texts(entry, layout, inner)
                gap = b"," + line + inner
            yield b"{}" if gap.startswith(b"{") else line + indent + b"}"
        case _:
            yield _text(value, layout, indent)


def _text(value: object, layout: Layout, indent: bytes) -> bytes:
    if layout is Layout.COMPACT:
        return orjson.dumps(value, option=_OPTIONS, default=str)
    text = orjson.dumps(value, option=_OPTIONS | orjson.OPT_INDENT_2, default=str)
    # Line breaks inside strings are escaped: all that are left are the layout's.
    return text.replace(b"\n", b"\n" + indent) if indent else text
