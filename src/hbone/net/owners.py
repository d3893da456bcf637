"""Whom a link tells what happens: the owners of its streams, and one handler for the connection as a whole."""

from typing import Protocol

from hbone.errors import HboneError
from hbone.protocol.codes import StreamViolation
from hbone.protocol.events import Headers
from hbone.protocol.streams import Stream


class StreamOwner(Protocol):
    """Who is told what happens to a stream. All calls are synchronous and come from the link's turn."""

    def on_headers(self, headers: Headers) -> None: ...
    def on_data(self, stream: Stream) -> None: ...
    def on_end(self) -> None: ...
    def on_reset(self, code: int) -> None: ...
    def on_window(self) -> None: ...
    def on_link_lost(self, error: HboneError) -> None: ...
    def resume(self) -> None: ...


class LinkHandler(Protocol):
    """Who is told what happens to the connection as a whole."""

    def on_ready(self) -> None:
        """The peer's SETTINGS arrived: it has accepted our certificate (a TLS 1.3 client knows only now)."""

    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        """A peer opened a stream; give it an owner, or reset it."""

    def on_refused(self, error: StreamViolation) -> None:
        """A peer's request was malformed or too large; it has its answer."""

    def on_going_away(self, last_stream_id: int) -> None:
        """The peer takes no new streams; those above `last_stream_id` were not acted on."""

    def on_slot_free(self) -> None:
        """A stream is over: another one may be opened, or the connection may be idle now."""

    def on_closed(self, error: HboneError | None) -> None:
        """The connection is gone; None after a close that both sides agreed on. Called once."""


class Nobody:
    """The handler before there is one: nothing can happen yet."""

    def on_ready(self) -> None: ...
    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None: ...
    def on_refused(self, error: StreamViolation) -> None: ...
    def on_going_away(self, last_stream_id: int) -> None: ...
    def on_slot_free(self) -> None: ...
    def on_closed(self, error: HboneError | None) -> None: ...
