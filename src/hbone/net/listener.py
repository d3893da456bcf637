"""The accept loop: bounded per turn, and calm when the process runs out of descriptors."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final, cast

from hbone.addr import SocketAddress
from hbone.net.congestion import unpace
from hbone.net.poller import Watcher
from hbone.net.sockets import KeepAlive, accept, tune

log = logging.getLogger("hbone.net")

# the first of a burst are to be on their way early: in a closed loop 9 % more new connections than with 64, or 4
ACCEPTS_PER_TURN: Final = 8
BACK_OFF_S: Final = 0.2  # after EMFILE: time for something to close; the backlog keeps the callers meanwhile
SAY_AGAIN_S: Final = 10.0  # whoever opens many connections can keep us in this state
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Accepted = Callable[[socket.socket], None]


class Listener:
    """A bound socket whose connections go to `accepted`, non-blocking and tuned."""

    def __init__(
        self,
        watcher: Watcher,
        sock: socket.socket,
        accepted: Accepted,
        *,
        name: str,
        keep_alive: KeepAlive | None = None,
    ) -> None:
        self._watcher = watcher
        self._sock = sock
        self._family = int(sock.family)
        self._accepted = accepted
        self._keep_alive = keep_alive
        self._timer: asyncio.TimerHandle | None = None
        self._started = False
        self._said_at = float("-inf")
        self.name = name
        self.address: SocketAddress | str = _address(sock)
        """Where it listens, or did until it was closed: an address, or a Unix socket's path."""
        # TCP options are inherited from the listening socket; keep-alive is set here once instead of per connection
        tune(sock, keep_alive)
        if isinstance(self.address, SocketAddress) and self.address.ip.is_loopback:
            unpace(sock)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def start(self) -> None:
        self._started = True
        self._watcher.add_reader(self._sock.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop accepting; connections that were accepted live on. Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sock.fileno() >= 0:
            if self._started:
                self._watcher.remove_reader(self._sock.fileno())
            self._sock.close()

    def _on_readable(self) -> None:
        listening, family = self._sock, self._family
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock = accept(listening, family)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                continue  # this one caller went away (ECONNABORTED), or was refused by a firewall (EPERM)
            sock.setblocking(False)
            try:
                self._accepted(sock)
            except Exception:  # a fault of ours with one connection must not take the others' listener
                log.exception("connection failed unexpectedly", extra={"listener": self.name})
                sock.close()

    def _back_off(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._said_at >= SAY_AGAIN_S:
            self._said_at = loop.time()
            fix = "raise the open files limit (ulimit -n)"
            log.warning("accepting pauses", extra={"listener": self.name, "error": error.strerror, "fix": fix})
        self._watcher.remove_reader(self._sock.fileno())
        self._timer = loop.call_later(BACK_OFF_S, self.start)


def _address(sock: socket.socket) -> SocketAddress | str:
    name: object = sock.getsockname()
    return SocketAddress.of(cast("tuple[object, ...]", name)) if isinstance(name, tuple) else str(name)
