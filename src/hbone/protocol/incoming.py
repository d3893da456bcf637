"""What each frame from the peer means, DATA apart (RFC 9113 §6.2 to §6.10, §8).

Handlers get whole frames, checked by `_check` from their headers alone. A fault raises ConnectionViolation where it
ends the connection; where it ends one stream, `_violated` answers and reports it.
"""

from struct import Struct
from typing import Final

from hbone.protocol import frames, messages
from hbone.protocol.codes import ConnectionViolation, ErrorCode, StreamViolation
from hbone.protocol.events import (
    EndReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    RequestRefused,
    SettingsAcknowledged,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from hbone.protocol.flow import widened
from hbone.protocol.headers import Field, HeaderDecoder, list_bytes
from hbone.protocol.limits import LARGE_HEADER_BYTES, Limits
from hbone.protocol.meters import Meters
from hbone.protocol.outbox import Outbox
from hbone.protocol.sending import SendingSide
from hbone.protocol.settings import LocalSettings, Role, data_frame_bytes
from hbone.protocol.streams import Stream, StreamInput, StreamState
from hbone.times import Instant

_SIZES: Final = {frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_ON_THE_CONNECTION: Final = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))
_LONG: Final = Struct(">L")
_TWO_LONGS: Final = Struct(">LL")
_LOW_31_BITS: Final = 0x7FFF_FFFF
_PRIORITY_BYTES: Final = 5
_CLOSED_ANSWER: Final = ((b":status", b"431"),)  # RFC 6585 §5, for a header list beyond our limit


