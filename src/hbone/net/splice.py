"""Two TCP sockets, copied both ways without a tunnel: half-close and reset carried as `hbone.net.relay` does."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from hbone.errors import ConnectionCut, HboneError
from hbone.net.sockets import close_with_reset

CHUNK_BYTES: Final = 262_144  # one read; a slower reader ends in the kernel's buffers, at most this much is ours

_scratch = memoryview(bytearray(CHUNK_BYTES))  # one for the process: its bytes never outlive a turn of the loop


class _Direction:
    """Bytes from `source` to `sink`."""

    __slots__ = ("_backlog", "_loop", "_splice", "carried", "done", "sink", "source")

    def __init__(self, splice: "Splice", source: socket.socket, sink: socket.socket) -> None:
        self._splice = splice
        self._loop = splice.loop
        self.source = source
        self.sink = sink
        self._backlog = b""
        self.carried = 0
        self.done = False

    def start(self) -> None:
        self._loop.add_reader(self.source.fileno(), self._on_readable)

    def stop(self) -> None:
        self._loop.remove_reader(self.source.fileno())
        self._loop.remove_writer(self.sink.fileno())

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
            self._backlog = bytes(_scratch[sent:n])
            self._loop.remove_reader(self.source.fileno())
            self._loop.add_writer(self.sink.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        sent = self._send(self._backlog)
        if sent < 0:
            return
        self._backlog = self._backlog[sent:]
        if not self._backlog:
            self._loop.remove_writer(self.sink.fileno())
            self.start()

    def _send(self, data: bytes | memoryview) -> int:
        """Bytes taken; -1 when the splice has ended."""
        try:
            sent = self.sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._splice.failed(error)
            return -1
        self.carried += sent
        return sent

    def _end(self) -> None:
        self.done = True
        self._loop.remove_reader(self.source.fileno())
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone; its own direction tells how
        self._splice.ended()


class Splice:
    """Copies between two connected, non-blocking sockets and owns them; `done` is called once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        downstream: socket.socket,
        upstream: socket.socket,
        done: Callable[[HboneError | None], None],
    ) -> None:
        self.loop = loop
        self._sockets = (downstream, upstream)
        self._done = done
        self._closed = False
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

    def ended(self) -> None:
        if self._up.done and self._down.done:
            self._close(None)

    def failed(self, error: OSError) -> None:
        self.cut(ConnectionCut("the connection was reset", why=error.strerror or str(error), errno=error.errno))

    def cut(self, error: HboneError) -> None:
        """End both directions at once; both ends see a reset."""
        self._close(error)

    def _close(self, error: HboneError | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._up.stop()
        self._down.stop()
        for sock in self._sockets:
            if error is None:
                sock.close()
            else:
                close_with_reset(sock)
        self._done(error)
