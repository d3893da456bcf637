"""TCP keep-alive for connections to applications, once they have lasted for a moment.

Asking for probes takes four system calls, a tenth of what a short connection costs its node; and a connection that is
over before the first probe would be sent needs none.
"""

import asyncio
import socket
from typing import Final, Protocol

from hbone.net.deadlines import Deadlines
from hbone.net.sockets import KeepAlive, probe

AFTER_S: Final = 5.0


class Lasting(Protocol):
    """A connection that is carried."""

    sock: socket.socket | None


class KeepAlives:
    """Each connection begins, and is over; in between its socket gets its probes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_alive: KeepAlive) -> None:
        self._keep_alive = keep_alive
        self._deadlines: Deadlines[Lasting] = Deadlines(loop, moment_s(keep_alive), self._lasted)

    def begin(self, connection: Lasting) -> None:
        """It has its socket."""
        self._deadlines.start(connection)

    def over(self, connection: Lasting) -> None:
        """Harmless for one that never began."""
        self._deadlines.stop(connection)

    def close(self) -> None:
        self._deadlines.close()

    def _lasted(self, connection: Lasting) -> None:
        if connection.sock is not None:
            try:
                probe(connection.sock, self._keep_alive)
            except OSError:
                pass  # it is gone: the next read tells how


def moment_s(keep_alive: KeepAlive) -> float:
    """Well before anything of it would be due."""
    due = keep_alive.idle_s if keep_alive.user_timeout_s is None else min(keep_alive.idle_s, keep_alive.user_timeout_s)
    return min(AFTER_S, due / 2)
