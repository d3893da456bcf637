"""`idle HOST PORT COUNT`: open COUNT connections, prove each by one echoed byte, hold them.

Prints {"held": n} as soon as all that can be opened are; n is smaller than COUNT when descriptors ran out or
connections failed. Holds them until its standard input ends.
"""

import errno
import json
import select
import socket
import sys
import time

AT_ONCE = 64  # connections under way: enough to keep both ends busy, too few to overflow a backlog of 128
LIMIT_S = 120.0
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def hold(host: str, port: int, count: int) -> list[socket.socket]:
    """Open up to `count` connections; those that are proven are returned."""
    poll = select.epoll()
    waiting: dict[int, socket.socket] = {}
    proven: list[socket.socket] = []
    left = count
    deadline = time.monotonic() + LIMIT_S
    while (left or waiting) and time.monotonic() < deadline:
        while left and len(waiting) < AT_ONCE:
            conn = _connect(host, port)
            left = left - 1 if conn else 0
            if conn:
                waiting[conn.fileno()] = conn
                poll.register(conn, select.EPOLLOUT)
        for fd, event in poll.poll(1.0):
            conn = waiting[fd]
            if event == select.EPOLLOUT:
                conn.send(b"?")
                poll.modify(fd, select.EPOLLIN)
                continue
            poll.unregister(fd)
            del waiting[fd]
            if _echoed(conn):
                proven.append(conn)
    return proven


def _connect(host: str, port: int) -> socket.socket | None:
    """A connection under way; None when no more can be made."""
    try:
        conn = socket.socket()
    except OSError as error:
        if error.errno in OUT_OF_DESCRIPTORS:
            return None
        raise
    conn.setblocking(False)
    conn.connect_ex((host, port))
    return conn


def _echoed(conn: socket.socket) -> bool:
    try:
        if conn.recv(1) == b"?":
            return True
    except OSError:
        pass
    conn.close()
    return False


if __name__ == "__main__":
    held = hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps({"held": len(held)}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
