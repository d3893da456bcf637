"""The listeners of a process for its operator: the window, readiness, metrics.

    server = await open_window(sock, Window(source=…, levels=logs))
    …
    await server.close()

Each takes a bound, listening socket, which is its own from then on, and serves it inside the running loop. The HTTP
stack is imported when the first one opens: a process without them does not pay for it.
"""

import socket
from typing import TYPE_CHECKING, Final

from hbone.addr import SocketAddress
from hbone.admin.probes import METRICS, Pending, metrics_routes, readiness_routes
from hbone.admin.routes import Before, Routes
from hbone.errors import UsageError
from hbone.telemetry.metrics import Metrics
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.admin.endpoints import Window
    from hbone.admin.http import HttpServer


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a client can hold. A request must be whole, and an answer taken, within its time, or the connection ends."""

    max_connections: int = 128
    max_request_bytes: int = 8192
    """Request line and headers; ztunnel's limit too."""
    request_timeout_s: float = 5.0
    """From the connection, or from the first byte after an answer, to the end of a request."""
    answer_timeout_s: float = 60.0
    keep_alive_s: int = 15


LIMITS: Final = HttpLimits()


async def open_window(
    sock: socket.socket,
    window: "Window",
    *,
    metrics: Metrics | None = None,
    before: Before | None = None,
    limits: HttpLimits = LIMITS,
) -> "HttpServer":
    """The operator's window; with `metrics`, those too, for a process that has one listener for both.

    Raises UsageError for a socket that is not loopback or Unix: whoever reaches it controls the process.
    """
    from hbone.admin.endpoints import window_routes

    require_private(sock)
    more = () if metrics is None else tuple(row.bind(metrics) for row in METRICS)
    return await _open(sock, window_routes(window, more), limits, before)


async def open_readiness(sock: socket.socket, pending: Pending, *, limits: HttpLimits = LIMITS) -> "HttpServer":
    """`GET /healthz/ready`, for probes. Ready when `pending` names nothing."""
    return await _open(sock, readiness_routes(pending), limits)


async def open_metrics(
    sock: socket.socket, metrics: Metrics, *, before: Before | None = None, limits: HttpLimits = LIMITS
) -> "HttpServer":
    """`GET /metrics` and `/stats/prometheus`, for scrapers."""
    return await _open(sock, metrics_routes(metrics), limits, before)


def require_private(sock: socket.socket) -> None:
    """Raises UsageError unless only this machine can reach `sock`."""
    if sock.family == socket.AF_UNIX:
        return
    address = SocketAddress.of(sock.getsockname())
    if not address.ip.is_loopback:
        raise UsageError(
            f"the admin listener is on {address}",
            why="others can reach it, it has no password, and whoever reaches it controls this process",
            fix=f"use 127.0.0.1:{address.port} or unix:/path",
            address=address,
        )


async def _open(sock: socket.socket, routes: Routes, limits: HttpLimits, before: Before | None = None) -> "HttpServer":
    from hbone.admin.http import HttpServer

    server = HttpServer(sock, routes, limits, before)
    await server.start()
    return server
