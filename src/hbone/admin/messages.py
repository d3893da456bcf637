"""A request and its answer as values, so that everything about them can be decided without a socket."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from enum import Enum
from typing import Final

from hbone.values import dataclass

TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
_OFF: Final = frozenset({"0", "false", "no"})
_PEOPLES_CLIENTS: Final = ("curl/", "Wget/", "HTTPie/", "Mozilla/")


class Transport(Enum):
    """How a request came in."""

    TCP = "tcp"
    UNIX = "unix"


class Layout(Enum):
    """How JSON is laid out: on one line for machines, indented for people."""

    COMPACT = "compact"
    PRETTY = "pretty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked. `headers` have lower-case names; a header given twice has its values joined by commas."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    transport: Transport = Transport.TCP

    @property
    def layout(self) -> Layout:
        """As `?pretty` says (`pretty=false` for one line), else pretty for the clients that people use."""
        chosen = self.query.get("pretty")
        if chosen is not None:
            return Layout.COMPACT if chosen.lower() in _OFF else Layout.PRETTY
        people = self.headers.get("user-agent", "").startswith(_PEOPLES_CLIENTS)
        return Layout.PRETTY if people else Layout.COMPACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent back. A body in pieces is sent piece by piece, with the loop free in between.

    `after` is called once the answer has been sent.
    """

    status: int = 200
    content_type: str = TEXT
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    after: Callable[[], None] | None = None


def text_answer(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Plain text, a newline added."""
    return Answer(status=status, body=f"{text}\n".encode(), headers=headers or {})
