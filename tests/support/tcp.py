"""Plain TCP programs for tests, exact about how a connection ends: bytes, end, reset."""

import asyncio
import errno
import hashlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Self

from hbone.addr import SocketAddress

LIMIT_S = 10.0
CHUNK = 1 << 18


class Tcp:
    """One connected socket. Reads raise ConnectionResetError for a reset and give b"" for an end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(
        cls, address: SocketAddress, *, source: str | None = None, receive_buffer: int | None = None
    ) -> "Tcp":
        sock = socket.socket(socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            sock.bind((source, 0))
        try:
            # on loopback the first attempt connects: asked again, so that a reset behind it is not the connect's
            where = (str(address.ip), address.port)
            if sock.connect_ex(where) != 0 and sock.connect_ex(where) not in {0, errno.EISCONN}:
                async with asyncio.timeout(LIMIT_S):
                    await asyncio.get_running_loop().sock_connect(sock, where)
            await asyncio.sleep(0)  # whoever accepts has its turn
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def send(self, data: bytes | memoryview) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self._loop.sock_sendall(self.sock, data)

    async def recv(self, n: int = CHUNK) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self._loop.sock_recv(self.sock, n)

    async def exactly(self, n: int) -> bytes:
        """`n` bytes, fewer only when the other end ended."""
        got = bytearray()
        while len(got) < n and (piece := await self.recv(n - len(got))):
            got += piece
        return bytes(got)

    async def to_end(self) -> bytes:
        got = bytearray()
        while piece := await self.recv():
            got += piece
        return bytes(got)

    async def digest_to_end(self, *, pause_s: float = 0.0, piece: int = CHUNK) -> tuple[int, str]:
        """How much came until the end, and its SHA-256; with pauses for a slow reader."""
        digest, count = hashlib.sha256(), 0
        while data := await self.recv(piece):
            digest.update(data)
            count += len(data)
            if pause_s:
                await asyncio.sleep(pause_s)
        return count, digest.hexdigest()

    async def ending(self) -> str:
        """How the connection ends, whatever comes before: "end" or "reset"."""
        try:
            await self.to_end()
        except ConnectionResetError:
            return "reset"
        return "end"

    def end(self) -> None:
        """No more bytes from here."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


Handler = Callable[[Tcp], Awaitable[None]]


async def echo(tcp: Tcp) -> None:
    while data := await tcp.recv():
        await tcp.send(data)


class App:
    """A TCP server at `ip`: each connection is handled, or waits for `accept()` when there is no handler."""

    def __init__(self, handler: Handler | None = None, ip: str = "127.0.1.1", port: int = 0) -> None:
        self._handler = handler
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._sock = socket.create_server((ip, port), family=family, backlog=2048)
        self._sock.setblocking(False)
        self._waiting: asyncio.Queue[Tcp] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.open: set[Tcp] = set()
        self.accepted = 0
        self.address = SocketAddress.of(self._sock.getsockname())

    @property
    def port(self) -> int:
        return self.address.port

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._on_readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_listening()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for tcp in self.open:
            tcp.close()

    def stop_listening(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    async def stop_answering(self) -> list[Tcp]:
        """Fill the backlog, so that the kernel answers no SYN any more; close what is returned at the end."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.listen(0)
        full: list[Tcp] = []
        while True:
            try:
                async with asyncio.timeout(0.1):
                    full.append(await Tcp.connect(self.address))
            except TimeoutError:
                return full

    def answer_again(self) -> None:
        """End of `stop_answering`."""
        self._sock.listen(2048)
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    async def accept(self) -> Tcp:
        async with asyncio.timeout(LIMIT_S):
            return await self._waiting.get()

    def _on_readable(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self.accepted += 1
            tcp = Tcp(sock)
            self.open.add(tcp)
            if self._handler is None:
                self._waiting.put_nowait(tcp)
            else:
                task = self._loop.create_task(self._handle(tcp, self._handler))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _handle(self, tcp: Tcp, handler: Handler) -> None:
        try:
            await handler(tcp)
        except OSError:
            pass  # the other end broke off; tests look at that from its side
        finally:
            tcp.close()
            self.open.discard(tcp)


def pattern(n: int, seed: int = 0) -> bytes:
    """`n` bytes that show any loss, doubling or reordering; different for each seed."""
    block = b"".join(hashlib.sha256(struct.pack(">II", seed, i)).digest() for i in range(512))
    return b"".join(block[i % 256 :] + block[: i % 256] for i in range(n // len(block) + 1))[:n]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def eventually(fact: Callable[[], object], *, limit_s: float = 5.0) -> None:
    """Until `fact` holds; fails when it does not within the limit."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while not fact():
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {fact}"
        await asyncio.sleep(0.002)
