"""`burst HOST PORT COUNT`: open COUNT connections at once, send an HTTP request on each, read each answer to its end.

Prints {"seconds", "p50_s", "failed"}: from the first connect to the end of the last answer, the median connection's
time, and how many got no whole 200.
"""

import json
import select
import socket
import statistics
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: burst\r\nConnection: close\r\n\r\n"
GOOD = b"HTTP/1.1 200 "
LIMIT_S = 20.0
CHUNK_BYTES = 65_536


def burst(host: str, port: int, count: int) -> dict[str, float]:
    """All at once; see the module."""
    poll = select.epoll()
    open_: dict[int, tuple[socket.socket, bytearray]] = {}
    times_s: list[float] = []
    began = time.perf_counter()
    for _ in range(count):
        conn = socket.socket()
        conn.setblocking(False)
        conn.connect_ex((host, port))
        open_[conn.fileno()] = (conn, bytearray())
        poll.register(conn, select.EPOLLOUT)
    while open_ and time.perf_counter() < began + LIMIT_S:
        for fd, event in poll.poll(1.0):
            conn, answer = open_[fd]
            if event == select.EPOLLOUT:
                conn.send(REQUEST)
                poll.modify(fd, select.EPOLLIN)
            elif _ended(conn, answer):
                del open_[fd]
                poll.unregister(fd)
                conn.close()
                if answer.startswith(GOOD):
                    times_s.append(time.perf_counter() - began)
    total_s = time.perf_counter() - began
    return {
        "seconds": total_s,
        "p50_s": statistics.median(times_s) if times_s else total_s,
        "failed": count - len(times_s),
    }


def _ended(conn: socket.socket, answer: bytearray) -> bool:
    """Read what is there; a reset makes the answer worthless."""
    try:
        data = conn.recv(CHUNK_BYTES)
    except OSError:
        answer.clear()
        return True
    answer += data
    return not data


if __name__ == "__main__":
    sys.stdout.write(json.dumps(burst(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
