"""What `Http2Connection.receive` reports, in the order in which it happened.

Plain slotted classes, not dataclasses: frozen ones take three times as long to make, and each carried message makes one
or two. Nobody changes them.
"""

from collections.abc import Sequence

from hbone.protocol.codes import ConnectionViolation, StreamViolation
from hbone.protocol.streams import Stream

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, pseudo-headers first."""


class HeadersReceived:
    """A request (server) or the final response (client). With `end_stream` no EndReceived follows."""

    __slots__ = ("end_stream", "headers", "stream")

    def __init__(self, stream: Stream, headers: Headers, end_stream: bool) -> None:
        self.stream = stream
        self.headers = headers
        self.end_stream = end_stream


class DataReceived:
    """DATA came: all of it that this `receive()` call brought for the stream is in `stream.chunks`.

    The chunks look into the bytes that were given to `receive()`, are never empty, and count toward the stream's
    window until `consumed()`. At most one such event per stream and call.
    """

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class EndReceived:
    """The peer will send no more on this stream; comes after the DataReceived or TrailersReceived before it."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class TrailersReceived:
    """Trailers; EndReceived follows."""

    __slots__ = ("headers", "stream")

    def __init__(self, stream: Stream, headers: Headers) -> None:
        self.stream = stream
        self.headers = headers


class StreamReset:
    """The stream is gone. By the peer (its RST_STREAM, or its GOAWAY left the stream out: REFUSED_STREAM), or by us
    because the peer broke a rule (`why`); never for our own `reset()`.

    Code 0 by the peer after its END_STREAM means "stop sending", and is a clean end.
    """

    __slots__ = ("by_peer", "code", "stream", "why")

    def __init__(self, stream: Stream, code: int, *, by_peer: bool, why: str = "") -> None:
        self.stream = stream
        self.code = code
        self.by_peer = by_peer
        self.why = why


class RequestRefused:
    """A request that never became a stream: malformed, too large, or beyond our limit; it is answered already."""

    __slots__ = ("error", "stream_id")

    def __init__(self, stream_id: int, error: StreamViolation) -> None:
        self.stream_id = stream_id
        self.error = error


class WindowOpened:
    """A send window went from none to some; `stream` None: the connection's."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream


class SettingsReceived:
    """The peer's SETTINGS are in force, and acknowledged; `changed` holds the values it sent, by number."""

    __slots__ = ("changed",)

    def __init__(self, changed: dict[int, int]) -> None:
        self.changed = changed


class SettingsAcknowledged:
    """The peer has our SETTINGS."""

    __slots__ = ()


class PingAcknowledged:
    """The answer to a `ping()`, by its eight bytes."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class GoAwayReceived:
    """The peer takes no new streams. Streams above `last_stream_id` follow as StreamReset(REFUSED_STREAM)."""

    __slots__ = ("code", "debug", "last_stream_id")

    def __init__(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.last_stream_id = last_stream_id
        self.code = code
        self.debug = debug


class ConnectionFailed:
    """The peer broke the connection's rules. GOAWAY is in the outbox: flush and close. Always the last event."""

    __slots__ = ("error",)

    def __init__(self, error: ConnectionViolation) -> None:
        self.error = error


Event = (
    HeadersReceived
    | DataReceived
    | EndReceived
    | TrailersReceived
    | StreamReset
    | RequestRefused
    | WindowOpened
    | SettingsReceived
    | SettingsAcknowledged
    | PingAcknowledged
    | GoAwayReceived
    | ConnectionFailed
)
