"""Connections and tunnels spread evenly over a node's workers: who has accepted one more than others hands it on.

The kernel gives a new connection to a worker by a hash of its addresses. That is even for thousands, but two tunnels,
each with all the streams of a peer, meet in one of two workers half of the time, and of eight long transfers one worker
of four may have none: its core is idle. So a worker that has accepted while another carries less (`hbone.net.tally`
says how much less) passes the descriptor on (SCM_RIGHTS, unix(7)), for two system calls and a wake-up.

A mailbox is a pair of sockets that the agent keeps too: what lies in it when a worker dies is its successor's. It holds
a few messages only: to a worker that hangs nothing more is given than that.
"""

import logging
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from hbone.net.listener import SAY_AGAIN_S, Accepted
from hbone.net.poller import Watcher
from hbone.net.sockets import bare, close_with_reset
from hbone.net.tally import Allowance, Load, Tally, tally_bytes
from hbone.times import Clock

log = logging.getLogger("hbone.net")

TAKEN_PER_TURN: Final = 8  # as many as a listener accepts
_WHAT: Final = struct.Struct(">BH")  # address family, number of the listener


class Balance:
    """A worker's part of it. `over` the accepting of each listener, `start` with them, `close` before their end."""

    def __init__(self, own: int, clock: Clock, *, tally: int, inbox: int, outboxes: Sequence[tuple[int, int]]) -> None:
        """`own`: our number. Takes descriptors over: of the shared memory, of our mailbox's end to read, and with their
        workers those to write into the others'. Raises OSError when they are not what they should be."""
        workers = len(outboxes) + 1
        self._own = own
        self._map = mmap.mmap(tally, tally_bytes(workers))
        os.close(tally)
        self._tally = Tally(memoryview(self._map), workers)
        self._inbox = socket.socket(fileno=inbox)
        self._outboxes = {worker: socket.socket(fileno=fd) for worker, fd in outboxes}
        for sock in (self._inbox, *self._outboxes.values()):
            sock.setblocking(False)
        self._clock = clock
        self._allowance = Allowance(clock.now())
        self._spare = os.dup(inbox)  # given up for a moment, so that even without free descriptors one can be taken
        self._watcher: Watcher | None = None
        self._reading = False
        self._said_at = float("-inf")
        self._accepted: list[Accepted] = []

    def over(self, accepted: Accepted, load: Load) -> Accepted:
        """What a listener calls instead of `accepted`: connections stay here, or go to who carries less.

        To be asked for in the same order in all workers: a connection is handed on with the number of its listener.
        """
        number = len(self._accepted)
        self._accepted.append(accepted)

        def shared(sock: socket.socket) -> None:
            heir = self._heir(load)
            if heir is None or not self._give(sock, heir, number, load):
                accepted(sock)

        return shared

    def _heir(self, load: Load) -> int | None:
        if self._watcher is None:
            return None
        heir = self._tally.heir(load, self._own)
        if heir is None or load is Load.TUNNELS or self._allowance.spend(self._clock.now()):
            return heir
        return None

    def start(self, watcher: Watcher) -> None:
        """From now on others may give to us."""
        self._watcher = watcher
        self._tally.begin(self._own)
        watcher.add_reader(self._inbox.fileno(), self._on_readable)
        self._reading = True

    def holds_tunnels(self, count: int) -> None:
        """So many are here now, or being opened."""
        self._hold(Load.TUNNELS, count)

    def holds_connections(self, count: int) -> None:
        """So many are carried now."""
        self._hold(Load.CONNECTIONS, count)

    def _hold(self, load: Load, count: int) -> None:
        if self._watcher is not None:
            self._tally.hold(load, self._own, count)

    def close(self) -> None:
        """Take and give nothing more; what others gave meanwhile is reset, as in a listener's queue. Harmless when
        repeated."""
        if self._watcher is None:
            return
        self._tally.leave(self._own)
        self._stop_reading()
        self._watcher = None
        while (taken := self._take()) is not None:
            for sock, _ in taken:
                close_with_reset(sock)
        for mailbox in (self._inbox, *self._outboxes.values()):
            mailbox.close()
        if self._spare >= 0:
            os.close(self._spare)
        self._tally.release()
        self._map.close()

    def _stop_reading(self) -> None:
        if self._watcher is not None and self._reading:
            self._watcher.remove_reader(self._inbox.fileno())
            self._reading = False

    def _give(self, sock: socket.socket, heir: int, number: int, load: Load) -> bool:
        try:
            socket.send_fds(self._outboxes[heir], [_WHAT.pack(sock.family, number)], [sock.fileno()])
        except OSError as error:  # its mailbox is full, or too many descriptors are under way: the connection stays
            log.debug("nothing was handed on", extra={"to_worker": heir, "error": error.strerror})
            return False
        self._tally.give(load, heir)
        sock.close()
        return True

    def _on_readable(self) -> None:
        for _ in range(TAKEN_PER_TURN):
            taken = self._take()
            if taken is None:
                return
            for sock, number in taken:
                self._serve(sock, self._accepted[number])

    def _take(self) -> Sequence[tuple[socket.socket, int]] | None:
        """The next one with the number of its listener; nothing for one that was lost, None when there is none."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            said, fds, _, _ = socket.recv_fds(self._inbox, _WHAT.size, 1, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            said, fds = None, []
        exhausted = not self._keep_spare()
        if said is None:
            return None
        if not said:  # all that could write are gone, the agent first: we shall end too
            self._stop_reading()
            return None
        if not fds or exhausted:
            for fd in fds:
                close_with_reset(bare(socket.AF_INET, socket.SOCK_STREAM, fd))
            if exhausted:
                self._keep_spare()
            self._say_lost()
            return ()
        family, number = _WHAT.unpack(said)
        sock = bare(family, socket.SOCK_STREAM, fds[0])
        sock.setblocking(False)
        return ((sock, number),)

    def _say_lost(self) -> None:
        now = self._clock.now()
        if now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            fix = "raise the open files limit (ulimit -n)"
            log.warning("connections from other workers are reset", extra={"why": "no descriptor is free", "fix": fix})

    def _keep_spare(self) -> bool:
        """Whether there is a descriptor for it."""
        try:
            self._spare = os.dup(self._inbox.fileno())
        except OSError:
            self._spare = -1
        return self._spare >= 0

    @staticmethod
    def _serve(sock: socket.socket, accepted: Accepted) -> None:
        try:
            accepted(sock)
        except Exception:  # a fault of ours with one connection must not take the mailbox of all
            log.exception("connection failed unexpectedly", extra={"listener": "mailbox"})
            sock.close()
