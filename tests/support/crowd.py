"""Very many connections to one node, in a process of their own: the application behind it, and tunnels to it.

`crowd IP`: the application, an echo, listens there; its port is the first line of output. Then each line of input is
a command, and has one line of JSON for an answer:

    open HOST:PORT CHAIN KEY TUNNELS STREAMS   tunnels of one identity, each with so many streams to the application,
                                               proven by one byte that came back: {"open": n}
    echo                                       one more byte on every stream that was not cut: {"echoed": n}
    count                                      {"cut": streams that were reset, "reset": connections of the
                                               application that ended by a reset, "ended": by an end, "held": n}
"""

import asyncio
import json
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping

from hbone.addr import SocketAddress
from tests.support import h2frames
from tests.support.framepeer import connect_to
from tests.support.tcp import eventually

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
LIMIT_S = 60.0
AT_ONCE = 20  # streams opened between two looks at the answers


class Echo(asyncio.Protocol):
    """One connection of the application."""

    def __init__(self, seen: dict[str, int]) -> None:
        self._seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._seen["held"] += 1

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def eof_received(self) -> None:
        self._seen["ended"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen["held"] -= 1
        if isinstance(exc, ConnectionResetError):
            self._seen["reset"] += 1


class CrowdTunnel(asyncio.Protocol):
    """One HTTP/2 client connection: bytes that came back and resets are counted, nothing else is looked at."""

    def __init__(self, streams: int, authority: str) -> None:
        self.ids = [2 * number + 1 for number in range(streams)]
        self._authority = authority
        self._rest = b""
        self.echoed = 0
        self.cut: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        transport.write(h2frames.PREFACE + h2frames.settings())

    async def open_all(self) -> None:
        fields = connect_to(self._authority)
        for first in range(0, len(self.ids), AT_ONCE):
            part = self.ids[first : first + AT_ONCE]
            self.transport.write(b"".join(h2frames.headers(one, fields) + h2frames.data(one, b"?") for one in part))
            await self.wait_echoed(first + len(part))

    async def wait_echoed(self, count: int) -> None:
        await eventually(lambda: self.echoed >= count, limit_s=LIMIT_S)

    def ask(self) -> int:
        """Send a byte on each stream that is open; how many those are."""
        live = [one for one in self.ids if one not in self.cut]
        self.transport.write(b"".join(h2frames.data(one, b"!") for one in live))
        return len(live)

    def data_received(self, data: bytes) -> None:
        data, at = self._rest + data, 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + size:
                break
            kind, flags, stream_id = struct.unpack_from(">BBL", data, at + 3)
            self._frame(kind, flags, stream_id, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._rest = data[at:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == DATA:
            self.echoed += len(payload)
        elif kind == RST_STREAM:
            self.cut.add(stream_id)
        elif kind == SETTINGS and not flags & 1:
            self.transport.write(h2frames.settings_ack())
        elif kind == PING and not flags & 1:
            self.transport.write(h2frames.raw(PING, 1, 0, payload))


class Crowd:
    """All of it."""

    def __init__(self, ip: str) -> None:
        self._ip = ip
        self._seen = {"held": 0, "reset": 0, "ended": 0}
        self._tunnels: list[CrowdTunnel] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Echo(self._seen), self._ip, 0, backlog=2048)
        self._port: int = server.sockets[0].getsockname()[1]
        say(self._port)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        commands: Mapping[str, Callable[..., Awaitable[dict[str, int]]]] = {
            "open": self.open,
            "echo": self.echo,
            "count": self.count,
        }
        while line := (await reader.readline()).decode().split():
            say(await commands[line[0]](*line[1:]))

    async def open(self, address: str, chain: str, key: str, tunnels: str, streams: str) -> dict[str, int]:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(chain, key)
        to = SocketAddress.parse(address)
        before = sum(len(one.ids) for one in self._tunnels)
        for _ in range(int(tunnels)):
            _, tunnel = await asyncio.get_running_loop().create_connection(
                lambda: CrowdTunnel(int(streams), f"{self._ip}:{self._port}"),
                str(to.ip),
                to.port,
                ssl=context,
                server_hostname="",
            )
            self._tunnels.append(tunnel)
            await tunnel.open_all()
        return {"open": sum(len(one.ids) for one in self._tunnels) - before}

    async def echo(self) -> dict[str, int]:
        before = sum(one.echoed for one in self._tunnels)
        asked = sum(one.ask() for one in self._tunnels)
        await eventually(lambda: sum(one.echoed for one in self._tunnels) >= before + asked, limit_s=LIMIT_S)
        return {"echoed": asked}

    async def count(self) -> dict[str, int]:
        return {"cut": sum(len(one.cut) for one in self._tunnels), **self._seen}


def say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Crowd(sys.argv[1]).run())
