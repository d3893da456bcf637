"""The wire between two nodes, made visible: passes every byte on, and looks at all of them.

It stands where an eavesdropper would: the mesh's address of a workload leads here, and from here to its node. It holds
no key; what it can tell is what anybody on the path could.
"""

import asyncio
import socket
from dataclasses import field
from typing import Final

from hbone.addr import SocketAddress
from hbone.values import dataclass

CHUNK_BYTES: Final = 262_144
RECORD_TYPES: Final = {20: "change cipher", 21: "alert", 22: "handshake", 23: "application data"}  # RFC 8446 §5.1


@dataclass(slots=True)
class Watched:
    """What was seen of one direction of one connection."""

    records: dict[int, int] = field(default_factory=dict[int, int])
    bytes_seen: int = 0
    strange: bytes = b""  # where a TLS record should have begun and none did
    _skip: int = 0
    _head: bytes = b""

    def look(self, data: bytes) -> None:
        """Follow the TLS records through `data`."""
        self.bytes_seen += len(data)
        at = 0
        while at < len(data) and not self.strange:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            missing = 5 - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) < 5:
                return
            kind, length = self._head[0], int.from_bytes(self._head[3:5], "big")
            if kind not in RECORD_TYPES or self._head[1] != 3 or length > 16_640:
                self.strange = self._head
                return
            self.records[kind] = self.records.get(kind, 0) + 1
            self._skip, self._head = length, b""


class Wire:
    """Listens at an address of its own and passes everything to `target`. `canary` must never be seen."""

    def __init__(self, ip: str, canary: bytes) -> None:
        self._ip = ip
        self._canary = canary
        self._server: asyncio.Server | None = None
        self._target: SocketAddress | None = None
        self.watched: list[Watched] = []
        self.connections = 0
        self.canary_seen = False
        self.sample = b""

    async def open(self) -> int:
        """Begin to listen; the port."""
        self._server = await asyncio.start_server(self._serve, self._ip, 0)
        name: tuple[str, int] = self._server.sockets[0].getsockname()
        return name[1]

    def lead_to(self, target: SocketAddress) -> None:
        self._target = target

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def records(self) -> dict[str, int]:
        """TLS records seen, by kind."""
        total: dict[str, int] = {}
        for one in self.watched:
            for kind, count in one.records.items():
                total[RECORD_TYPES[kind]] = total.get(RECORD_TYPES[kind], 0) + count
        return total

    @property
    def bytes_seen(self) -> int:
        return sum(one.bytes_seen for one in self.watched)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target
        if target is None:
            writer.close()
            return
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(str(target.ip), target.port)
        except OSError:
            writer.close()  # the node is gone; what that means is for the claims to find out
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, far_writer), name="wire out")
                group.create_task(self._pass_on(far_reader, writer), name="wire back")
        except* OSError:
            pass  # one end is gone: so is this connection
        finally:
            for one in (writer, far_writer):
                one.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watched = Watched()
        self.watched.append(watched)
        tail = b""
        while data := await reader.read(CHUNK_BYTES):
            watched.look(data)
            if self._canary in tail + data:
                self.canary_seen = True
            tail = data[-len(self._canary) :]
            if data[0] == 23 and not self.sample:
                self.sample = data[:24]
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def tcp(address: SocketAddress, source: str | None = None, timeout_s: float = 5.0) -> socket.socket:
    """A blocking connection from `source`, for the demo's client threads."""
    return socket.create_connection(
        (str(address.ip), address.port), timeout=timeout_s, source_address=(source, 0) if source else None
    )
