"""The agent's part in spreading connections over workers (`hbone.net.balance`): the memory that they share, and their
mailboxes. Both outlive a worker: its successor finds the connections that lay in its mailbox.
"""

import array
import mmap
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, Final

from hbone.net.sockets import close_with_reset
from hbone.net.tally import Tally, tally_bytes

BALANCES: Final = sys.platform == "linux"  # elsewhere all workers accept from one socket, and there is no memfd


class Balancing:
    """For `workers` of them. `close` it in the end."""

    def __init__(self, workers: int) -> None:
        """Raises OSError without descriptors or memory."""
        self._workers = workers
        self._memory = os.memfd_create("hbone-tally")
        os.ftruncate(self._memory, tally_bytes(workers))
        self._map = mmap.mmap(self._memory, tally_bytes(workers))
        self._tally = Tally(memoryview(self._map), workers)
        self._boxes = {number: _mailbox() for number in range(1, workers + 1)}
        for number in self._boxes:
            self._tally.leave(number)

    def handed(self, number: int) -> Mapping[str, Any]:
        """The descriptors for a worker, as its `Balance` takes them."""
        outboxes = [(other, write.fileno()) for other, (_, write) in self._boxes.items() if other != number]
        return {"tally": self._memory, "inbox": self._boxes[number][0].fileno(), "outboxes": outboxes}

    def descriptors(self, number: int) -> tuple[int, ...]:
        """The same, to be inherited."""
        writes = (write.fileno() for other, (_, write) in self._boxes.items() if other != number)
        return (self._memory, self._boxes[number][0].fileno(), *writes)

    def leave(self, number: int) -> None:
        """Its process has ended: nobody gives to it for now."""
        self._tally.leave(number)

    def give_up(self, number: int) -> None:
        """It will not come back soon: what waits for it is reset."""
        inbox = self._boxes[number][0]
        while _lose_one(inbox):
            pass

    def close(self) -> None:
        """Harmless when repeated."""
        if not self._boxes:
            return
        for ends in self._boxes.values():
            for sock in ends:
                sock.close()
        self._boxes.clear()
        self._tally.release()
        self._map.close()
        os.close(self._memory)


def _mailbox() -> tuple[socket.socket, socket.socket]:
    """The end to read, and that to write; whole messages, so that many may write."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in ends:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as small as it gets: some six messages
    return ends


def _lose_one(inbox: socket.socket) -> bool:
    """Whether there was one. It is reset: a caller who waits for the first word must not take this for an end."""
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    try:
        said, ancillary, _, _ = inbox.recvmsg(2, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return False
    for _, _, data in ancillary:
        fds = array.array("i")
        fds.frombytes(data)
        for fd in fds:
            close_with_reset(socket.socket(fileno=fd))
    return bool(said)
