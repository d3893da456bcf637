"""The window, readiness and metrics over real sockets, and what a client cannot hold."""

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.admin.endpoints import Window
from hbone.admin.http import HttpServer
from hbone.admin.server import HttpLimits, open_metrics, open_readiness, open_window
from hbone.config.sections import Logging
from hbone.errors import UsageError
from hbone.net.sockets import bind_listener, bind_unix_listener
from hbone.telemetry.log import Logs
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import BUILD
from hbone.telemetry.views import WorkloadView
from tests.unit.admin.sample import Sample, SampleLevels

LIMIT_S = 10.0
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def loopback(ip: str = "127.0.0.1") -> socket.socket:
    return bind_listener(SocketAddress(parse_ip(ip), 0))


class Client:
    """A raw HTTP client: what it sends is written out in each test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, text: str) -> None:
        self.writer.write(text.replace("\n", "\r\n").encode())
        await self.writer.drain()

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        lines = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        text = "".join(f"{name}: {value}\n" for name, value in lines.items())
        await self.send(f"{method} {path} HTTP/1.1\n{text}\n")
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(LIMIT_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            content = b"" if method == "HEAD" else await self._body(headers)
        return int(first.split()[1]), headers, content

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close" and "transfer-encoding" not in headers:
            return await self.reader.read()
        content = b""
        while size := int(await self.reader.readline(), 16):
            content += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return content

    async def ended(self) -> bool:
        """Waits for the other side to end the connection."""
        async with asyncio.timeout(LIMIT_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True


@asynccontextmanager
async def client(server: HttpServer) -> AsyncGenerator[Client, None]:
    address = server.address
    if isinstance(address, SocketAddress):
        reader, writer = await asyncio.open_connection(str(address.ip), address.port)
    else:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def opened(opening: Awaitable[HttpServer]) -> AsyncGenerator[HttpServer, None]:
    server = await opening
    try:
        yield server
    finally:
        await server.close()
        assert server.connections == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  # the server has no event for it
            await asyncio.sleep(0)


def window(source: Sample | None = None) -> Window:
    return Window(source=source or Sample(), levels=SampleLevels())


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def sock(request: pytest.FixtureRequest, tmp_path: Path) -> socket.socket:
    match request.param:
        case "tcp4":
            return loopback()
        case "tcp6":
            try:
                return loopback("::1")
            except UsageError:
                pytest.skip("this machine has no ::1")
        case _:
            return bind_unix_listener(str(tmp_path / "admin.sock"))


async def test_the_window_answers_over_any_socket_that_only_this_machine_reaches(sock: socket.socket) -> None:
    async with opened(open_window(sock, window())) as server, client(server) as one:
        status, headers, content = await one.ask("/workloads")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert [workload["name"] for workload in json.loads(content)] == ["cart-0", "web-0"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert not any(name.startswith("access-control") for name in headers)
        # … and again on the same connection
        status, _, content = await one.ask("/", user_agent="Mozilla/5.0")
        assert status == 200
        assert b'<a href="/workloads">' in content


async def test_a_unix_socket_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with opened(open_window(bind_unix_listener(str(path)), window())) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        assert server.address == str(path)


async def test_a_window_that_others_could_reach_is_not_opened() -> None:
    with loopback("0.0.0.0") as sock, pytest.raises(UsageError, match=r"it has no password.* use 127\.0\.0\.1:\d+"):
        await open_window(sock, window())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:15000", "10.0.0.1"])
async def test_a_rebound_name_gets_nothing_over_tcp(host: str) -> None:
    async with opened(open_window(loopback(), window())) as server, client(server) as one:
        status, _, content = await one.ask("/config_dump", host=host)
        assert status == 403
        assert b"cart" not in content


async def test_two_host_headers_are_no_request() -> None:
    async with opened(open_window(loopback(), window())) as server, client(server) as one:
        await one.send("GET / HTTP/1.1\nhost: localhost\nhost: evil.example\n\n")
        assert (await one.answer())[0] == 400
        assert await one.ended()


async def test_a_foreign_page_cannot_shut_the_process_down() -> None:
    source = Sample()
    async with opened(open_window(loopback(), window(source))) as server, client(server) as one:
        status, _, _ = await one.ask("/quitquitquit", "POST", origin="http://evil.example", content_length="0")
        assert (status, source.quits) == (403, 0)


async def test_quitquitquit_is_answered_and_then_done() -> None:
    source = Sample()
    async with opened(open_window(loopback(), window(source))) as server, client(server) as one:
        status, _, content = await one.ask("/quitquitquit", "POST", content_length="0")
        assert (status, content) == (200, b"shutdown now\n")
        await one.ask("/process")  # the first answer's task has ended by now
        assert source.quits == 1


async def test_logging_changes_the_levels_of_the_real_log() -> None:
    logs = Logs(Logging())
    try:
        opening = open_window(loopback(), Window(source=Sample(), levels=logs))
        async with opened(opening) as server, client(server) as one:
            _, _, content = await one.ask("/logging?level=proxy=debug", "POST", content_length="0")
            assert content == b"current log level is info,proxy=debug\n"
            assert logging.getLogger("hbone.proxy").level == logging.DEBUG
            _, _, content = await one.ask("/logging?reset", "POST", content_length="0")
            assert content == b"current log level is info\n"
    finally:
        logs.close()


async def test_head_has_the_headers_and_no_body() -> None:
    async with opened(open_window(loopback(), window())) as server, client(server) as one:
        status, headers, _ = await one.ask("/tunnels", "HEAD")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert (await one.ask("/process"))[0] == 200


async def test_one_listener_can_have_window_and_metrics() -> None:
    opening = open_window(loopback(), window(), metrics=Metrics())
    async with opened(opening) as server, client(server) as one:
        assert (await one.ask("/metrics"))[2].endswith(b"# EOF\n")
        assert b"/stats/prometheus" in (await one.ask("/"))[2]


async def test_readiness_follows_what_is_pending() -> None:
    pending = {"state manager"}
    async with opened(open_readiness(loopback("0.0.0.0"), lambda: pending)) as server, client(server) as one:
        status, _, content = await one.ask("/healthz/ready", host="10.0.0.1:15021")
        assert (status, content) == (500, b"not ready, pending: state manager\n")
        pending.clear()
        status, _, content = await one.ask("/healthz/ready")
        assert (status, content) == (200, b"ready\n")


async def test_metrics_arrive_whole_compressed_or_not() -> None:
    metrics = Metrics()
    gauge = metrics.gauge(BUILD)
    for number in range(3000):  # several pieces
        gauge.labels("hbone", str(number)).value = 1
    async with opened(open_metrics(loopback(), metrics)) as server, client(server) as one:
        _, _, plain = await one.ask("/metrics")
        assert plain.decode() == metrics.text()
        _, headers, packed = await one.ask("/stats/prometheus", accept_encoding="gzip")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed) == plain


class Broken(Sample):
    """A process with a fault of ours inside."""

    def process(self) -> object:  # type: ignore[override]
        raise RuntimeError("a fault")

    def workloads(self) -> object:  # type: ignore[override]
        views = tuple(super().workloads())

        def some() -> object:
            yield from views * 100
            raise RuntimeError("half-way")

        return some()


@pytest.fixture
def calm_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


async def test_a_fault_of_ours_is_logged_and_answered_without_its_details(calm_log: pytest.LogCaptureFixture) -> None:
    async with opened(open_window(loopback(), window(Broken()))) as server, client(server) as one:
        status, _, content = await one.ask("/process")
        assert (status, content) == (500, b"internal error; the log of this process says more\n")
        assert [record.message for record in calm_log.records] == ["admin request failed unexpectedly"]


async def test_an_answer_that_fails_half_way_does_not_look_whole(calm_log: pytest.LogCaptureFixture) -> None:
    async with opened(open_window(loopback(), window(Broken()))) as server, client(server) as one:
        with pytest.raises((asyncio.IncompleteReadError, ValueError)):
            await one.ask("/workloads")
        assert [record.message for record in calm_log.records] == ["admin answer failed unexpectedly"]


QUICK = HttpLimits(request_timeout_s=0.05, answer_timeout_s=0.05, keep_alive_s=0)


@pytest.mark.parametrize("start", ["", "GET / HTTP/1.1\nhost: local", "GET / HTTP/1.1\nhost: localhost\nx: y\n"])
async def test_a_client_that_does_not_finish_its_request_is_ended(start: str) -> None:
    async with opened(open_readiness(loopback(), lambda: (), limits=QUICK)) as server, client(server) as slow:
        await slow.send(start)
        assert await slow.ended()


async def test_a_client_that_sends_a_byte_now_and_then_is_ended_all_the_same() -> None:
    async with opened(open_readiness(loopback(), lambda: (), limits=QUICK)) as server, client(server) as slow:
        ended = asyncio.create_task(slow.ended())
        try:
            while not ended.done():
                await slow.send("G")
                await asyncio.wait([ended], timeout=0.01)
        except ConnectionError:
            pass
        assert await ended


async def test_a_body_that_never_ends_does_not_hold_the_connection() -> None:
    limits = replace(QUICK, keep_alive_s=60)
    async with opened(open_window(loopback(), window(), limits=limits)) as server, client(server) as slow:
        status, _, _ = await slow.ask("/logging", "POST", content_length="1000000")
        assert status == 200
        await slow.send("x")
        assert await slow.ended()


async def test_an_idle_connection_is_closed() -> None:
    limits = replace(QUICK, request_timeout_s=60)
    async with opened(open_readiness(loopback(), lambda: (), limits=limits)) as server, client(server) as idle:
        assert (await idle.ask("/healthz/ready"))[0] == 200
        assert await idle.ended()


class Endless(Sample):
    """More than any socket buffer holds."""

    def workloads(self) -> "list[WorkloadView]":
        return list(super().workloads()) * 100_000


async def test_a_client_that_does_not_take_its_answer_is_ended() -> None:
    async with opened(open_window(loopback(), window(Endless()), limits=QUICK)) as server, client(server) as slow:
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
        await slow.send("GET /workloads HTTP/1.1\nhost: localhost\n\n")
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)


async def test_the_loop_goes_on_while_a_large_answer_is_made() -> None:
    async with opened(open_window(loopback(), window(Endless()))) as server, client(server) as big:
        asking = asyncio.create_task(big.ask("/workloads"))
        async with client(server) as small:
            for _ in range(3):
                assert (await small.ask("/process"))[0] == 200
        assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])


async def test_headers_without_end_are_refused() -> None:
    async with opened(open_readiness(loopback(), lambda: ())) as server, client(server) as one:
        await one.send("GET / HTTP/1.1\nhost: localhost\nx: " + "y" * 20_000)
        assert (await one.answer())[0] in {400, 431}
        assert await one.ended()


async def test_more_connections_than_allowed_are_ended_at_once() -> None:
    limits = HttpLimits(max_connections=2)
    opening = open_readiness(loopback(), lambda: (), limits=limits)
    async with opened(opening) as server, client(server) as one, client(server) as two:
        assert (await one.ask("/healthz/ready"))[0] == 200
        assert (await two.ask("/healthz/ready"))[0] == 200
        async with client(server) as three:
            assert await three.ended()
        assert (await one.ask("/healthz/ready"))[0] == 200


async def test_what_a_client_sends_wrong_is_not_in_the_log(calm_log: pytest.LogCaptureFixture) -> None:
    async with opened(open_readiness(loopback(), lambda: ())) as server, client(server) as one:
        await one.send("NONSENSE\n\n")
        assert (await one.answer())[0] == 400
    assert not calm_log.records


async def test_closing_ends_idle_and_half_way_connections_and_frees_the_port(sock: socket.socket) -> None:
    name: tuple[object, ...] | str = sock.getsockname()
    server = await open_window(sock, window())
    async with client(server) as idle, client(server) as half:
        assert (await idle.ask("/process"))[0] == 200
        await half.send("GET /process HTTP/1.1\nho")
        await until(lambda: server.connections == 2)
        await server.close()
        assert server.connections == 0
        assert sock.fileno() == -1
        assert await idle.ended()
        assert await half.ended()
    if isinstance(name, tuple):
        bind_listener(SocketAddress.of(name)).close()


async def test_signals_stay_with_the_process() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with opened(open_readiness(loopback(), lambda: ())):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_process_without_listeners_does_not_load_the_http_stack() -> None:
    import subprocess
    import sys

    code = "import sys, hbone.admin.server; print([m for m in ('uvicorn', 'starlette', 'h11') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
