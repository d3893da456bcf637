"""Sockets that have said their last word: kept until the other end has heard it.

Closing a socket with bytes unread makes the kernel send a reset, which throws away whatever of ours is still on its
way: the last bytes of a transfer, or the reply that says why there is no connection. So our side is shut down, what
the other end still says is read and dropped, and the socket is closed when that ends, or a moment after the other
end's kernel has acknowledged our end and with it everything before, or after a while. A moment after, since the kernel
is not yet the program: OpenSSL reads nothing any more once a write of its own has met our reset.
"""

import asyncio
import socket
from typing import Final

from hbone.net.emptying import wait_empty
from hbone.net.members import Members
from hbone.net.poller import Poller
from hbone.values import dataclass

_PIECE: Final = 65_536
_HEARD_S: Final = 0.1  # from the other kernel's acknowledgement until its program has read, if it means to
_FIN_WAIT_2: Final = 5  # tcpi_state (linux/tcp_states.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, and how many bytes, the other end may take to notice."""

    time_s: float
    max_bytes: int


BRIEF: Final = Patience(time_s=1.0, max_bytes=1 << 20)
"""For a peer that has only to read a few bytes: a round trip on a bad path, and then some."""
LONG: Final = Patience(time_s=5.0, max_bytes=1 << 40)
"""An application that is in the middle of an upload reads the answer when it is done with that, or never."""


class Closing:
    """The sockets of a process that are on their way out."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._sockets: Members[_Last] = Members()

    def linger(self, sock: socket.socket, patience: Patience) -> None:
        """Take over a non-blocking socket that has no handlers in the loop any more."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()  # the other end is gone already
            return
        _Last(self._poller, sock, self._sockets, patience).start()

    async def wait_empty(self) -> None:
        """Until all are closed."""
        await wait_empty(self._sockets)

    def close(self) -> None:
        """Close what is left now."""
        for last in self._sockets:
            last.close()

    def __len__(self) -> int:
        return len(self._sockets)


class _Last:
    """One socket."""

    __slots__ = ("_dropped", "_fd", "_heard", "_others", "_patience", "_poller", "_sock", "_timer")

    def __init__(self, poller: Poller, sock: socket.socket, others: "Members[_Last]", patience: Patience) -> None:
        self._poller = poller
        self._sock = sock
        self._fd = sock.fileno()
        self._others = others
        self._patience = patience
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heard = False

    def start(self) -> None:
        self._others.add(self)
        self._poller.add_reader(self._fd, self._on_readable)
        self._timer = self._poller.loop.call_later(self._patience.time_s, self.close)

    def _on_readable(self) -> None:
        try:
            n = len(self._sock.recv(_PIECE))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            n = 0
        self._dropped += n
        if n == 0 or self._dropped > self._patience.max_bytes:
            self.close()
        elif not self._heard and _is_acknowledged(self._sock):
            self._heard = True
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._poller.loop.call_later(min(_HEARD_S, self._patience.time_s), self.close)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._poller.forget(self._fd)
        self._sock.close()
        self._others.remove(self)


def _is_acknowledged(sock: socket.socket) -> bool:
    """Whether our end has arrived; False where the kernel does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _FIN_WAIT_2
