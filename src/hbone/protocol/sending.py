"""The local half of an HTTP/2 connection: what our side does to it. `connection` adds what the peer does.

A method that writes may raise OutboxOverflow: the peer makes us write and does not read. The shell then drops the
connection.
"""

from collections.abc import Iterable
from typing import Final

from hbone.errors import TunnelFailure, UsageError
from hbone.protocol import frames
from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.flow import DEFAULT_WINDOW, stream_credit
from hbone.protocol.headers import Field, HeaderEncoder
from hbone.protocol.outbox import Outbox
from hbone.protocol.settings import LocalSettings, PeerSettings, Role, data_frame_bytes
from hbone.protocol.streams import Stream, StreamInput, StreamState


class StreamsExhausted(TunnelFailure):
    """No further stream can be opened on this connection now (the peer's limit) or ever (stream ids)."""


class TunnelClosing(TunnelFailure):
    """No further stream can be opened: one of the two sides is going away, or the connection failed."""


class SendingSide:
    """State of the connection, and all that the local side does. Public attributes are for reading.

    `streams`: open and half-closed ones, by id. `frame_bytes`: the largest DATA payload to send. `going_away`: we
    announced it. `last_error`: why the connection failed, None while it lives.
    """

    def __init__(self, role: Role, settings: LocalSettings, outbox: Outbox) -> None:
        self.role: Final = role
        self.settings: Final = settings
        self.outbox: Final = outbox
        self.streams: dict[int, Stream] = {}
        self.peer = PeerSettings()
        self.frame_bytes = data_frame_bytes(self.peer.max_frame_bytes)
        self.going_away = False
        self.peer_going_away = False
        self.last_error: ConnectionViolation | None = None
        self._encoder = HeaderEncoder()
        self._send_window = DEFAULT_WINDOW
        self._receive_window = settings.connection_window_bytes  # what the peer may still send; start() says so
        # Until the peer has seen our SETTINGS it may fill the default window, even where we announce a smaller one.
        self._initial_receive_window = max(settings.initial_window_bytes, DEFAULT_WINDOW)
        self._next_id = 1
        self._last_peer_id = 0  # the highest stream that the peer opened
        self._final_id: int | None = None  # of our final GOAWAY

    def start(self) -> None:
        """Put the preface (client), SETTINGS and the connection's window into the outbox; once, at the beginning."""
        opening = frames.settings(self.settings.values(self.role))
        if self.role is Role.CLIENT:
            opening = frames.PREFACE + opening
        extra = self.settings.connection_window_bytes - DEFAULT_WINDOW
        self.outbox.append(opening + frames.window_update(0, extra) if extra else opening)

    @property
    def free_streams(self) -> int:
        """Streams that could be opened now: by the peer's limit (100 until its SETTINGS are here) and the ids left."""
        if self.going_away or self.peer_going_away or self.last_error is not None or self.role is Role.SERVER:
            return 0
        ids = (frames.MAX_STREAM_ID - self._next_id) // 2 + 1
        return max(0, min(self.peer.max_streams - len(self.streams), ids))

    def open_stream(self, headers: Iterable[Field] | bytes, owner: object) -> Stream:
        """Send a request (fields, or a block that was made before); DATA may follow at once.

        Raises StreamsExhausted, TunnelClosing, OutboxOverflow.
        """
        if self.free_streams == 0:
            raise self._why_no_stream()
        stream_id = self._next_id
        block = self._encoder.encode(headers)
        self.outbox.append(frames.header_frames(stream_id, block, 0, self.peer.max_frame_bytes))
        self._next_id = stream_id + 2
        stream = self._new_stream(stream_id)
        stream.owner = owner
        stream.sending = True
        return stream

    def _why_no_stream(self) -> TunnelFailure:
        if self.role is Role.SERVER:
            return TunnelClosing("no stream can be opened here", why="only the client of a tunnel opens streams")
        if self.going_away or self.peer_going_away or self.last_error is not None:
            return TunnelClosing("no stream can be opened on this tunnel", why="it is going away", fix="open another")
        return StreamsExhausted(
            "no stream can be opened on this tunnel",
            why=f"it holds {len(self.streams)}, the peer allows {self.peer.max_streams}",
            fix="open another tunnel",
            open=len(self.streams),
        )

    def _new_stream(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, send_window=self.peer.initial_window_bytes, recv_window=self._initial_receive_window)
        self.streams[stream_id] = stream
        return stream

    def send_headers(self, stream: Stream, headers: Iterable[Field], *, end_stream: bool) -> None:
        """Send the response, or trailers (with `end_stream`); nothing on a stream that was closed meanwhile.

        Raises UsageError for a second response, or on a stream whose end was sent.
        """
        if stream.state is StreamState.CLOSED:
            return
        response = self.role is Role.SERVER and not stream.answered
        if not response and not (stream.sending and end_stream):
            raise UsageError(f"headers on stream {stream.id} out of turn", fix="one response, then trailers at the end")
        block = self._encoder.encode(headers)
        flags = frames.END_STREAM if end_stream else 0
        self.outbox.append(frames.header_frames(stream.id, block, flags, self.peer.max_frame_bytes))
        if response:
            stream.answered = stream.sending = True
        if end_stream:
            self._sent_end(stream)

    def sendable(self, stream: Stream) -> int:
        """Bytes of DATA that may be sent now, by both windows; 0 before the response and after the end."""
        window = stream.send_window
        if self._send_window < window:  # noqa: PLR1730 - min() takes 0.1 µs more, for each read
            window = self._send_window
        return window if window > 0 and stream.sending else 0

    def sent(self, stream: Stream, n: int) -> None:
        """`n` ≤ `sendable` bytes of DATA were committed to the outbox."""
        stream.send_window -= n
        self._send_window -= n

    def end(self, stream: Stream) -> None:
        """Send END_STREAM; nothing on a stream that has ended. Raises UsageError before the response."""
        if stream.sending:
            self.outbox.append(frames.end_of_stream(stream.id))
            self._sent_end(stream)
        elif self.role is Role.SERVER and not stream.answered and stream.state is not StreamState.CLOSED:
            raise UsageError(f"end of stream {stream.id} before its response", fix="send the response first")

    def _sent_end(self, stream: Stream) -> None:
        if stream.move(StreamInput.SENT_END) is StreamState.CLOSED:
            del self.streams[stream.id]

    def reset(self, stream: Stream, code: int) -> None:
        """Send RST_STREAM, and forget the stream; nothing if it is closed. What arrives for it later is discarded."""
        if stream.state is not StreamState.CLOSED:
            self.outbox.append(frames.rst_stream(stream.id, code))
            stream.move(StreamInput.RESET)
            del self.streams[stream.id]

    def consumed(self, stream: Stream, n: int) -> None:
        """The local side took `n` bytes of what came: credit goes back to the peer when half a window is due."""
        if stream.receiving:
            taken = stream.uncredited + n
            credit = stream_credit(taken, self.settings.initial_window_bytes)
            if credit:
                self.outbox.append(frames.window_update(stream.id, credit))
                stream.recv_window += credit
            stream.uncredited = taken - credit

    def ping(self, payload: bytes) -> None:
        """Ask for a PingAcknowledged with these eight bytes. Raises UsageError for another number."""
        if len(payload) != 8:
            raise UsageError(f"a PING of {len(payload)} bytes", fix="use eight")
        self.outbox.append(frames.ping(payload))

    def announce_going_away(self) -> None:
        """First step of a graceful end: new streams are still taken, as the peer may not know yet (RFC 9113 §6.8).

        The second is `go_away`, a round trip later.
        """
        self.going_away = True
        self.outbox.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def go_away(self, code: int, debug: bytes = b"") -> None:
        """The final GOAWAY, with the last stream that we took: later ones are refused, open ones run to their end."""
        self.going_away = True
        if self._final_id is None:
            self._final_id = self._last_peer_id
        self.outbox.append(frames.goaway(self._final_id, code, debug))
