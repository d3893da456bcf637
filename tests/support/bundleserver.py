"""A bundle endpoint of the test's own making: any certificate, any answer, right or wrong."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hbone.control.serving import load_chain
from hbone.identity.bundle import BundleDocument
from hbone.identity.svid import X509Svid

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class BundleServer:
    """`say` writes the answer to each request. `requests`: what was asked for."""

    say: Say
    port: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])
    clients: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    def serves(self, document: BundleDocument | str | bytes) -> None:
        """From now on."""
        self.say = saying(document)


def saying(document: BundleDocument | str | bytes, status: str = "200 OK", header: str = "") -> Say:
    text = document.to_json() if isinstance(document, BundleDocument) else document
    body = text.encode() if isinstance(text, str) else text

    async def say(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{header}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return say


def raw(*pieces: bytes, pause_s: float = 0.0) -> Say:
    """Just these bytes, with pauses between."""

    async def say(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return say


def context_of(svid: X509Svid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, svid.chain_pem(), svid.key)
    return context


@asynccontextmanager
async def bundle_server(context: ssl.SSLContext, say: Say) -> AsyncGenerator[BundleServer]:
    server = BundleServer(say)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.clients += 1
        try:
            server.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await server.say(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
