"""Local programs as tests play them: they connect to an entry, send, read, and see how it ends."""

import asyncio
import hashlib
import os
import random
import socket

from hbone.addr import SocketAddress
from tests.support.targets import Seen, payload, read_all

LIMIT_S = 30.0


def connect(entry: SocketAddress) -> socket.socket:
    return socket.create_connection((str(entry.ip), entry.port), LIMIT_S)


def read_to_end(conn: socket.socket) -> Seen:
    """What comes until the end of the stream, or the reset."""
    return read_all(conn, SocketAddress.of(conn.getsockname()))


def fetch(entry: SocketAddress) -> Seen:
    """Connect and read to the end, saying nothing."""
    try:
        conn = connect(entry)
    except ConnectionResetError:  # so soon that the connect itself tells
        return Seen(peer=entry, reset=True)
    with conn:
        return read_to_end(conn)


def is_refused(entry: SocketAddress) -> bool:
    """Whether a connection is reset, without a byte."""
    seen = fetch(entry)
    return seen.reset and seen.received == 0


def send_payload(conn: socket.socket, count: int) -> None:
    for block in payload(count):
        conn.sendall(block)


def receive(conn: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; fewer when the stream ended before."""
    data = bytearray()
    while len(data) < count and (piece := conn.recv(min(count - len(data), 1 << 18))):
        data += piece
    return bytes(data)


def digest_of(conn: socket.socket, count: int) -> str:
    """SHA-256, in hex, of the next `count` bytes, or of fewer when the stream ended before."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 18))
    while count > 0 and (size := conn.recv_into(buffer[: min(count, len(buffer))])):
        digest.update(buffer[:size])
        count -= size
    return digest.hexdigest()


def echoes(conn: socket.socket) -> bool:
    """Whether fresh bytes come back from an echo."""
    sent = os.urandom(1000)
    conn.sendall(sent)
    return receive(conn, len(sent)) == sent


async def echo_in_parallel(entry: SocketAddress, streams: int, count: int) -> set[int]:
    """That many connections at once, each with `count` bytes of its own through an echo; those with a wrong answer.

    None sends its second half before all have their first half back: they are all open at the same time.
    """
    together = asyncio.Barrier(streams)

    async def one(number: int) -> int | None:
        sent = random.Random(number).randbytes(count)
        reader, writer = await asyncio.open_connection(str(entry.ip), entry.port)
        digest = hashlib.sha256()
        for half in (sent[: count // 2], sent[count // 2 :]):
            writer.write(half)
            digest.update(await reader.readexactly(len(half)))
            await together.wait()
        writer.write_eof()
        digest.update(await reader.read())
        writer.close()
        return None if digest.digest() == hashlib.sha256(sent).digest() else number

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number), name=f"stream {number}") for number in range(streams)]
    return {number for task in tasks if (number := task.result()) is not None}
