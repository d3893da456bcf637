"""Two TCP sockets, copied both ways without a tunnel: half-close and reset carried as `hbone.net.relay` does."""

import socket
from typing import Final, Protocol

from hbone.errors import ConnectionCut, HboneError
from hbone.net.closing import LONG, Closing
from hbone.net.poller import Poller
from hbone.net.sockets import close_with_reset

CHUNK_BYTES: Final = 262_144  # one read; a slower reader ends in the kernel's buffers, at most this much is ours

_scratch = memoryview(bytearray(CHUNK_BYTES))  # one for the process: its bytes never outlive a turn of the loop


class SpliceOwner(Protocol):
    """Who is told how it goes."""

    def on_half_closed(self) -> None:
        """One direction has ended, the other goes on."""

    def on_ended(self, error: HboneError | None) -> None:
        """Both are over; called once."""


class _Nobody:
    """Who owns a splice that is over."""

    def on_half_closed(self) -> None: ...
    def on_ended(self, error: HboneError | None) -> None: ...


class SpliceParts(Protocol):
    """What all splices of a process share."""

    @property
    def poller(self) -> Poller: ...
    @property
    def closing(self) -> Closing: ...


class _Direction:
    """Bytes from `source` to `sink`."""

    __slots__ = ("_backlog", "_poller", "_splice", "broken", "carried", "done", "sink", "source")

    def __init__(self, splice: "Splice", source: socket.socket, sink: socket.socket) -> None:
        self._splice = splice
        self._poller = splice.parts.poller
        self.source = source
        self.sink = sink
        self._backlog = memoryview(b"")
        self.carried = 0
        self.done = False  # the source has ended, and the sink has everything
        self.broken: OSError | None = None  # the sink takes no more

    @property
    def reading(self) -> bool:
        return not (self.done or self.broken or self._backlog)

    def start(self) -> None:
        self._poller.add_reader(self.source.fileno(), self._on_readable)

    def stop(self) -> None:
        self._poller.remove_reader(self.source.fileno())
        self._poller.remove_writer(self.sink.fileno())

    def retire(self) -> None:
        """The splice is over, and calls nobody any more."""
        del self._splice

    def _on_readable(self) -> None:
        try:
            n = self.source.recv_into(_scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._splice.failed(error)
            return
        if n == 0:
            self._end()
            return
        sent = self._send(_scratch[:n])
        if 0 <= sent < n:
            self._backlog = memoryview(bytes(_scratch[sent:n]))
            self._poller.remove_reader(self.source.fileno())
            self._poller.add_writer(self.sink.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        sent = self._send(self._backlog)
        if sent < 0:
            return
        self._backlog = self._backlog[sent:]
        if not self._backlog:
            self._backlog = memoryview(b"")  # the old one holds the whole piece
            self._poller.remove_writer(self.sink.fileno())
            self.start()

    def _send(self, data: memoryview) -> int:
        """Bytes taken; -1 when the sink takes no more."""
        try:
            sent = self.sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.broken = error
            self.stop()
            self._splice.refused(self)
            return -1
        self.carried += sent
        return sent

    def _end(self) -> None:
        self.done = True
        self._poller.remove_reader(self.source.fileno())
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone; its own direction tells how
        self._splice.ended()


class Splice:
    """Copies between two connected, non-blocking sockets and owns them."""

    def __init__(
        self,
        parts: SpliceParts,
        downstream: socket.socket,
        upstream: socket.socket,
        owner: SpliceOwner,
    ) -> None:
        self.parts = parts
        self._sockets = (downstream, upstream)
        self._owner = owner
        self.closed = False
        self._up = _Direction(self, downstream, upstream)
        self._down = _Direction(self, upstream, downstream)

    @property
    def bytes_up(self) -> int:
        return self._up.carried

    @property
    def bytes_down(self) -> int:
        return self._down.carried

    def start(self) -> None:
        self._up.start()
        self._down.start()

    def opposite(self, direction: _Direction) -> _Direction:
        return self._down if direction is self._up else self._up

    def ended(self) -> None:
        """A source has ended."""
        broken = self._up.broken or self._down.broken
        if broken is not None:
            self.failed(broken)  # the end of a connection that had been reset is no end
        elif self._up.done and self._down.done:
            self._stop()
            for sock in self._sockets:
                sock.close()
            self._tell(None)
        else:
            self._owner.on_half_closed()

    def refused(self, direction: _Direction) -> None:
        """The sink of `direction` takes no more bytes."""
        back = self.opposite(direction)
        error = direction.broken
        if back.done:  # it had said everything, and that has been passed on: the source must get to read it
            self._stop()
            direction.sink.close()
            self.parts.closing.linger(direction.source, LONG)
            why = (error.strerror if error is not None else None) or ""
            self._tell(ConnectionCut("the application closed before it took everything", why=why))
        elif not back.reading and error is not None:
            self.failed(error)
        # else: what it said before is still in our socket's queue, and its end or error behind that

    def failed(self, error: OSError) -> None:
        self.cut(ConnectionCut("the connection was reset", why=error.strerror or str(error), errno=error.errno))

    def cut(self, error: HboneError) -> None:
        """End both directions at once; both ends see a reset."""
        if self.closed:
            return
        self._stop()
        for sock in self._sockets:
            close_with_reset(sock)
        self._tell(error)

    def _tell(self, error: HboneError | None) -> None:
        """The last word; with it the parts let go of each other, so that nothing is left to the collector."""
        owner, self._owner = self._owner, _Nobody()
        self._up.retire()
        self._down.retire()
        owner.on_ended(error)

    def _stop(self) -> None:
        self.closed = True
        self._up.stop()
        self._down.stop()
