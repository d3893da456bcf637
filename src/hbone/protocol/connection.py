"""One HTTP/2 connection of a CONNECT-only endpoint (RFC 9113), without a socket.

`receive()` takes what a TLS read brought, in any split, and returns what it means; what our side does is in `sending`,
what each frame means in `incoming`. Frames to send go into the outbox, in the order of calls. Nothing the peer does
makes `receive()` raise: a fault that concerns one stream is answered with RST_STREAM and reported as StreamReset, one
that concerns all with GOAWAY and ConnectionFailed.

How bytes are taken. DATA is handed on as it comes, whole frame or not, as views into what `receive()` was given: an
unfinished frame leaves integers behind (`_left…`), not bytes. Any other unfinished frame is copied into `_residue` and
completed by the next call; its kind and length are judged by its header alone, so that nothing is waited for that would
be refused. The loop in `_take` is the fast path of an unpadded DATA frame on a stream that takes data, 1 µs a frame;
all else goes through `_frame`.

What is closed. No memory is kept of closed streams. A frame for one is read, credited to the connection's window and
dropped (§5.1 "closed" allows that for good); HEADERS are answered with RST_STREAM, in case they meant a request.
"""

from typing import Final

from hbone.protocol import frames
from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.events import ConnectionFailed, DataReceived, Event
from hbone.protocol.flow import connection_low_mark
from hbone.protocol.frames import FRAME_HEADER, FRAME_HEADER_BYTES, PREFACE
from hbone.protocol.incoming import IncomingFrames
from hbone.protocol.limits import Limits
from hbone.protocol.outbox import Outbox, OutboxOverflow
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import Stream, StreamState
from hbone.times import Instant

_NEVER: Final = -1
_MAX_DEBUG_BYTES: Final = 200
_LOW_31_BITS: Final = 0x7FFF_FFFF
_NO_EVENTS: Final[list[Event]] = []


