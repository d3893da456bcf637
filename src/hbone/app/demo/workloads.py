"""The demo's applications: a real HTTP server and a real TCP echo, which know nothing of hbone.

Each runs as a process of its own: `python -m hbone.app.demo.workloads http|echo ADDRESS PORT`.
"""

import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

CHUNK: Final = bytes(range(256)) * 4096  # 1 MiB
READY: Final = "listening"


class Shop(BaseHTTPRequestHandler):
    """`GET /` says hello; `GET /bulk/N` sends N MiB."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bulk/"):
            count = int(self.path.rpartition("/")[2])
            self._head(count * len(CHUNK))
            for _ in range(count):
                self.wfile.write(CHUNK)
            return
        body = b"hello from the shop\n"
        self._head(len(body))
        self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Quiet: the access log of the nodes is what the demo shows."""


class Echo(socketserver.StreamRequestHandler):
    """Sends back what it gets; when the client has ended its side, it ends too."""

    def handle(self) -> None:
        while data := self.connection.recv(65536):
            self.connection.sendall(data)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512


def main() -> None:
    kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    place = (address, port)
    server = _HttpServer(place, Shop) if kind == "http" else _EchoServer(place, Echo)
    sys.stdout.write(f"{READY} {server.server_address[1]}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
