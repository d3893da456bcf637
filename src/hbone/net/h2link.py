"""One HTTP/2 connection over one TLS stream, driven by the event loop.

How it works. The loop says that the TLS socket is readable: records are read into a buffer that all links of the
process share, the sans-io core (`hbone.protocol.connection`) turns them into events, and each event goes to the
owner of its stream (`StreamOwner`) before the next read, so that payload never has to be kept. Whatever the owners
and the core want to send collects in the link's outbox, and one TLS write takes all that a turn of the loop
produced. While that write is blocked nobody reads from the local sockets: this is the whole of backpressure.

Measured on two cores, 32 keep-alive connections: one write per frame instead of one per turn costs half of the
requests per second; writing at the end of the turn even when the link is quiet costs 7 % of latency at one
connection. Hence `request_flush`.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from hbone.errors import HboneError, PeerRejected, TlsFailure, TunnelFailure
from hbone.net.tls import WANT, ReadBuffer, TlsStream
from hbone.protocol.codes import ErrorCode, StreamViolation
from hbone.protocol.connection import Http2Connection
from hbone.protocol.events import (
    ConnectionFailed,
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
    Headers,
    HeadersReceived,
    PingAcknowledged,
    RequestRefused,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from hbone.protocol.outbox import Outbox, OutboxOverflow
from hbone.protocol.streams import Stream
from hbone.times import Clock, Instant

RECORD_BYTES: Final = 16_384  # RFC 8446 §5.1: the most one TLS record carries
QUIET_S: Final = 60e-6  # no frame for this long: the link is quiet, a frame goes out at once
READ_TURN_BYTES: Final = 262_144  # payload taken in one turn, so that one tunnel cannot keep the loop to itself


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PingPolicy:
    """Keep-alive: a PING `interval_s` after the last answer; no answer within `timeout_s` ends the connection."""

    interval_s: float = 10.0
    timeout_s: float = 20.0


class H2Link:
    """Drives `connection` over `tls`. Made after the TLS handshake; `start()` begins."""

    __slots__ = (
        "_buffer",
        "_clock",
        "_closed",
        "_closing",
        "_fd",
        "_flush_due",
        "_frames",
        "_handler",
        "_last_flush",
        "_last_read",
        "_loop",
        "_monotonic",
        "_paused",
        "_ping_sent_at",
        "_ping_timer",
        "_pings",
        "_ready",
        "_starved",
        "blocked",
        "connection",
        "last_heard",
        "outbox",
        "tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: TlsStream,
        connection: Http2Connection,
        outbox: Outbox,
        parts: "LinkParts",
    ) -> None:
        self._loop = loop
        self.tls = tls
        self.connection = connection
        self.outbox = outbox
        self._buffer = parts.buffer
        self._handler: LinkHandler = _NOBODY
        self._clock = parts.clock
        self._monotonic: Callable[[], Instant] = parts.clock.now
        self._pings = parts.pings
        self._fd = tls.fd
        self._paused: deque[StreamOwner] = deque()  # wait until the TLS write goes through
        self._starved: deque[StreamOwner] = deque()  # wait for the connection's window
        self._flush_due = False
        self._frames = 0
        self._last_flush = 0.0
        self._last_read = 0.0
        self._ping_sent_at: float | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._closed = False
        self._ready = False
        self.blocked = False
        self.last_heard = 0.0

    # --- life -----------------------------------------------------------------------------------------------

    def start(self, handler: LinkHandler) -> None:
        """Send the preface and SETTINGS, and begin to read."""
        self._handler = handler
        self.last_heard = self._monotonic()
        self.connection.start()
        self._loop.add_reader(self._fd, self._on_readable)
        self._ping_timer = self._loop.call_later(self._pings.interval_s, self._on_ping_timer)
        self.flush()
        # The peer's first flight may have come with its last handshake message: the socket will not be
        # readable again for bytes that OpenSSL has taken already.
        self._loop.call_soon(self._on_readable)

    def now(self) -> Instant:
        return self._monotonic()

    @property
    def closed(self) -> bool:
        return self._closed

    def close_when_written(self) -> None:
        """Close, without an error, as soon as everything queued is written (after a GOAWAY)."""
        self._closing = True
        self.flush()

    def lost(self, error: HboneError | None) -> None:
        """The connection is over: tell the owner of every stream, then the handler. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        reason = error or TunnelFailure("the tunnel was closed", why="its streams were over or its time was up")
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            if owner is not None:
                owner.on_link_lost(reason)
        self._paused.clear()
        self._starved.clear()
        if error is None:
            self.tls.shutdown()
        self.tls.close()
        self.outbox.discard()
        self._handler.on_closed(error)

    # --- reading --------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self._closed:
            return
        read_into, buffer = self.tls.read_into, self._buffer
        now = self._monotonic()
        busy = now - self._last_read < QUIET_S
        self._last_read = now
        total = 0
        got = WANT
        failure: HboneError | None = None
        try:
            while total < READ_TURN_BYTES:
                got = read_into(buffer, total)
                if got <= 0:
                    break
                total += got
                # OpenSSL reads record by record: after a short one nothing is left inside, and on a quiet link
                # nothing more has come either. Under load the extra call gathers what has come meanwhile.
                if got < RECORD_BYTES and not busy:
                    break
        except (TlsFailure, PeerRejected) as error:
            failure = error
        if total:
            self.last_heard = now
            try:
                for event in self.connection.receive(buffer.view[:total], now):
                    self._dispatch(event)
            except OutboxOverflow as error:
                failure = error
        if failure is not None:
            self.lost(failure)
        elif got == 0:
            self._peer_closed()
        elif self.outbox:
            self.request_flush()

    def _peer_closed(self) -> None:
        if self.connection.peer_going_away or not self.connection.streams:
            self.lost(None)
        else:
            self.lost(TunnelFailure("the peer closed the tunnel", why="its proxy stopped, or dropped the connection"))

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            stream = event.stream
            if stream.owner is not None:
                stream.owner.on_data(stream)
        elif isinstance(event, EndReceived):
            if event.stream.owner is not None:
                event.stream.owner.on_end()
            self._after_stream_event(event.stream)
        elif isinstance(event, HeadersReceived):
            self._on_headers(event)
        elif isinstance(event, WindowOpened):
            self._on_window(event)
        elif isinstance(event, StreamReset):
            if event.stream.owner is not None:
                event.stream.owner.on_reset(event.code)
            self._after_stream_event(event.stream)
        else:
            self._dispatch_rare(event)

    def _dispatch_rare(self, event: Event) -> None:
        match event:
            case SettingsReceived():
                if not self._ready:
                    self._ready = True
                    self._handler.on_ready()
                self._handler.on_slot_free()  # the stream limit may have changed
            case PingAcknowledged():
                self._ping_sent_at = None
            case RequestRefused():
                self._handler.on_refused(event.error)
            case GoAwayReceived():
                self._handler.on_going_away(event.last_stream_id)
            case ConnectionFailed():
                self._fail(event.error)
            case TrailersReceived() | _:
                pass  # trailers end a CONNECT stream like END_STREAM, which follows as its own event

    def _on_headers(self, event: HeadersReceived) -> None:
        stream = event.stream
        owner: StreamOwner | None = stream.owner
        if owner is None:
            self._handler.on_request(stream, event.headers, end_stream=event.end_stream)
            return
        owner.on_headers(event.headers)
        if event.end_stream:
            owner.on_end()
            self._after_stream_event(stream)

    def _on_window(self, event: WindowOpened) -> None:
        if event.stream is not None:
            if event.stream.owner is not None:
                event.stream.owner.on_window()
            return
        waiting, self._starved = self._starved, deque()
        for owner in waiting:
            owner.on_window()

    def _after_stream_event(self, stream: Stream) -> None:
        if stream.id not in self.connection.streams:
            self._handler.on_slot_free()

    def stream_over(self) -> None:
        """An owner finished its stream on its own account."""
        if not self._closed:
            self._handler.on_slot_free()

    def _fail(self, error: HboneError) -> None:
        """The peer broke the protocol: our GOAWAY is in the outbox, one try to deliver it, then the end."""
        with contextlib.suppress(HboneError):
            if self.outbox and not self.blocked:
                self.tls.write(self.outbox.pending())
        self.lost(error)

    # --- writing --------------------------------------------------------------------------------------------

    def request_flush(self) -> None:
        """A frame was queued: write at once when the link is quiet, else at the end of this turn of the loop."""
        if self._flush_due:
            self._frames += 1
            return
        now = self._monotonic()
        if self._frames <= 1 and now - self._last_flush > QUIET_S:
            self._frames = 1
            self._last_flush = now
            self.flush()
        else:
            self._frames = 1
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self._last_flush = self._monotonic()
        self.flush()

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self.blocked or self._closed:
            return
        outbox, write = self.outbox, self.tls.write
        try:
            while outbox:
                written = write(outbox.pending())
                if written == WANT:
                    self.blocked = True
                    self._loop.add_writer(self._fd, self._on_writable)
                    return
                outbox.advance(written)
        except (TlsFailure, PeerRejected) as error:
            self._write_failed(error)
            return
        if self._closing:
            self.lost(None)

    def _write_failed(self, error: HboneError) -> None:
        """A failed write says less than what can still be read: an alert that tells why the peer refused us."""
        # Not from inside the caller's turn: it may be in the middle of a stream's bookkeeping.
        self.blocked = True
        self._loop.call_soon(self._after_failed_write, error)

    def _after_failed_write(self, error: HboneError) -> None:
        self._on_readable()
        self.lost(error)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._fd)
        self.blocked = False
        self.flush()
        while self._paused and not self.blocked:
            self._paused.popleft().resume()

    def wait_writable(self, owner: StreamOwner) -> None:
        """`owner` is resumed once the blocked write went through; first come, first served."""
        self._paused.append(owner)

    def wait_window(self, owner: StreamOwner) -> None:
        """`owner` hears `on_window` when the connection's send window opens."""
        self._starved.append(owner)

    # --- is the peer alive ----------------------------------------------------------------------------------

    def seems_alive(self) -> bool:
        """Whether the socket shows neither an end nor an error now: asked before a new stream is trusted to it.

        A proxy that was killed leaves a tunnel whose end this turn of the loop may not have reached yet.
        """
        if self._closed or self.connection.peer_going_away:
            return False
        if self._monotonic() - self.last_heard < 1e-3:
            return True
        try:
            return self.tls.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False

    def _on_ping_timer(self) -> None:
        now = self._monotonic()
        silent_s = now - self.last_heard
        if self._ping_sent_at is not None and silent_s >= self._pings.timeout_s and self._path_is_dead(now):
            self.lost(
                TunnelFailure(
                    "the tunnel's peer does not answer",
                    why=f"no byte from it for {silent_s:.0f} s although we asked",
                    fix="check that its proxy runs and that the path to it carries packets both ways",
                )
            )
            return
        if self._ping_sent_at is None and not self.blocked:
            self._ping_sent_at = now
            self.connection.ping(struct.pack(">d", now))
            self.request_flush()
        elif self.blocked and self._ping_sent_at is None and silent_s >= self._pings.timeout_s:
            self._ping_sent_at = now  # cannot ask while the socket is full: TCP's own state decides next time
        if not self._closed:
            self._ping_timer = self._loop.call_later(self._pings.interval_s, self._on_ping_timer)

    def _path_is_dead(self, now: float) -> bool:
        """A PING is unanswered; a full socket whose window probes are answered is slow, not dead."""
        if self._ping_sent_at is not None and now - self._ping_sent_at < self._pings.timeout_s:
            return False
        if not self.blocked or not hasattr(socket, "TCP_INFO"):
            return True
        # struct tcp_info (linux/tcp.h): probes at 3, then u32 fields; unacked at 24, last_ack_recv (ms) at 56
        info = self.tls.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        unanswered = bool(info[3] > 0 or struct.unpack_from("=I", info, 24)[0] > 0)
        return unanswered and bool(struct.unpack_from("=I", info, 56)[0] >= self._pings.timeout_s * 1000)

    # --- ends -----------------------------------------------------------------------------------------------

    def announce_going_away(self) -> None:
        """Ask the peer to open no more streams here; those on their way are still served (RFC 9113 §6.8)."""
        if not self._closed:
            self.connection.announce_going_away()
            self.request_flush()

    def go_away(self) -> None:
        """No more streams; close once nothing is open."""
        if not self._closed:
            self.connection.go_away(ErrorCode.NO_ERROR)
            self.request_flush()
            if not self.connection.streams:
                self.close_when_written()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkParts:
    """What all links of a process share."""

    buffer: ReadBuffer
    clock: Clock
    pings: PingPolicy


class _Nobody:
    """Before `start`: nothing can happen yet."""

    def on_ready(self) -> None: ...
    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None: ...
    def on_refused(self, error: StreamViolation) -> None: ...
    def on_going_away(self, last_stream_id: int) -> None: ...
    def on_slot_free(self) -> None: ...
    def on_closed(self, error: HboneError | None) -> None: ...


_NOBODY = _Nobody()
