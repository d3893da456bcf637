"""One end of the socket pair between agent and worker."""

import asyncio
import socket
from typing import Self

from hbone.app.workers.messages import PREFIX, InvalidMessage, Message, decode, encode, length_of

SOON_S = 5.0


class Channel:
    """Messages both ways. The other end's death is the end of `receive`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Takes the socket over."""
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer)

    def send(self, message: Message) -> None:
        """Never waits, and does nothing when the other end is gone: `receive` tells that."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self) -> Message | None:
        """The next message, None when there will be none. Raises InvalidMessage."""
        try:
            length = length_of(await self._reader.readexactly(PREFIX.size))
            return decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """What was sent still goes out."""
        self._writer.close()


def read_first(sock: socket.socket) -> Message:
    """The first message on a blocking socket, before there is a loop. Raises InvalidMessage when none comes."""
    sock.settimeout(SOON_S)
    try:
        return decode(_exactly(sock, length_of(_exactly(sock, PREFIX.size))))
    except OSError as error:
        raise InvalidMessage("no message came", why=error.strerror or str(error)) from error


def _exactly(sock: socket.socket, count: int) -> bytes:
    taken = bytearray()
    while len(taken) < count:
        part = sock.recv(count - len(taken))
        if not part:
            raise InvalidMessage("the message ends early")
        taken += part
    return bytes(taken)
