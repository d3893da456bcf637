"""HTTP/1.1 on one socket, inside the loop that runs already: h11 for the protocol, the loop's transport for the bytes.

A web framework and its server would do the same for a tenth of a node's start and memory. Nobody here uploads anything:
a request is answered when its headers are there, and its body, if it has one, is read and dropped. What a client can
hold is bounded: connections, the size of a request, and the time for whatever it owes.
"""

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import h11

from hbone.addr import SocketAddress
from hbone.admin.messages import Answer, Request, Transport, text_answer
from hbone.admin.routes import Before, Routes
from hbone.admin.server import HttpLimits
from hbone.net.tasks import Tasks
from hbone.values import dataclass

log = logging.getLogger("hbone.admin")

CLOSING_S: Final = 1.0  # for answers under way to finish, and again for aborted connections to be gone

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
        self._sock = sock
        self._server: asyncio.Server | None = None
        unix = sock is not None and sock.family == socket.AF_UNIX
        self._tasks = Tasks("http")
        self._site = _Site(
            routes=routes,
            limits=limits,
            transport=Transport.UNIX if unix else Transport.TCP,
            before=before,
            tasks=self._tasks,
            open=set(),
        )
        name: tuple[object, ...] | str = "" if sock is None else sock.getsockname()
        self._name = name

    @property
    def address(self) -> SocketAddress | str:
        """Where it listens: an address, or a Unix socket's path; empty if somebody else accepts."""
        return SocketAddress.of(self._name) if isinstance(self._name, tuple) else self._name

    def connection(self) -> asyncio.Protocol:
        """What serves one connection."""
        return _Connection(self._site)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._site.open)

    async def start(self) -> None:
        """Serve from now on."""
        if self._sock is not None:
            self._server = await asyncio.get_running_loop().create_server(self.connection, sock=self._sock)

    async def close(self) -> None:
        """Stop accepting, let answers under way finish for a second, cut the rest."""
        if self._server is not None:
            self._server.close()
        if self._sock is not None:
            self._sock.close()
        for connection in tuple(self._site.open):
            connection.finish()
        await self._wait_gone()
        for connection in tuple(self._site.open):
            connection.transport.abort()
        await self._tasks.close()
        await self._wait_gone()

    async def _wait_gone(self) -> None:
        if self._site.open:
            await asyncio.wait([connection.gone for connection in self._site.open], timeout=CLOSING_S)


@dataclass(slots=True, kw_only=True)
class _Site:
    """What the connections of one server share."""

    routes: Routes
    limits: HttpLimits
    transport: Transport
    before: Before | None
    tasks: Tasks
    open: "set[_Connection]"


