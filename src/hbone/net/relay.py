"""One stream of a tunnel and one local TCP socket, copied both ways.

The two directions live apart: each ends when its own source ends (a FIN becomes END_STREAM and the reverse), and the
relay is over when both have. A cut is never an end: a reset on one side becomes a reset on the other, and so does
the loss of the tunnel.

"Up" is from the local socket into the tunnel, "down" is out of the tunnel. Up: bytes are read straight into the
link's outbox, behind room for the frame header. Down: payload goes from the read buffer to the socket in one gather
call; only what the socket does not take is copied, into `_backlog`, which the stream's window bounds.
"""

import socket
from typing import Final

from hbone.errors import ConnectionCut, HboneError
from hbone.net.closing import LONG
from hbone.net.congestion import unpace_if_local
from hbone.net.h2link import H2Link
from hbone.net.poller import STAYS_BUSY, Poller
from hbone.net.sockets import close_with_reset
from hbone.protocol.codes import ErrorCode, code_name
from hbone.protocol.events import Headers
from hbone.protocol.frames import FRAME_HEADER_BYTES
from hbone.protocol.streams import Stream

SMALL_READ: Final = 16_375  # one frame that fills one TLS record
BULK_READ: Final = 262_144  # measured: 16 records a turn; 8 cost 4 % more CPU, 4 cost 10 %
STAYS_BULK: Final = 65_536  # a read below this ends the bulk mode
GATHER_LIMIT: Final = 512  # views per sendmsg: Linux takes 1024 (IOV_MAX), macOS too


