"""`hold HOST PORT`: an echo server that holds very many connections cheaply.

Runs until it is ended by a signal.
"""

import select
import socket
import sys

BACKLOG = 4096
CHUNK_BYTES = 65_536


def serve(host: str, port: int) -> None:
    """Accept and echo until the process ends; what the peer does not read in time is lost with its connection."""
    listener = socket.create_server((host, port), backlog=BACKLOG)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    held: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                _accept(listener, poll, held)
            elif not _echo(held[fd]):
                poll.unregister(fd)
                held.pop(fd).close()


def _accept(listener: socket.socket, poll: select.epoll, held: dict[int, socket.socket]) -> None:
    while True:
        try:
            conn, _ = listener.accept()
        except BlockingIOError:
            return
        conn.setblocking(False)
        held[conn.fileno()] = conn
        poll.register(conn, select.EPOLLIN)


def _echo(conn: socket.socket) -> bool:
    """Whether the connection goes on."""
    try:
        data = conn.recv(CHUNK_BYTES)
        return bool(data) and conn.send(data) == len(data)
    except OSError:
        return False


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
