"""One HTTPS GET: of a document that is small, from an address that was configured and from no other.

Everything that a server can draw out has an end: one deadline for all of it, a limit for the header and for the body.
Redirects are not followed: they would lead to a place that nobody configured.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import h11
from cryptography import x509

from hbone.config.urls import HttpsUrl
from hbone.control.presented import presented_chain
from hbone.errors import HboneError
from hbone.values import dataclass

DEADLINE_S: Final = 10.0
MAX_BODY_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 16 * 1024
_CHUNK_BYTES: Final = 64 * 1024

CheckServer = Callable[[tuple[x509.Certificate, ...]], None]
"""Raises HboneError for a server that is not the wanted one, by the chain that it showed (leaf first)."""


class FetchFailed(HboneError):
    """There is no such document to be had now."""

    exit_code = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one GET may cost."""

    deadline_s: float = DEADLINE_S
    body_bytes: int = MAX_BODY_BYTES


async def https_get(
    url: HttpsUrl, context: ssl.SSLContext, *, check: CheckServer | None = None, limits: Limits | None = None
) -> bytes:
    """The body of a 200. `check`: asked before anything is sent, for a context that does not verify by itself.

    Raises FetchFailed, and what `check` raises.
    """
    limits = limits or Limits()
    try:
        async with asyncio.timeout(limits.deadline_s), _connected(url, context) as (reader, writer):
            if check is not None:
                check(presented_chain(writer.get_extra_info("ssl_object")))
            return await _exchange(url, reader, writer, limits.body_bytes)
    except TimeoutError as error:
        raise FetchFailed(f"{url} gave no whole answer within {limits.deadline_s:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchFailed(
            f"the certificate of {url.authority} is not trusted",
            why=error.verify_message or str(error),
            fix="check the address, and the roots that are to vouch for it",
        ) from error
    except ssl.SSLError as error:
        raise FetchFailed(f"no TLS with {url.authority}", why=error.reason or str(error)[:200]) from error
    except OSError as error:
        raise FetchFailed(f"{url.authority} cannot be reached", why=error.strerror or str(error)[:200]) from error
    except h11.ProtocolError as error:
        raise FetchFailed(f"{url} does not answer in HTTP/1.1", why=str(error)[:200]) from error


@asynccontextmanager
async def _connected(
    url: HttpsUrl, context: ssl.SSLContext
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context, server_hostname=url.host)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # nothing of it is wanted any more: no farewell that a peer could delay


async def _exchange(url: HttpsUrl, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> bytes:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)
    headers = [("host", url.authority), ("accept", "application/json"), ("connection", "close")]
    request = h11.Request(method="GET", target=url.target, headers=headers)
    writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    body = bytearray()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(_CHUNK_BYTES))
            case h11.Response(status_code=status, headers=fields):
                _check_status(url, status, dict(fields).get(b"location", b"").decode("latin-1"))
            case h11.Data(data=data):
                body += data
                if len(body) > max_bytes:
                    raise FetchFailed(f"{url} answers with more than {max_bytes} bytes", fix="check the address")
            case h11.EndOfMessage():
                return bytes(body)
            case h11.ConnectionClosed() | h11.PAUSED:
                raise FetchFailed(f"{url} ended the connection before its answer was whole")
            case _:  # 1xx: the answer comes later
                continue


def _check_status(url: HttpsUrl, status: int, location: str) -> None:
    if status == 200:
        return
    if 300 <= status < 400 and location:
        raise FetchFailed(
            f"{url} answers {status}, elsewhere: {location[:200]}",
            why="redirects are not followed",
            fix="configure the address that it leads to, if that is the right one",
        )
    raise FetchFailed(f"{url} answers {status}", fix="check the address")
