"""Request paths as Envoy has them: what is taken off before rules see them, and templates with `{*}` and `{**}`."""

import re
from enum import Enum
from functools import lru_cache
from typing import Final

from hbone.addr import InvalidAddress

ONE: Final = "{*}"
ANY: Final = "{**}"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9\-._~%!$&'()+,;:@=]+")  # RFC 3986 pchar without "*"
_UNRESERVED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SLASHES: Final = re.compile(r"/{2,}")
_ENCODED_SLASHES: Final = re.compile(r"%2[Ff]|%5[Cc]|\\")


class Normalization(Enum):
    """`meshConfig.pathNormalization`: how much is made equal before rules compare."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


def path_of(target: str, normalization: Normalization = Normalization.BASE) -> str:
    """The path that rules see of a request's `:path`."""
    path = re.split(r"[?#]", target, maxsplit=1)[0]
    if normalization is Normalization.NONE:
        return path
    if normalization is Normalization.DECODE_AND_MERGE_SLASHES:
        path = _ENCODED_SLASHES.sub("/", path)
    path = _without_dots(_UNRESERVED.sub(_decoded, path.replace("\\", "/")))
    # Last, as Envoy does: before, ".." would take away another segment (`//../` one slash, not the name before it).
    return path if normalization is Normalization.BASE else _SLASHES.sub("/", path)


def _decoded(encoded: re.Match[str]) -> str:
    char = chr(int(encoded[1], 16))
    return char if char in _PLAIN else encoded[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4."""
    if not path.startswith("/"):
        return path
    kept: list[str] = []
    segments = path[1:].split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def is_template(text: str) -> bool:
    return ONE in text or ANY in text


def check_template(text: str) -> None:
    """Raises InvalidAddress with what is wrong in a template."""
    if not text.startswith("/"):
        raise InvalidAddress(f"the path template {text[:80]!r} does not begin with '/'", fix=f"write /{text[:80]}")
    segments = text[1:].split("/")
    for index, segment in enumerate(segments):
        if segment == ANY and ANY in segments[index + 1 :]:
            raise InvalidAddress("{**} is there twice", fix="a path template may have {**} once, after every {*}")
        if segment == ANY and ONE in segments[index + 1 :]:
            raise InvalidAddress("{*} comes after {**}", fix="{**} must be the last operator of a path template")
        if segment in {ONE, ANY} or (segment == "" and index == len(segments) - 1):
            continue
        if not _SEGMENT.fullmatch(segment):
            raise InvalidAddress(
                f"the segment {segment[:80]!r} of a path template is not valid",
                fix="{*} and {**} stand alone between slashes; no other '*', '{' or '}'",
            )


@lru_cache(maxsize=4096)
def template_pattern(text: str) -> re.Pattern[str]:
    """What paths of a (checked) template look like."""
    pattern = ""
    for segment in text[1:].split("/"):
        if segment == ONE:
            pattern += "/[^/]+"
        elif segment == ANY:
            pattern += "/.*"  # Envoy keeps the slashes on both sides: `/a/{**}` does not fit `/a`
        else:
            pattern += "/" + re.escape(segment)
    return re.compile(pattern)