class _Connection(asyncio.Protocol):
    """One accepted connection, with a deadline for whatever its client owes: a request, or taking an answer."""

    transport: asyncio.Transport

    def __init__(self, site: _Site) -> None:
        self._site = site
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=site.limits.max_request_bytes)
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline: asyncio.TimerHandle | None = None
        self._owes = _NOTHING
        self._answering = False
        self._reading = True
        self._last = False

    # --- what the transport calls ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's is one
        self.transport = transport
        self._site.open.add(self)
        if len(self._site.open) > self._site.limits.max_connections:
            transport.abort()
            return
        self._expect(_REQUEST)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(_NOTHING)
        self._site.open.discard(self)
        self._writable.set()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._owes == _IDLE:
            self._expect(_REQUEST)
        try:
            self._http.receive_data(data)
            self._go_on()
        except h11.RemoteProtocolError as error:
            self._refuse(error)

    # --- requests -------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take what has arrived: up to the next request, which waits until the one before is answered."""
        while not self.transport.is_closing():
            if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
                self._expect(_IDLE if not self._http.trailing_data[0] else _REQUEST)
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._ask(event)
            elif event is h11.PAUSED or event is h11.NEED_DATA:
                self._read(more=event is h11.NEED_DATA)
                return

    def _read(self, *, more: bool) -> None:
        """While a second request waits for the answer to the first, nothing further is read."""
        if more != self._reading:
            self._reading = more
            (self.transport.resume_reading if more else self.transport.pause_reading)()

    def _ask(self, event: h11.Request) -> None:
        self._answering = True
        self._expect(_TAKING)
        request = _request(event, self._site.transport)
        if self._site.before is None:
            answer = self._answer(request)
            if isinstance(answer.body, bytes):  # without a task: that is nearly all, and readiness always
                self._begin(answer)
                self._end(answer, request)
                return
            self._site.tasks.start(self._send(answer, request), name=request.path[:40])
        else:
            self._site.tasks.start(self._prepare(self._site.before, request), name=request.path[:40])

    async def _prepare(self, before: Before, request: Request) -> None:
        try:
            await before(request.path)
        except Exception:
            answer = _fault(request)
        else:
            answer = self._answer(request)
        await self._send(answer, request)

    def _answer(self, request: Request) -> Answer:
        try:
            return self._site.routes.answer(request)
        except Exception:
            return _fault(request)

    # --- answers --------------------------------------------------------------------------------------------

    async def _send(self, answer: Answer, request: Request) -> None:
        self._begin(answer)
        try:
            for piece in () if isinstance(answer.body, bytes) or request.method == "HEAD" else answer.body:
                self._write(h11.Data(data=piece))
                await asyncio.sleep(0)  # the connections of the data path first
                await self._writable.wait()
                if self.gone.done():
                    break
        except Exception:  # the connection is then cut short, so that nobody takes half of it for the whole
            log.exception("admin answer failed unexpectedly", extra={"path": request.path})
            self._cut_short()
        self._end(answer, request)
        if not self.gone.done() and not self.transport.is_closing():
            try:
                self._go_on()
            except h11.RemoteProtocolError as error:
                self._refuse(error)

    def _begin(self, answer: Answer) -> None:
        headers = {**_HEADERS, **answer.headers, "content-type": answer.content_type}
        if isinstance(answer.body, bytes):
            headers["content-length"] = str(len(answer.body))
        reason = HTTPStatus(answer.status).phrase
        self._write(h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason))

    def _end(self, answer: Answer, request: Request) -> None:
        if isinstance(answer.body, bytes) and request.method != "HEAD":
            self._write(h11.Data(data=answer.body))
        self._write(h11.EndOfMessage())
        self._answering = False
        if self._last or self._http.our_state is h11.MUST_CLOSE:
            self.transport.close()
        if not self.transport.is_closing():
            self._expect(_REQUEST)  # what is left of this one's body; `_go_on` knows better when it was all
        if answer.after is not None:
            answer.after()

    def _write(self, event: h11.Event) -> None:
        if not self.transport.is_closing():
            data = self._http.send(event)
            if data:
                self.transport.write(data)

    def _cut_short(self) -> None:
        if self._http.their_http_version == b"1.1":
            self.transport.close()  # the last chunk is missing
        else:
            self.transport.abort()

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """What it sent is no HTTP, or too long. That is not for our log."""
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE} and not self._answering:
            answer = text_answer("this is no HTTP/1.1 request", error.error_status_hint, {"connection": "close"})
            self._begin(answer)
            self._end(answer, Request(method="GET", path=""))
        self.transport.close()

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close after the answer under way, or now."""
        self._last = True
        if not self._answering:
            self.transport.close()

    def _expect(self, owed: str) -> None:
        """A deadline runs from when the client began to owe something; further bytes do not move it."""
        if owed == self._owes:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._owes = owed
        limits = self._site.limits
        wait_s = {_REQUEST: limits.request_timeout_s, _TAKING: limits.answer_timeout_s, _IDLE: limits.keep_alive_s}
        if owed != _NOTHING:
            self._deadline = self._loop.call_later(wait_s[owed], self._expire)

    def _expire(self) -> None:
        if self._owes == _IDLE and not self.transport.get_write_buffer_size():
            self.transport.close()
        else:  # `close` would wait for the client to take what is written
            self.transport.abort()


_NOTHING, _REQUEST, _TAKING, _IDLE = "nothing", "a request", "taking the answer", "nothing yet"


def _fault(request: Request) -> Answer:
    """Of ours; to be called where it is handled."""
    log.exception("admin request failed unexpectedly", extra={"path": request.path})
    return text_answer("internal error; the log of this process says more", 500)


def _request(event: h11.Request, transport: Transport) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = event.target.decode("latin-1").partition("?")
    return Request(
        method=event.method.decode("ascii"),
        path=unquote(path),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        transport=transport,
    )
