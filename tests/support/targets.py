"""Real servers for tests to carry connections to: each behaves in one clearly named way.

They run in threads of their own, listen on a free port, and are context managers: leaving one ends its
connections and threads. What a server saw of each connection is in its `seen` queue.
"""

import contextlib
import functools
import hashlib
import queue
import random
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from hbone.addr import SocketAddress

CHUNK_BYTES = 1 << 18
BLOCK_BYTES = 1 << 20
LIMIT_S = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

_BLOCK = random.Random(20).randbytes(BLOCK_BYTES)


def payload(count: int) -> Iterator[bytes]:
    """`count` bytes in blocks that all differ, so that a lost, doubled or swapped block changes the digest."""
    for number in range(0, count, BLOCK_BYTES):
        yield (number.to_bytes(8, "big") + _BLOCK[8:])[: min(BLOCK_BYTES, count - number)]


@functools.cache
def payload_digest(count: int) -> str:
    """SHA-256, in hex, of `payload(count)`."""
    digest = hashlib.sha256()
    for block in payload(count):
        digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One connection as a server saw it: who came, what was read, and whether it ended by a reset."""

    peer: SocketAddress
    received: int = 0
    digest: str = ""
    reset: bool = False


def read_all(conn: socket.socket, peer: SocketAddress) -> Seen:
    """Read to the end of the stream, or to the reset."""
    digest = hashlib.sha256()
    received = 0
    buffer = bytearray(CHUNK_BYTES)
    reset = False
    try:
        while count := conn.recv_into(buffer):
            digest.update(memoryview(buffer)[:count])
            received += count
    except ConnectionResetError:
        reset = True
    return Seen(peer=peer, received=received, digest=digest.hexdigest(), reset=reset)


def reset(conn: socket.socket) -> None:
    """Close so that the other side sees a reset, not an end."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    conn.close()


Behaviour = Callable[[socket.socket, SocketAddress], Seen]


class TcpServer:
    """Runs one behaviour for each connection, each in a thread."""

    def __init__(self, behaviour: Behaviour, ip: str = "127.0.0.1", port: int = 0) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server((ip, port), backlog=1024)
        self.address = SocketAddress.of(self._listener.getsockname())
        self.seen: queue.Queue[Seen] = queue.Queue()
        self.accepted = 0
        self._conns: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False

    def __enter__(self) -> Self:
        self._run(self._accept, "accept")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
            conns = list(self._conns)
        for sock in (self._listener, *conns):
            with contextlib.suppress(OSError):  # wakes the thread that waits on it; one that is not connected says so
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(LIMIT_S)

    def next_seen(self) -> Seen:
        """The next connection that ended."""
        return self.seen.get(timeout=LIMIT_S)

    def _run(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=f"target {self.address} {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                conn, peer = self._listener.accept()
            except OSError:  # closed by __exit__
                return
            with self._lock:
                if self._closing:
                    conn.close()
                    return
                self._conns.add(conn)
                self.accepted += 1
            self._run(partial(self._serve, conn, SocketAddress.of(peer)), str(self.accepted))

    def _serve(self, conn: socket.socket, peer: SocketAddress) -> None:
        try:
            self.seen.put(self._behaviour(conn, peer))
        except OSError:  # the peer went away while we wrote
            self.seen.put(Seen(peer=peer, reset=True))
        finally:
            with self._lock:
                self._conns.discard(conn)
            conn.close()


def echo(ip: str = "127.0.0.1") -> TcpServer:
    """Sends back what comes, ends when the peer has ended."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        received = 0
        try:
            while data := conn.recv(CHUNK_BYTES):
                received += len(data)
                conn.sendall(data)
        except ConnectionResetError:
            return Seen(peer=peer, received=received, reset=True)
        return Seen(peer=peer, received=received)

    return TcpServer(behave, ip)


def sink(ip: str = "127.0.0.1") -> TcpServer:
    """Reads to the end, then ends; says nothing."""
    return TcpServer(read_all, ip)


def source(count: int, ip: str = "127.0.0.1") -> TcpServer:
    """Sends `payload(count)` at once, ends its side, then reads to the peer's end."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        for block in payload(count):
            conn.sendall(block)
        conn.shutdown(socket.SHUT_WR)
        return read_all(conn, peer)

    return TcpServer(behave, ip)


def patient_source(count: int, ip: str = "127.0.0.1") -> TcpServer:
    """Sends `payload(count)` at once, and ends only when the peer has ended."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        for block in payload(count):
            conn.sendall(block)
        return read_all(conn, peer)

    return TcpServer(behave, ip)


def greeter(greeting: bytes, ip: str = "127.0.0.1") -> TcpServer:
    """Speaks first, as SMTP and MySQL do, then reads to the end."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        conn.sendall(greeting)
        return read_all(conn, peer)

    return TcpServer(behave, ip)


def digester(ip: str = "127.0.0.1") -> TcpServer:
    """Reads to the peer's end, and only then answers: the digest in hex. The client half-closes first."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        seen = read_all(conn, peer)
        conn.sendall(seen.digest.encode())
        return seen

    return TcpServer(behave, ip)


def resetter(after_bytes: int, ip: str = "127.0.0.1") -> TcpServer:
    """Resets the connection once `after_bytes` were received."""

    def behave(conn: socket.socket, peer: SocketAddress) -> Seen:
        received = 0
        while received < after_bytes and (data := conn.recv(after_bytes - received)):
            received += len(data)
        reset(conn)
        return Seen(peer=peer, received=received, reset=True)

    return TcpServer(behave, ip)


class _Pages(BaseHTTPRequestHandler):
    """`/` is a line of text, `/bytes/N` the payload of N bytes; POST answers with the body's digest."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        count = self.path.removeprefix("/bytes/")
        if not count.isdigit():
            self._answer(b"hello from the target\n")
            return
        self._head(int(count))
        for block in payload(int(count)):
            self.wfile.write(block)

    def do_POST(self) -> None:
        digest = hashlib.sha256(self.rfile.read(int(self.headers["content-length"])))
        self._answer(digest.hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self._head(len(body))
        self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Tests read what they need from the answers."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the tests."""


@contextlib.contextmanager
def http_server(ip: str = "127.0.0.1") -> Generator[SocketAddress]:
    """A keep-alive HTTP/1.1 server; see `_Pages` for what it serves."""
    server = _HttpServer((ip, 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield SocketAddress.of(server.socket.getsockname())
    finally:
        server.shutdown()
        server.server_close()
        thread.join(LIMIT_S)
