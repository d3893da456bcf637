"""HTTP/1.1 on one socket by uvicorn, inside the loop that runs already.

uvicorn's `Server.serve` is not used: it would take the signals and wake up ten times a second. Its `startup` and
`shutdown` need neither, nor a task. What is added are deadlines: uvicorn waits as long as a client likes for a
request, and for an answer to be taken.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import h11
import uvicorn
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from hbone.addr import SocketAddress
from hbone.admin.messages import Answer, Request, Transport, text_answer
from hbone.admin.routes import Before, Routes
from hbone.admin.server import HttpLimits

log = logging.getLogger("hbone.admin")

CLOSING_TURNS: Final = 100  # of the loop, for aborted connections to be gone; one or two do

# Answers are nobody's but this site's, are what they say they are, and are not kept (Fetch §3.7, HTML §2.5.2).
_HEADERS: Final = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class HttpServer:
    """A listening socket and the connections it accepted; or, without a socket, connections that somebody else accepts
    and has served by `connection()`. `close` ends them all."""

    def __init__(
        self, sock: socket.socket | None, routes: Routes, limits: HttpLimits, before: Before | None = None
    ) -> None:
        self._sockets = [] if sock is None else [sock]
        unix = sock is not None and sock.family == socket.AF_UNIX
        self._server = uvicorn.Server(_Config(_App(routes, Transport.UNIX if unix else Transport.TCP, before), limits))
        name: tuple[object, ...] | str = "" if sock is None else sock.getsockname()
        self._name = name

    @property
    def address(self) -> SocketAddress | str:
        """Where it listens: an address, or a Unix socket's path; empty if somebody else accepts."""
        return SocketAddress.of(self._name) if isinstance(self._name, tuple) else self._name

    def connection(self) -> asyncio.Protocol:
        """What serves one connection, as uvicorn makes it for its own."""
        server = self._server
        return _Connection(config=server.config, server_state=server.server_state, app_state=server.lifespan.state)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Serve from now on."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=self._sockets)

    async def close(self) -> None:
        """Stop accepting, let answers under way finish for a second, cut the rest."""
        await self._server.shutdown(sockets=self._sockets)
        connections = self._server.server_state.connections
        for connection in tuple(connections):
            connection.transport.abort()
        for _ in range(CLOSING_TURNS):
            if not connections:
                break
            await asyncio.sleep(0)


class _Config(uvicorn.Config):
    def __init__(self, app: "_App", limits: HttpLimits) -> None:
        super().__init__(
            app,
            http=_Connection,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # what a peer sends wrong is not for our log; our own failures `_App` logs
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # it would need a tick each second
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=limits.max_request_bytes,
        )
        self.limits = limits


class _Connection(H11Protocol):
    """One accepted connection, with a deadline for whatever its client owes: a request, or taking an answer."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        assert isinstance(self.config, _Config)  # noqa: S101  # nothing else makes one
        self._limits = self.config.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._owes = _NOTHING

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
            return
        self._expect(_REQUEST)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.transport.is_closing():
            self._expect(_REQUEST if self._idle else _TAKING)

    def on_response_complete(self) -> None:
        self._expect(_NOTHING)  # keep-alive is uvicorn's; a pipelined request sets its own deadline just below
        super().on_response_complete()
        if not self._idle and not self.transport.is_closing():
            self._expect(_TAKING)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(_NOTHING)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # it is in the middle of an error
            self.transport.abort()

    @property
    def _idle(self) -> bool:
        """No answer is under way."""
        cycle: RequestResponseCycle | None = self.cycle
        # None before the first request, which uvicorn hides from type checkers
        return cycle is None or cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _expect(self, owed: str) -> None:
        """A deadline runs from when the client began to owe something; further bytes do not move it."""
        if owed == self._owes:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._owes = owed
        if owed != _NOTHING:
            limits = self._limits
            wait_s = limits.request_timeout_s if owed == _REQUEST else limits.answer_timeout_s
            # Not `close`: that would wait for the client to take what is written.
            self._deadline = self.loop.call_later(wait_s, self.transport.abort)


_NOTHING, _REQUEST, _TAKING = "nothing", "a request", "taking the answer"


class _App:
    """The ASGI side of Routes."""

    def __init__(self, routes: Routes, transport: Transport, before: Before | None) -> None:
        self._routes = routes
        self._transport = transport
        self._before = before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        try:
            if self._before is not None:
                await self._before(path)
            answer = self._routes.answer(_request(HttpRequest(scope), self._transport))
        except Exception:
            log.exception("admin request failed unexpectedly", extra={"path": path})
            answer = text_answer("internal error; the log of this process says more", 500)
        try:
            await _response(answer)(scope, receive, send)
        except Exception:  # the connection is then cut short, so that nobody takes half of it for the whole
            log.exception("admin answer failed unexpectedly", extra={"path": path})
        if answer.after is not None:
            answer.after()


def _request(asked: HttpRequest, transport: Transport) -> Request:
    headers: dict[str, str] = {}
    for name, value in asked.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(
        method=asked.method,
        path=asked.url.path,
        query=dict(asked.query_params),
        headers=headers,
        transport=transport,
    )


def _response(answer: Answer) -> Response:
    headers = {**_HEADERS, **answer.headers, "content-type": answer.content_type}
    if isinstance(answer.body, bytes):
        return Response(answer.body, answer.status, headers)
    return StreamingResponse(_slowly(answer.body), answer.status, headers)


async def _slowly(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)  # the connections of the data path first
