"""One HTTP/2 connection over one TLS stream, driven by the event loop.

How it works. The loop says that the TLS socket is readable: records are read into a buffer that all links of the
process share, the sans-io core (`hbone.protocol.connection`) turns them into events, and each event goes to the
owner of its stream (`StreamOwner`) before the next read, so that payload never has to be kept. Whatever the owners
and the core want to send collects in the link's outbox, and one TLS write takes all that a turn of the loop
produced. While that write is blocked nobody reads from the local sockets: this is the whole of backpressure.

Measured on two cores, 32 keep-alive connections: one write per frame instead of one per turn costs half of the
requests per second; writing at the end of the turn even when the link is quiet costs 7 % of latency at one
connection. Hence `request_flush`.

Since payload lives in the shared buffer only until its owner was called, nothing that an owner does may make another
link read. And since an owner is called in the middle of its link's turn, and of its own bookkeeping, no link ends
inside a call of its owner's: what has to end then is `doomed`, and ends with the turn.
"""

import contextlib
import logging
import socket
from collections import deque
from typing import Final

from hbone.errors import HboneError, PeerRejected, TlsFailure, TunnelFailure
from hbone.net.closing import BRIEF
from hbone.net.heartbeat import Heartbeat
from hbone.net.linkparts import LinkParts
from hbone.net.linkwriter import LinkWriter
from hbone.net.owners import LinkHandler, StreamOwner
from hbone.net.poller import STAYS_BUSY, Poller
from hbone.net.tls import WANT, TlsStream
from hbone.protocol.connection import Http2Connection
from hbone.protocol.events import (
    ConnectionFailed,
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
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
from hbone.times import Instant

log = logging.getLogger("hbone.net")

RECORD_BYTES: Final = 16_384  # RFC 8446 §5.1: the most one TLS record carries
READ_TURN_BYTES: Final = 262_144  # payload taken in one turn, so that one tunnel cannot keep the loop to itself
MUCH_BYTES: Final = 65_536  # read in one turn: a bulk transfer
_ESTABLISHED: Final = 1  # tcpi_state (linux/tcp_states.h)


class H2Link(LinkWriter):
    """Drives `connection` over `tls`. Made after the TLS handshake; `start()` begins."""

    __slots__ = (
        "_alive_in",
        "_buffer",
        "_heartbeat",
        "_parts",
        "_ready",
        "budget",
        "closing",
        "last_heard",
    )

    def __init__(
        self,
        poller: Poller,
        tls: TlsStream,
        connection: Http2Connection,
        outbox: Outbox,
        parts: LinkParts,
    ) -> None:
        super().__init__(poller, tls, connection, outbox, parts.clock.now)
        self._parts = parts
        self._buffer = parts.buffer
        self._heartbeat = Heartbeat(poller.loop, self, tls.sock, parts.pings, self._monotonic)
        self._ready = False
        self._alive_in = 0  # the poller's turn in which the socket was last looked at, and lived
        self.budget = parts.budget
        self.closing = parts.closing
        self.last_heard = 0.0

    # --- life -----------------------------------------------------------------------------------------------

    def start(self, handler: LinkHandler) -> None:
        """Send the preface and SETTINGS, and begin to read."""
        self._handler = handler
        self._parts.open.add(self)
        self.last_heard = self._monotonic()
        self.connection.start()
        self._poller.add_reader(self._fd, self._on_readable)
        self._heartbeat.start()
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        # Reads first. The peer's first flight may have come with its last handshake message: the socket will not be
        # readable again for bytes that OpenSSL has taken already. Or the peer has refused our certificate and is
        # gone: its alert says why, and OpenSSL reads nothing any more once a write has failed.
        self._on_readable()
        self.flush()

    def now(self) -> Instant:
        return self._monotonic()

    def lost(self, error: HboneError | None) -> None:
        """The connection is over: tell the owner of every stream, then the handler. Harmless when repeated.

        With an error the peer is told nothing more; without one it hears TLS's goodbye, behind all that was written.
        """
        if self._tear_down(error):
            if error is None:
                self._say_goodbye()
            else:
                self.tls.close()
            self._handler.on_closed(error)

    def _tear_down(self, error: HboneError | None) -> bool:
        """Everything but the socket's end; False when that has happened before."""
        if self.closed:
            return False
        self.closed = True
        self._heartbeat.stop()
        self._poller.remove_reader(self._fd)
        self._poller.remove_writer(self._fd)
        self.budget.forget(self)
        reason = error or TunnelFailure("the tunnel was closed", why="its streams were over or its time was up")
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            if owner is not None:
                owner.on_link_lost(reason)
        self._paused.clear()
        self._starved.clear()
        self.outbox.discard()
        self._parts.open.remove(self)
        return True

    def _say_goodbye(self) -> None:
        self.tls.shutdown()
        self.closing.linger(self.tls.sock, BRIEF)

    # --- reading --------------------------------------------------------------------------------------------

    def _on_readable(self) -> int:
        """Take what has come; how many bytes that was."""
        if self.closed:
            return 0
        read_into, buffer = self.tls.read_into, self._buffer
        on = self._poller.busy > 0 or not self._ready
        total = 0
        got = WANT
        failure: HboneError | None = None
        try:
            while total < READ_TURN_BYTES:
                got = read_into(buffer, total)
                if got <= 0:
                    break
                total += got
                # OpenSSL reads record by record: after a short one nothing is left inside, and on a quiet node
                # nothing more has come either. Under load the extra call gathers what has come meanwhile (32
                # connections: 8 % more requests), and of a new peer a GOAWAY behind the SETTINGS.
                if got < RECORD_BYTES and not on:
                    break
        except (TlsFailure, PeerRejected) as error:
            failure = error
        if total:
            now = self.last_heard = self._monotonic()
            try:
                for event in self.connection.receive(buffer.view[:total], now):
                    if type(event) is DataReceived:  # nearly all are: what `_dispatch` does, without the call
                        stream = event.stream
                        if stream.owner is not None:
                            stream.owner.on_data(stream)
                    else:
                        self._dispatch(event)
            except OutboxOverflow as overflow:
                failure = overflow
            except Exception:  # a fault of ours: with the rest of the events lost, nothing here can be trusted
                log.exception("a tunnel failed unexpectedly", extra={"peer": str(self.tls.peer)})
                failure = TunnelFailure("the tunnel was closed", why="a fault in this proxy; its log has it")
        if total >= MUCH_BYTES:
            self._poller.busy = STAYS_BUSY
        if failure is not None:
            self.lost(failure)
        elif got == 0:
            self._peer_closed()
        elif self.outbox:
            self.request_flush()
        return total

    def _peer_closed(self) -> None:
        if self.connection.peer_going_away or not self.connection.streams:
            self.lost(None)
        else:
            self.lost(TunnelFailure("the peer closed the tunnel", why="its proxy stopped, or dropped the connection"))

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, EndReceived):
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
                self._heartbeat.answered()
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
            if self.closed:  # by an event before this one
                return
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

    def _fail(self, error: HboneError) -> None:
        """The peer broke the protocol: our GOAWAY is in the outbox, one try to deliver it, then the end."""
        with contextlib.suppress(HboneError):
            if self.outbox and not self.blocked:
                self.tls.write(self.outbox.pending())
        if self._tear_down(error):
            self._say_goodbye()
            self._handler.on_closed(error)

    # --- is the peer alive ----------------------------------------------------------------------------------

    def seems_alive(self) -> bool:
        """Whether the socket shows neither an end nor an error now: asked before a new stream is trusted to it.

        A proxy that was killed leaves a tunnel whose end this turn of the loop may not have reached yet.
        """
        if self.closed or self.doomed or self.connection.peer_going_away:
            return False
        poller = self._poller
        if poller.in_turn and self._alive_in == poller.turns:
            return True  # a burst of connections asks once: a system call each would be 4 % of them
        alive = self._looks_alive()
        if alive:
            self._alive_in = poller.turns
        return alive

    def _looks_alive(self) -> bool:
        try:
            if hasattr(socket, "TCP_INFO"):
                return self.tls.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
            return self.tls.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
