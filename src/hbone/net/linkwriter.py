"""The writing half of a link: what its turn of the loop produced goes out in one TLS write."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

from hbone.errors import HboneError, PeerRejected, TlsFailure
from hbone.net.owners import LinkHandler, Nobody, StreamOwner
from hbone.net.poller import Poller
from hbone.net.tls import WANT, TlsStream
from hbone.protocol.codes import ErrorCode
from hbone.protocol.connection import Http2Connection
from hbone.protocol.events import Headers
from hbone.protocol.outbox import Outbox, OutboxOverflow
from hbone.protocol.streams import Stream
from hbone.times import Instant

QUIET_S: Final = 60e-6  # no frame for this long: the link is quiet, a frame goes out at once


class LinkWriter:
    """Outbox, TLS writes, and what owners of streams do. `closed` links take everything and do nothing.

    Owners put DATA into `outbox` themselves and call `request_flush`. Everything else that may find the outbox
    overflowing (a peer that makes us write and reads nothing) is a method here, which then dooms the link instead of
    raising into whoever happened to call.
    """

    __slots__ = (
        "_closing",
        "_fd",
        "_flush_due",
        "_frames",
        "_handler",
        "_last_flush",
        "_loop",
        "_monotonic",
        "_paused",
        "_poller",
        "_said_goodbye",
        "_starved",
        "blocked",
        "closed",
        "connection",
        "doomed",
        "outbox",
        "tls",
    )

    def __init__(
        self,
        poller: Poller,
        tls: TlsStream,
        connection: Http2Connection,
        outbox: Outbox,
        monotonic: Callable[[], Instant],
    ) -> None:
        self._loop = poller.loop
        self._poller = poller
        self.tls = tls
        self.connection = connection
        self.outbox = outbox
        self._fd = tls.fd
        self._monotonic = monotonic
        self._handler: LinkHandler = Nobody()
        self._paused: deque[StreamOwner] = deque()  # wait until the TLS write goes through
        self._starved: deque[StreamOwner] = deque()  # wait for the connection's window
        self._flush_due = False
        self._frames = 0
        self._last_flush = 0.0
        self._said_goodbye = False
        self._closing = False
        self.closed = False
        self.doomed = False  # ends with this turn of the loop
        self.blocked = False  # a TLS write did not go through yet

    @abstractmethod
    def lost(self, error: HboneError | None) -> None: ...

    @abstractmethod
    def _on_readable(self) -> int: ...

    def doom(self, error: HboneError) -> None:
        """Like `lost`, but not before the turn of the loop is over."""
        if not self.doomed:
            self.doomed = True
            self._loop.call_soon(self.lost, error)

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
            self._poller.at_end(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flush_due = False
        self._last_flush = self._monotonic()
        self.flush()

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self.blocked or self.closed:
            return
        outbox, write = self.outbox, self.tls.write
        try:
            while outbox:
                written = write(outbox.pending())
                if written == WANT:
                    self.blocked = True
                    self._poller.add_writer(self._fd, self._on_writable)
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
        if self._on_readable():  # whole streams may still lie there, their ends included
            self._loop.call_soon(self._after_failed_write, error)
        else:
            self.lost(error)

    def _on_writable(self) -> None:
        self._poller.remove_writer(self._fd)
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

    # --- what owners do on a stream; each may end the link when the peer reads nothing ----------------------

    def answer(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        """Send the response."""
        if self.closed:
            return
        try:
            self.connection.send_headers(stream, headers, end_stream=end_stream)
        except OutboxOverflow as error:
            self.doom(error)
        self.request_flush()

    def end(self, stream: Stream) -> None:
        """No more bytes from our side."""
        try:
            self.connection.end(stream)
        except OutboxOverflow as error:
            self.doom(error)
        self.request_flush()
        if stream.id not in self.connection.streams:
            self.stream_over()

    def reset(self, stream: Stream, code: int) -> None:
        """Cut the stream, both ways."""
        if self.closed:
            return
        try:
            self.connection.reset(stream, code)
        except OutboxOverflow as error:
            self.doom(error)
        self.request_flush()
        self.stream_over()

    def stream_over(self) -> None:
        """An owner finished its stream on its own account."""
        if not self.closed:
            self._handler.on_slot_free()

    def consumed(self, stream: Stream, n: int) -> None:
        """The local side took `n` bytes, outside of the link's own turn."""
        if self.closed:
            return
        try:
            self.connection.consumed(stream, n)
        except OutboxOverflow as error:
            self.doom(error)
        if self.outbox:
            self.request_flush()

    # --- what the node's budget does ------------------------------------------------------------------------

    def hold_credit(self) -> None:
        self.connection.hold_credit()

    def give_credit(self) -> None:
        if self.closed:
            return
        try:
            self.connection.give_credit()
        except OutboxOverflow as error:
            self.doom(error)
        self.request_flush()

    def ping(self, payload: bytes) -> None:
        """Ask for an answer; the heartbeat does."""
        try:
            self.connection.ping(payload)
        except OutboxOverflow as error:
            self.doom(error)
        self.request_flush()

    # --- ends -----------------------------------------------------------------------------------------------

    def announce_going_away(self) -> None:
        """Ask the peer to open no more streams here; those on their way are still served (RFC 9113 §6.8)."""
        if not self.closed:
            try:
                self.connection.announce_going_away()
            except OutboxOverflow as error:
                self.doom(error)
            self.request_flush()

    def close_when_written(self) -> None:
        """Close, without an error, as soon as everything queued is written (after a GOAWAY)."""
        self._closing = True
        self.flush()

    def go_away(self) -> None:
        """No more streams; close once nothing is open."""
        if self.closed:
            return
        if not self._said_goodbye:
            self._said_goodbye = True
            try:
                self.connection.go_away(ErrorCode.NO_ERROR)
            except OutboxOverflow as error:
                self.doom(error)
            self.request_flush()
        if not self.connection.streams:
            self.close_when_written()
