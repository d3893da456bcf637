"""Connections that end in every way, by the hundred thousand: nodes are as they were before (users' scenario W12)."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import pytest

from hbone.addr import SocketAddress
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from tests.support.cafiles import whole_ca
from tests.support.node import Node, dedicated, forward, mesh_file

ROUNDS, CONNECTIONS, AT_ONCE = 3, 100_000, 60
LIMIT_S = 10.0
FDS_MORE, RSS_MORE = 5, 1.05
DATA = os.urandom(700)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def cut(writer: asyncio.StreamWriter) -> None:
    """Close by a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes and ends when the peer has ended, or goes when it was reset."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


async def cutting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Resets what has sent all of DATA; with it may have come the peer's end."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(len(DATA))
        cut(writer)


@asynccontextmanager
async def opened(address: SocketAddress) -> AsyncGenerator[Streams]:
    reader, writer = await asyncio.open_connection(str(address.ip), address.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ends_well(address: SocketAddress) -> None:
    async with opened(address) as (reader, writer):
        writer.write(DATA)
        writer.write_eof()
        assert await reader.read(-1) == DATA


async def is_reset_by_its_program(address: SocketAddress) -> None:
    async with opened(address) as (reader, writer):
        writer.write(DATA)
        assert await reader.readexactly(len(DATA)) == DATA
        cut(writer)


async def is_reset_by_its_server(address: SocketAddress) -> None:
    async with opened(address) as (reader, writer):
        writer.write(DATA)
        with pytest.raises(ConnectionResetError):
            assert await reader.read(-1) == b"nothing"


async def is_reset_by_its_server_when_half_closed(address: SocketAddress) -> None:
    async with opened(address) as (reader, writer):
        writer.write(DATA)
        writer.write_eof()
        with pytest.raises(ConnectionResetError):
            assert await reader.read(-1) == b"nothing"


async def by_the_hundred_thousand(endings: list[Callable[[], Awaitable[None]]]) -> None:
    """CONNECTIONS of them in turn, AT_ONCE at a time; fails with the first that does not end as it should."""
    left = iter(range(CONNECTIONS))

    async def one_after_the_other() -> None:
        for number in left:
            async with asyncio.timeout(LIMIT_S):
                await endings[number % len(endings)]()

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(one_after_the_other(), name=f"program {number}")


def descriptors(node: Node) -> int:
    return len(list(Path(f"/proc/{node.pid}/fd").iterdir()))


async def wait_descriptors(node: Node, most: int) -> int:
    """How many it holds, once they are at most so many; or what they are after a while. One is let go of when its last
    bytes were heard."""
    deadline = time.monotonic() + LIMIT_S
    while descriptors(node) > most and time.monotonic() < deadline:  # noqa: ASYNC110 - of another's making
        await asyncio.sleep(0.05)
    return descriptors(node)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_w12_connections_that_end_in_four_ways_leave_no_descriptor_and_no_memory_behind(
    tmp_path: Path, processes: Processes
) -> None:
    ports = Ports(Random())
    host = ports.free_host()
    assert isinstance(host, IPv4Address)
    tunnel, echo_entry, cut_entry = ports.free(host), ports.free(), ports.free()
    whole_ca(tmp_path / "ca")
    workloads = {"shop/server/server": host, "shop/client/client": host - 1}
    mesh = mesh_file(tmp_path, workloads, hbone_port=tunnel.port)
    echoes = await asyncio.start_server(echoing, str(host), 0)
    cuts = await asyncio.start_server(cutting, str(host), 0)
    targets = [SocketAddress.of(one.sockets[0].getsockname()) for one in (echoes, cuts)]
    server = dedicated("shop/server/server", ca=tmp_path / "ca", mesh=mesh, inbound=str(tunnel))
    client = dedicated("shop/client/client", ca=tmp_path / "ca", mesh=mesh)
    client["forwards"] = [forward(echo_entry, targets[0]), forward(cut_entry, targets[1])]
    with Node(server, processes) as far, Node(client, processes) as near:
        endings: list[Callable[[], Awaitable[None]]] = [
            lambda: ends_well(echo_entry),
            lambda: is_reset_by_its_program(echo_entry),
            lambda: is_reset_by_its_server(cut_entry),
            lambda: is_reset_by_its_server_when_half_closed(cut_entry),
        ]
        for ending in endings:  # the tunnel is open, and everything loaded
            await ending()
        before = {node: descriptors(node) for node in (near, far)}
        resident: dict[Node, list[int]] = {near: [], far: []}
        for number in range(ROUNDS):
            await by_the_hundred_thousand(endings)
            for node in (near, far):
                most = before[node] + FDS_MORE
                assert await wait_descriptors(node, most) <= most, f"round {number + 1}"
                resident[node].append(node.resident_bytes())
        for node, seen in resident.items():
            assert seen[-1] <= seen[0] * RSS_MORE, f"{node.config['workload']}: {seen}"
    echoes.close()
    cuts.close()