class StreamRelay:
    """Copies between `stream` of `link` and a local socket; `ended` is called once, with the error or None."""

    __slots__ = (
        "_backlog",
        "_bulk",
        "_closed",
        "_down_broken",
        "_down_done",
        "_paced",
        "_poller",
        "_reading",
        "_remote_ended",
        "_unwanted",
        "_up_done",
        "_writing",
        "bytes_down",
        "bytes_up",
        "fd",
        "link",
        "sock",
        "stream",
    )

    def __init__(
        self,
        poller: Poller,
        link: H2Link,
        stream: Stream,
    ) -> None:
        self._poller = poller
        self.link = link
        self.stream = stream
        self.sock: socket.socket | None = None
        self.fd = -1
        self._backlog: bytearray | None = None  # payload that the socket has not taken
        self._bulk = False
        self._reading = False
        self._writing = False
        self._up_done = False
        self._remote_ended = False
        self._down_done = False
        self._down_broken = False  # the application no longer takes bytes, but may still have sent some
        self._unwanted = False  # the far side takes no more of the application's bytes
        self._closed = False
        self._paced = True
        self.bytes_up: int = 0
        self.bytes_down: int = 0

    # --- life -----------------------------------------------------------------------------------------------

    def attach(self, sock: socket.socket) -> None:
        """The local socket, connected and non-blocking: from now on bytes flow both ways."""
        self.sock = sock
        self.fd = sock.fileno()
        if self._backlog or self._remote_ended:
            self._drain_backlog()
        if not self._closed and not self._up_done:
            self._read_on()

    @property
    def closed(self) -> bool:
        return self._closed

    def cut(self, error: HboneError, code: int = ErrorCode.CANCEL) -> None:
        """End both directions at once; both ends see a reset."""
        if self._closed:
            return
        self.link.reset(self.stream, code)
        self._abort_local(error)

    def _finish(self, error: HboneError | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._drop_backlog()
        self.stream.owner = None  # what still comes for it in this turn of the link is nobody's
        self.ended(error)

    def _close_local(self) -> None:
        """Both directions are complete."""
        if self.sock is not None:
            if self._unwanted:
                self._unwatch()
                self.link.closing.linger(self.sock, LONG)
            else:
                self._poller.forget(self.fd)
                self.sock.close()
        self._finish(None)

    def _abort_local(self, error: HboneError) -> None:
        if self.sock is not None:
            self._poller.forget(self.fd)
            close_with_reset(self.sock)
        self._finish(error)

    def _unwatch(self) -> None:
        """Before the socket goes to somebody else."""
        if self._reading:
            self._reading = False
            self._poller.remove_reader(self.fd)
        if self._writing:
            self._writing = False
            self._poller.remove_writer(self.fd)

    def _drop_backlog(self) -> None:
        if self._backlog is not None:
            self.link.budget.give_back(len(self._backlog))
            self._backlog = None

    def ended(self, error: HboneError | None) -> None:
        """Both directions are over, well or with `error`; called once. For subclasses: a callback kept here would be
        a cycle, and each connection's objects would wait for the collector (5 ms in which nothing moves)."""

    def half_closed(self) -> None:
        """One direction has ended and the other goes on, for as long as it likes; a subclass may limit that."""

    # --- up: local socket → tunnel --------------------------------------------------------------------------

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._poller.add_reader(self.fd, self._on_readable)

    def _read_off(self) -> None:
        if self._reading:
            self._reading = False
            self._poller.remove_reader(self.fd)

    def resume(self) -> None:
        """The link can write again."""
        if not self._closed and not self._up_done and self.sock is not None:
            self._read_on()

    def on_window(self) -> None:
        """The stream or its connection may send again."""
        self.resume()

    def _on_readable(self) -> None:
        link = self.link
        if link.blocked:
            self._read_off()
            link.wait_writable(self)
            return
        connection = link.connection
        want = connection.sendable(self.stream)
        if want <= 0:
            self._read_off()
            if self.stream.send_window > 0:
                link.wait_window(self)  # the connection's window is shared: WindowOpened does not name us
            return
        try:
            n = self._read_bulk(want) if self._bulk else self._read_small(want)
        except (BlockingIOError, InterruptedError):
            link.outbox.abandon()
            return
        except OSError as error:
            self._local_failed(error)
            return
        if n > 0:
            self.bytes_up += n
            connection.sent(self.stream, n)
            if n < SMALL_READ and self._poller.ended:
                self._on_readable()  # the end is next: it leaves with the last bytes, and costs no turn of its own
                if not link.outbox:
                    return
            link.request_flush()
        elif n == 0:
            self._local_ended()

    def _read_small(self, want: int) -> int:
        """Read up to one record's worth into the outbox; bytes read, 0 at the end, -1 when there is no room."""
        outbox = self.link.outbox
        space = outbox.reserve(want if want < SMALL_READ else SMALL_READ)  # noqa: FURB136 -- a call less for each read
        size = len(space)
        if size == 0:
            return self._make_room()
        n = self.sock.recv_into(space)  # type: ignore[union-attr] # readers run only with a socket
        if n:
            outbox.commit(self.stream.id, n)
            if n == SMALL_READ:
                self._bulk = True
        return n

    def _read_bulk(self, want: int) -> int:
        """Likewise with many frames at once: one system call fills the payload of all of them."""
        outbox = self.link.outbox
        frame = self.link.connection.frame_bytes
        whole = frame * (BULK_READ // (frame + FRAME_HEADER_BYTES))  # whole frames: no scrap of one fills a record
        spaces = outbox.reserve_many(min(whole, want), frame)
        if not spaces:
            return self._make_room()
        n = self.sock.recvmsg_into(spaces)[0]  # type: ignore[union-attr]
        if n:
            outbox.commit_many(self.stream.id, n, frame)
        if n < STAYS_BULK:
            self._bulk = False
        else:
            self._poller.busy = STAYS_BUSY
        return n

    def _make_room(self) -> int:
        self.link.flush()
        if self.link.blocked:
            self._read_off()
            self.link.wait_writable(self)
        return -1  # the socket is still readable: the loop comes back

    def _local_ended(self) -> None:
        """The application closed its sending side."""
        if self._down_broken:  # it had reset the connection; this is no end
            self._local_failed(ConnectionResetError("connection reset by the application"))
            return
        self._up_done = True
        self.link.end(self.stream)
        if self._closed:
            return
        if self._down_done:
            self._close_local()
        else:
            self._read_off()
            self.half_closed()

    def _local_failed(self, error: OSError) -> None:
        """The application's connection broke: the other end must not take what it has for the whole."""
        self.link.reset(self.stream, ErrorCode.CONNECT_ERROR)
        why = error.strerror or str(error)
        self._abort_local(ConnectionCut("the local connection was reset", why=why, errno=error.errno))

    # --- down: tunnel → local socket ------------------------------------------------------------------------

    def on_headers(self, headers: Headers) -> None:
        """Nothing to learn from; a client's relay overrides this for the answer to its CONNECT."""

    def on_data(self, stream: Stream) -> None:
        """Payload came, in `stream.chunks`, valid during this call only."""
        chunks = stream.chunks
        if self._down_broken:
            return  # no credit for the stream: the peer soon stops
        if self._backlog is not None or self.sock is None:
            self._store(chunks, 0)
            return
        try:
            if len(chunks) == 1:
                total = len(chunks[0])
                n = self.sock.send(chunks[0])
            else:
                total = sum(map(len, chunks))
                n = self.sock.sendmsg(chunks if len(chunks) <= GATHER_LIMIT else chunks[:GATHER_LIMIT])
        except (BlockingIOError, InterruptedError):
            n = 0
            total = -1
        except OSError as error:
            self._local_write_failed(error)
            return
        if n:
            self.bytes_down += n
            self.link.connection.consumed(stream, n)
            if n >= SMALL_READ and self._paced:
                self._paced = False
                unpace_if_local(self.sock)  # only now: for a short connection it would cost more than it brings
        if n != total:
            self._store(chunks, n)
        chunks.clear()  # an idle stream keeps no views: 250 bytes of each tunnelled connection

    def _store(self, chunks: list[memoryview], skip: int) -> None:
        """Copy all but the first `skip` bytes: the views end with this turn."""
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = bytearray()
        before = len(backlog)
        for chunk in chunks:
            size = len(chunk)
            if skip >= size:
                skip -= size
            else:
                backlog += chunk[skip:] if skip else chunk
                skip = 0
        self.link.budget.take(self.link, len(backlog) - before)
        if self.sock is not None and not self._writing:
            self._writing = True
            self._poller.add_writer(self.fd, self._drain_backlog)

    def _drain_backlog(self) -> None:
        backlog = self._backlog
        if backlog:
            try:
                n = self.sock.send(backlog)  # type: ignore[union-attr] # called only with a socket
            except (BlockingIOError, InterruptedError):
                n = 0
            except OSError as error:
                self._local_write_failed(error)
                return
            if n:
                del backlog[:n]  # O(1): CPython moves the start
                self.bytes_down += n
                self.link.budget.give_back(n)
                self.link.consumed(self.stream, n)
        if backlog:
            if not self._writing:
                self._writing = True
                self._poller.add_writer(self.fd, self._drain_backlog)
            return
        self._backlog = None
        if self._writing:
            self._writing = False
            self._poller.remove_writer(self.fd)
        if self._remote_ended:
            self._finish_down()

    def on_end(self) -> None:
        """The far application closed its sending side."""
        self._remote_ended = True
        if self.sock is not None and not self._backlog:
            self._finish_down()

    def _finish_down(self) -> None:
        """Everything is delivered: pass the end on, and keep the other direction going."""
        self._down_done = True
        if self._up_done:
            self._close_local()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
        except OSError:
            pass  # the application has gone; reading tells how
        self.half_closed()

    def _local_write_failed(self, error: OSError) -> None:
        """The application takes no more. What it sent before is still in our socket's queue: that goes on."""
        self._down_broken = True
        self._drop_backlog()
        if self._writing:
            self._writing = False
            self._poller.remove_writer(self.fd)
        if self._up_done:
            # its own bytes ended cleanly and were carried; it merely refuses the rest
            self.link.reset(self.stream, ErrorCode.NO_ERROR)
            why = str(error.strerror)
            self._abort_local(ConnectionCut("the application closed before it took everything", why=why))
        elif not self._reading:
            self._local_failed(error)  # nobody takes its last bytes now: what matters is that it is gone

    # --- resets ---------------------------------------------------------------------------------------------

    def on_reset(self, code: int) -> None:
        """RST_STREAM from the peer, or a rule of HTTP/2 that it broke on this stream."""
        if self._closed:
            return
        if code == ErrorCode.NO_ERROR and self._remote_ended:
            self._stop_sending()
            return
        why = f"RST_STREAM {code_name(code)}"
        self._abort_local(ConnectionCut("the far side cut the stream", why=why, code=code, by="peer"))

    def on_link_lost(self, error: HboneError) -> None:
        """The tunnel is gone, and with it whatever was on its way."""
        if self._closed:
            return
        if self._remote_ended and self._up_done:
            return  # all bytes are here; the backlog is still to be delivered
        self._abort_local(error)

    def _stop_sending(self) -> None:
        """The peer answered in full and wants no more (RFC 9113 §8.1): a clean end for the application.

        Its late bytes are read and dropped for a while: see `hbone.net.closing`.
        """
        self._up_done = True
        self._unwanted = True
        self._read_off()
        if self._down_done:
            self._close_local()