class Http2Connection(IncomingFrames):
    """See the module's text. Call `start()` first; then `receive()`, and the methods of `SendingSide`."""

    def __init__(self, role: Role, settings: LocalSettings, limits: Limits, outbox: Outbox) -> None:
        super().__init__(role, settings, limits, outbox)
        self._low_mark = connection_low_mark(settings.connection_window_bytes)
        self._turn = 0  # the number of this receive() call
        self._preface_left = len(PREFACE) if role is Role.SERVER else 0
        # An unpadded DATA frame up to this length may take the fast path: none before SETTINGS and amid header blocks.
        self._fast_bytes = _NEVER
        self._residue = bytearray()  # the beginning of a frame
        self._needed = FRAME_HEADER_BYTES  # its length as far as known
        self._left = 0  # payload still to come of a DATA frame, or of one to be skipped
        self._left_padding = 0
        self._left_stream: Stream | None = None  # None: skip
        self._left_ends = 0  # END_STREAM, if the frame bears it

    def receive(self, data: memoryview, now: Instant) -> list[Event]:
        """What `data`, the next bytes from the peer, mean. `now` is for rates and must not go back.

        Nothing after a failure. `data` is not kept, except by `Stream.chunks` until the shell drops them.
        """
        if self.last_error is not None:
            return []
        events: list[Event] = []
        self._events = events
        self._now = now
        self._turn += 1
        try:
            self._take(data)
            if self._receive_window <= self._low_mark:
                self._credit_connection()
        except ConnectionViolation as error:
            self._fail(error)
        except OutboxOverflow as overflow:
            self._fail(ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, overflow.what))
        self._events = _NO_EVENTS
        return events

    def _take(self, data: memoryview) -> None:
        end = len(data)
        pos = self._resume(data) if self._left or self._left_padding or self._residue or self._preface_left else 0
        streams, events, turn, unpack = self.streams, self._events, self._turn, FRAME_HEADER.unpack_from
        while end - pos >= FRAME_HEADER_BYTES:
            high, low, kind, flags, stream_id = unpack(data, pos)
            length = high << 8 | low
            stream = streams.get(stream_id) if not kind and not flags & 8 and length <= self._fast_bytes else None
            if stream is None or not stream.receiving:
                pos = self._frame(data, pos)
                continue
            stream.recv_window = window = stream.recv_window - length
            self._receive_window = whole = self._receive_window - length
            if window < 0 or whole < 0:  # undo, and let the slow path say it
                stream.recv_window = window + length
                self._receive_window = whole + length
                pos = self._frame(data, pos)
                continue
            start = pos + FRAME_HEADER_BYTES
            pos = start + length
            if length and start < end:
                if stream.turn == turn:
                    stream.chunks.append(data[start:pos])
                else:
                    stream.turn = turn
                    stream.chunks = [data[start:pos]]
                    events.append(DataReceived(stream))
            if pos > end:
                self._left = pos - end
                self._left_stream = stream
                self._left_ends = flags & 1
                return
            if flags & 1:
                self._ended(stream)
            elif not length:
                self._meters.count("empty_data", self._now)
        if pos < end:
            self._residue += data[pos:]

    def _resume(self, data: memoryview) -> int:
        """Complete what the last call left unfinished; returns how far that went."""
        pos = self._match_preface(data) if self._preface_left else 0
        while self._residue:
            missing = self._needed - len(self._residue)
            more = data[pos : pos + missing]
            self._residue += more
            pos += len(more)
            if len(more) < missing:
                return pos
            held, self._residue, self._needed = bytes(self._residue), bytearray(), FRAME_HEADER_BYTES
            self._frame(memoryview(held), 0)  # which may have learnt only how much more is needed
        return self._continue(data, pos) if self._left or self._left_padding else pos

    def _match_preface(self, data: memoryview) -> int:
        matched = len(PREFACE) - self._preface_left
        part = bytes(data[: self._preface_left])
        if part != PREFACE[matched : matched + len(part)]:
            raise ConnectionViolation(
                ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2: no connection preface", received=part
            )
        self._preface_left -= len(part)
        return len(part)

    def _frame(self, data: memoryview, pos: int) -> int:
        """Take the frame whose header is at `pos`, or as much of it as is there; returns how far that went."""
        high, low, kind, flags, stream_id = FRAME_HEADER.unpack_from(data, pos)
        length: int = high << 8 | low
        stream_id &= _LOW_31_BITS
        self._check(kind, flags, stream_id, length)
        start = pos + FRAME_HEADER_BYTES
        if kind == frames.DATA:
            if not flags & frames.PADDED:
                self._begin_data(flags, stream_id, length, 0)
            elif not length:
                raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a byte", stream_id=stream_id)
            elif start == len(data):
                return self._hold(data, pos, FRAME_HEADER_BYTES + 1)
            else:
                self._begin_data(flags, stream_id, length, 1 + data[start])
                start += 1
            return self._continue(data, start)
        if kind > frames.CONTINUATION or kind == frames.PRIORITY:
            self._left, self._left_stream = length, None
            self._on_ignored(kind, stream_id, length)
            return self._continue(data, start)
        end = start + length
        if end > len(data):
            return self._hold(data, pos, FRAME_HEADER_BYTES + length)
        self._handle(kind, flags, stream_id, bytes(data[start:end]))
        self._fast_bytes = self.settings.max_frame_bytes if self._block is None else _NEVER
        return end

    def _hold(self, data: memoryview, pos: int, needed: int) -> int:
        """Keep the beginning of a frame until `needed` bytes of it are there."""
        self._residue += data[pos:]
        self._needed = needed
        return len(data)

    def _begin_data(self, flags: int, stream_id: int, length: int, padding: int) -> None:
        """Account for a DATA frame as a whole (§6.1, §6.9.1): padding counts, and so does a frame for a closed stream.

        `padding`: with the byte that tells its length.
        """
        if padding > length:
            raise ConnectionViolation(
                ErrorCode.PROTOCOL_ERROR, "DATA with more padding than payload", stream_id=stream_id
            )
        if length > self._receive_window:
            raise ConnectionViolation(
                ErrorCode.FLOW_CONTROL_ERROR,
                f"DATA of {length} bytes beyond the connection's window",
                stream_id=stream_id,
            )
        self._receive_window -= length
        stream = self._data_stream(stream_id, length)
        if stream is not None:
            stream.recv_window -= length
            if padding:
                self.consumed(stream, padding)
        if padding == length and (stream is None or not flags & frames.END_STREAM):
            self._meters.count("empty_data", self._now)
        self._left = length - padding
        self._left_padding = max(0, padding - 1)
        self._left_stream = stream
        self._left_ends = flags & frames.END_STREAM

    def _data_stream(self, stream_id: int, length: int) -> Stream | None:
        """The stream that DATA is for; None if it is closed, or is now because it may not get this DATA."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return None
        if stream.state is StreamState.HALF_CLOSED_REMOTE:
            self._violated(stream, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        elif not stream.receiving:
            self._violated(stream, ErrorCode.PROTOCOL_ERROR, "DATA before the response")
        elif length > max(0, stream.recv_window):  # negative once a smaller SETTINGS of ours is in force (§6.9.2)
            self._violated(stream, ErrorCode.FLOW_CONTROL_ERROR, f"DATA of {length} bytes beyond the stream's window")
        else:
            return stream
        return None

    def _continue(self, data: memoryview, pos: int) -> int:
        """Hand on, or skip, what `data` holds of the frame in `_left…`; returns how far that went."""
        if self._left:
            chunk = data[pos : pos + self._left]
            stream = self._left_stream
            if chunk and stream is not None and stream.receiving:
                if stream.turn == self._turn:
                    stream.chunks.append(chunk)
                else:
                    stream.turn = self._turn
                    stream.chunks = [chunk]
                    self._events.append(DataReceived(stream))
            self._left -= len(chunk)
            pos += len(chunk)
        if self._left_padding and not self._left:
            skipped = min(self._left_padding, len(data) - pos)
            self._left_padding -= skipped
            pos += skipped
        if not self._left and not self._left_padding:
            stream, self._left_stream = self._left_stream, None
            if stream is not None and self._left_ends and stream.receiving:
                self._ended(stream)
        return pos

    def hold_credit(self) -> None:
        """From now on the peer gets no credit for the connection as a whole: it may send what it still has."""
        self._low_mark = _NEVER

    def give_credit(self) -> None:
        """End of `hold_credit`; what is due goes out at once. May raise OutboxOverflow."""
        self._low_mark = connection_low_mark(self.settings.connection_window_bytes)
        if self._receive_window <= self._low_mark and self.last_error is None:
            self._credit_connection()

    def _credit_connection(self) -> None:
        window = self.settings.connection_window_bytes
        self.outbox.append(frames.window_update(0, window - self._receive_window))
        self._receive_window = window

    def _fail(self, error: ConnectionViolation) -> None:
        """End the connection (§5.4.1)."""
        self.last_error = error
        try:
            self.outbox.append(frames.goaway(self._last_peer_id, error.code, error.what.encode()[:_MAX_DEBUG_BYTES]))
        except OutboxOverflow:
            pass  # a peer that reads nothing does not read this either
        self._events.append(ConnectionFailed(error))