class IncomingFrames(SendingSide):
    """The peer's half: state of what it sends, and a handler for each type of frame."""

    def __init__(self, role: Role, settings: LocalSettings, limits: Limits, outbox: Outbox) -> None:
        super().__init__(role, settings, outbox)
        self.limits: Final = limits
        self._meters = Meters(limits)
        self._decoder = HeaderDecoder(limits.header_list_factor * settings.max_header_list_bytes)
        self._events: list[Event] = []
        self._now = Instant(0.0)
        self._settings_awaited = True  # our SETTINGS are not acknowledged yet
        self._block: bytearray | None = None  # of HEADERS whose CONTINUATION frames are still to come
        self._block_stream = self._block_flags = self._block_frames = 0

    # -- what can be told from a frame's header --

    def _check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Raise ConnectionViolation for a frame that is refused whatever it holds."""
        name = frames.frame_name(kind)
        if length > self.settings.max_frame_bytes:
            raise _violation(ErrorCode.FRAME_SIZE_ERROR, f"{name} of {length} bytes", stream_id=stream_id)
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_stream):
            raise _violation(ErrorCode.PROTOCOL_ERROR, f"{name} amid a header block", stream_id=stream_id)
        if not self.peer.received and (kind != frames.SETTINGS or flags & frames.ACK):
            raise _violation(ErrorCode.PROTOCOL_ERROR, f"{name} before SETTINGS", stream_id=stream_id)
        if kind > frames.CONTINUATION:
            return  # §5.5: ignored
        if kind == frames.PUSH_PROMISE:  # §8.4: a client has switched it off, a server never takes it
            raise _violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, though push is off", stream_id=stream_id)
        if kind != frames.WINDOW_UPDATE and (stream_id == 0) != (kind in _ON_THE_CONNECTION):
            raise _violation(ErrorCode.PROTOCOL_ERROR, f"{name} on stream {stream_id}", stream_id=stream_id)
        if _SIZES.get(kind, length) != length:
            raise _violation(ErrorCode.FRAME_SIZE_ERROR, f"{name} of {length} bytes", stream_id=stream_id)
        # PRIORITY may name an idle stream; CONTINUATION goes with HEADERS that were judged.
        if stream_id and kind not in {frames.PRIORITY, frames.CONTINUATION} and self._is_idle(stream_id):
            fresh = kind == frames.HEADERS and self.role is Role.SERVER and stream_id & 1
            if not fresh:
                raise _violation(ErrorCode.PROTOCOL_ERROR, f"{name} on idle stream {stream_id}", stream_id=stream_id)
        self._check_amount(kind, flags, length)

    def _check_amount(self, kind: int, flags: int, length: int) -> None:
        """Lengths that depend on the type: too short to be one, or longer than we are willing to keep."""
        if kind in {frames.HEADERS, frames.CONTINUATION}:
            held = len(self._block) if self._block is not None else 0
            if held + length > self.limits.header_block_bytes:
                raise _too_much("header block", held + length, self.limits.header_block_bytes, "max_header_block_bytes")
        elif kind == frames.SETTINGS:
            if length % 6 or (flags & frames.ACK and length):
                raise _violation(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {length} bytes")
            if length > self.limits.settings_entries * 6:
                raise _too_much("SETTINGS", length, self.limits.settings_entries * 6, "max_settings_entries")
        elif kind == frames.GOAWAY:
            if length < 8:
                raise _violation(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {length} bytes")
            if length > self.limits.goaway_bytes:
                raise _too_much("GOAWAY", length, self.limits.goaway_bytes, "max_goaway_bytes")

    def _is_idle(self, stream_id: int) -> bool:
        """Was this stream never opened? Streams of the server's number space never are: there is no push."""
        if not stream_id & 1:
            return True
        return stream_id >= self._next_id if self.role is Role.CLIENT else stream_id > self._last_peer_id

    # -- HEADERS and CONTINUATION --

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        start, end = 0, len(payload)
        if flags & frames.PADDED:
            if not end:
                raise _violation(ErrorCode.FRAME_SIZE_ERROR, "padded HEADERS without a byte", stream_id=stream_id)
            start, end = 1, end - payload[0]
        if flags & frames.PRIORITY_FLAG:  # deprecated (§5.3.2): read and dropped
            start += _PRIORITY_BYTES
        if start > len(payload):
            raise _violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority", stream_id=stream_id)
        if start > end:
            raise _violation(ErrorCode.PROTOCOL_ERROR, "HEADERS with more padding than payload", stream_id=stream_id)
        fragment = payload[start:end] if start or end < len(payload) else payload
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, flags, fragment)
        else:
            self._block = bytearray(fragment)
            self._block_stream, self._block_flags, self._block_frames = stream_id, flags, 0

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise _violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS", stream_id=stream_id)
        self._block_frames += 1
        if self._block_frames > self.limits.continuations:
            raise _too_much(
                "number of CONTINUATION frames", self._block_frames, self.limits.continuations, "max_continuations"
            )
        block += payload
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream_id, self._block_flags, bytes(block))

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block. It is always decoded, or the compression state would be lost."""
        if len(block) > LARGE_HEADER_BYTES:
            self._meters.count("large_headers", self._now)
        fields = self._decoder.decode(block)
        end_stream = bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_request(stream_id, fields, end_stream=end_stream)
        elif stream.state is StreamState.HALF_CLOSED_REMOTE:
            self._violated(stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        elif list_bytes(fields) > self.settings.max_header_list_bytes:
            self._violated(stream, ErrorCode.ENHANCE_YOUR_CALM, "header list beyond the announced size")
        elif self.role is Role.CLIENT and not stream.answered:
            self._on_response(stream, fields, end_stream=end_stream)
        else:
            self._on_trailers(stream, fields, end_stream=end_stream)

    def _on_request(self, stream_id: int, fields: tuple[Field, ...], *, end_stream: bool) -> None:
        if self.role is Role.CLIENT or stream_id <= self._last_peer_id:
            self._meters.count("closed_streams", self._now)
            self.outbox.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
            return
        self._last_peer_id = stream_id
        refusal = self._refusal(fields)
        if refusal is not None:
            self._refuse(stream_id, refusal)
            return
        stream = self._new_stream(stream_id)
        if end_stream:
            stream.move(StreamInput.RECEIVED_END)
        else:
            stream.receiving = True
        self._events.append(HeadersReceived(stream, fields, end_stream))

    def _refusal(self, fields: tuple[Field, ...]) -> StreamViolation | None:
        """Why a new stream is not taken; None if it is."""
        if self._final_id is not None:
            return StreamViolation(ErrorCode.REFUSED_STREAM, "stream opened after our GOAWAY")
        limit = self.settings.max_concurrent_streams
        if limit is not None and len(self.streams) >= limit:
            what = f"stream beyond the {limit} that we allow"
            return StreamViolation(ErrorCode.REFUSED_STREAM, what, limit="max_streams_per_connection_inbound")
        size = list_bytes(fields)
        if size > self.settings.max_header_list_bytes:
            what = f"header list of {size} bytes"
            return StreamViolation(ErrorCode.ENHANCE_YOUR_CALM, what, limit="max_header_list_bytes_inbound")
        fault = messages.fault_in_request(fields)
        return StreamViolation(ErrorCode.PROTOCOL_ERROR, f"malformed request: {fault}") if fault else None

    def _refuse(self, stream_id: int, refusal: StreamViolation) -> None:
        """Answer a request that becomes no stream."""
        code = refusal.code
        self._meters.count("refusals" if code is ErrorCode.REFUSED_STREAM else "resets_we_send", self._now)
        if code is ErrorCode.ENHANCE_YOUR_CALM:  # say it in HTTP's words, then "stop sending"
            block = self._encoder.encode(_CLOSED_ANSWER)
            self.outbox.append(
                frames.header_frames(stream_id, block, frames.END_STREAM, self.peer.max_frame_bytes)
                + frames.rst_stream(stream_id, ErrorCode.NO_ERROR)
            )
        else:
            self.outbox.append(frames.rst_stream(stream_id, code))
        self._events.append(RequestRefused(stream_id, refusal))

    def _on_response(self, stream: Stream, fields: tuple[Field, ...], *, end_stream: bool) -> None:
        fault = messages.fault_in_response(fields)
        interim = not fault and messages.is_interim(fields)
        if interim and end_stream:
            fault = "an interim response that ends the stream"
        if fault:
            self._violated(stream, ErrorCode.PROTOCOL_ERROR, f"malformed response: {fault}")
            return
        if interim:  # a CONNECT has no use for it
            self._meters.count("ignored_frames", self._now)
            return
        stream.answered = stream.receiving = True
        self._events.append(HeadersReceived(stream, fields, end_stream))
        if end_stream:
            self._move_by_peer(stream, StreamInput.RECEIVED_END)

    def _on_trailers(self, stream: Stream, fields: tuple[Field, ...], *, end_stream: bool) -> None:
        fault = messages.fault_in_trailers(fields) if end_stream else "they do not end the stream"
        if fault:
            self._violated(stream, ErrorCode.PROTOCOL_ERROR, f"malformed trailers: {fault}")
            return
        self._events.append(TrailersReceived(stream, fields))
        self._ended(stream)

    # -- streams --

    def _move_by_peer(self, stream: Stream, happened: StreamInput) -> None:
        if stream.move(happened) is StreamState.CLOSED:
            del self.streams[stream.id]

    def _ended(self, stream: Stream) -> None:
        self._move_by_peer(stream, StreamInput.RECEIVED_END)
        self._events.append(EndReceived(stream))

    def _violated(self, stream: Stream, code: ErrorCode, why: str) -> None:
        """The peer broke a rule on this stream (§5.4.2)."""
        self._meters.count("resets_we_send", self._now)
        self.outbox.append(frames.rst_stream(stream.id, code))
        self._move_by_peer(stream, StreamInput.RESET)
        self._events.append(StreamReset(stream, code, by_peer=False, why=why))

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:  # closed: both sides may have reset at once
            self._meters.count("closed_streams", self._now)
            return
        if self.role is Role.SERVER and not stream.answered:
            self._meters.count("early_resets", self._now)
        self._move_by_peer(stream, StreamInput.RESET)
        self._events.append(StreamReset(stream, _LONG.unpack(payload)[0], by_peer=True))

    def _on_ignored(self, kind: int, stream_id: int, length: int) -> None:
        """PRIORITY or an unknown type; its payload is skipped."""
        self._meters.count("ignored_frames", self._now)
        stream = self.streams.get(stream_id)
        if kind == frames.PRIORITY and length != _PRIORITY_BYTES and stream is not None:  # §6.3; else nothing to reset
            self._violated(stream, ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {length} bytes")

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._meters.count("window_updates", self._now)
        increment = _LONG.unpack(payload)[0] & _LOW_31_BITS
        if not stream_id:
            self._widen_connection(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is None:  # closed; the peer may not know yet
            return
        if not increment:
            self._violated(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes")
        elif not self._widen(stream, increment):
            self._violated(stream, ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE beyond 2^31-1")

    def _widen(self, stream: Stream, increment: int) -> bool:
        """Add to a send window (or take from it); False if it would pass its limit."""
        before = stream.send_window
        window = widened(before, increment)
        if window is None:
            return False
        stream.send_window = window
        if before <= 0 < window and stream.sending:
            self._events.append(WindowOpened(stream))
        return True

    def _widen_connection(self, increment: int) -> None:
        if not increment:
            raise _violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes for the connection")
        before = self._send_window
        window = widened(before, increment)
        if window is None:
            raise _violation(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE beyond 2^31-1 for the connection")
        self._send_window = window
        if before <= 0:
            self._events.append(WindowOpened(None))

    # -- the connection --

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        self._meters.count("settings", self._now)
        if flags & frames.ACK:
            self._on_settings_ack()
            return
        changed = frames.parse_settings(payload)
        before = self.peer.initial_window_bytes
        steps = [changed] if len(changed) * 6 == len(payload) else frames.settings_one_by_one(payload)
        for step in steps:
            self.peer.apply(step, self.role)
            self._encoder.limit_table(self.peer.header_table_bytes)
        self.frame_bytes = data_frame_bytes(self.peer.max_frame_bytes)
        self.outbox.append(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))
        self._events.append(SettingsReceived(changed))
        more = self.peer.initial_window_bytes - before
        for stream in self.streams.values() if more else ():  # §6.9.2
            if not self._widen(stream, more):
                raise _violation(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE lifts a window beyond 2^31-1")

    def _on_settings_ack(self) -> None:
        if not self._settings_awaited:
            raise _violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS acknowledged that were not sent")
        self._settings_awaited = False
        less = self._initial_receive_window - self.settings.initial_window_bytes
        if less:
            self._initial_receive_window -= less
            for stream in self.streams.values():
                stream.recv_window -= less
        self._events.append(SettingsAcknowledged())

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        self._meters.count("pings", self._now)
        if flags & frames.ACK:
            self._events.append(PingAcknowledged(payload))
        else:
            self.outbox.append(frames.ping(payload, frames.ACK))

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        self._meters.count("settings", self._now)  # as rare
        last, code = _TWO_LONGS.unpack_from(payload)
        last &= _LOW_31_BITS
        self.peer_going_away = True
        self._events.append(GoAwayReceived(last, code, payload[8:]))
        if self.role is Role.CLIENT:  # on a server all streams are the peer's own
            for stream in [stream for stream in self.streams.values() if stream.id > last]:
                self._move_by_peer(stream, StreamInput.RESET)
                self._events.append(StreamReset(stream, ErrorCode.REFUSED_STREAM, by_peer=True))

    def _handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A whole frame of a type that has a meaning here; the most frequent first."""
        if kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, stream_id, payload)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        else:
            self._on_goaway(flags, stream_id, payload)


def _violation(code: ErrorCode, what: str, **values: object) -> ConnectionViolation:
    return ConnectionViolation(code, what, **values)


def _too_much(what: str, amount: int, most: int, limit: str) -> ConnectionViolation:
    """`limit`: the setting."""
    text = f"{what} of {amount}, over {most}"
    return ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, text, amount=amount, limit=limit)
