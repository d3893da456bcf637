"""The demo's client: a program that knows SOCKS5 and nothing of hbone. Blocking; runs in threads."""

import hashlib
import http.client
import socket
import struct
import time

from hbone.addr import SocketAddress
from hbone.app.demo.wire import tcp
from hbone.app.demo.workloads import CHUNK
from hbone.values import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """Connects from `ip`, which is what tells the node who it is, by the node's SOCKS listener."""

    ip: str
    socks: SocketAddress

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a name of the mesh; raises ConnectionError with SOCKS's reason."""
        sock = tcp(self.socks, self.ip)
        sock.sendall(b"\x05\x01\x00")
        _exactly(sock, 2)
        name = host.encode()
        sock.sendall(b"\x05\x01\x00\x03" + bytes((len(name),)) + name + struct.pack("!H", port))
        answer = _exactly(sock, 10)
        if answer[1] != 0:
            sock.close()
            raise ConnectionRefusedError(f"SOCKS answered {answer[1]}")
        return sock

    def http(self, host: str, port: int) -> http.client.HTTPConnection:
        """An HTTP connection that goes through the mesh."""
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.sock = self.connect(host, port)
        return connection

    def get(self, host: str, port: int, path: str = "/") -> str:
        connection = self.http(host, port)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


def _exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            raise ConnectionResetError("the node closed the connection")
        data += more
    return data


def echo_round_trip(sock: socket.socket, payload: bytes) -> bytes:
    """Send all, end our side, read to the end of the other: half-close at work."""
    sock.sendall(payload)
    sock.shutdown(socket.SHUT_WR)
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@dataclass(frozen=True, slots=True)
class Bulk:
    """A download: bytes, seconds, and whether every byte was right."""

    size: int
    seconds: float
    intact: bool

    @property
    def gbit_per_s(self) -> float:
        return self.size * 8 / self.seconds / 1e9


def download(client: Client, host: str, port: int, mebibytes: int) -> Bulk:
    """Fetch a known body; the time of the transfer alone, the digest checked after it."""
    connection = client.http(host, port)
    connection.request("GET", f"/bulk/{mebibytes}")
    response = connection.getresponse()
    buffer = bytearray(mebibytes * len(CHUNK))
    view = memoryview(buffer)
    started = time.perf_counter()
    size = 0
    while size < len(buffer) and (n := response.readinto(view[size:])):
        size += n
    seconds = time.perf_counter() - started
    connection.close()
    expected = hashlib.sha256()
    for _ in range(mebibytes):
        expected.update(CHUNK)
    return Bulk(size, seconds, hashlib.sha256(buffer).digest() == expected.digest())
