"""How programs come in that are not captured: SOCKS5 and HTTP CONNECT on one port, with every answer they can get."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from hbone.addr import SocketAddress
from hbone.discovery.model import Protocol
from hbone.errors import PolicyDenied
from hbone.net.sockets import bind_unix_listener
from hbone.protocol.httpconnect import MAX_HEAD_BYTES
from hbone.proxy.judge import Facts
from tests.support.framepeer import FramePeer, FrameServer, svid_of
from tests.support.mesh import DirectIssuer, Mesh, Node, Pair, pair
from tests.support.tcp import App, Tcp, echo, eventually

SOCKS: dict[str, Any] = {"socks": "127.0.0.1:0"}
HELLO, CHOSEN = b"\x05\x01\x00", b"\x05\x00"


def entry_of(node: Node) -> SocketAddress:
    return node.dataplane.address("socks")


def socks_request(host: str, port: int) -> bytes:
    """By name, unless `host` is an IPv4 address."""
    if host.replace(".", "").isdigit():
        return b"\x05\x01\x00\x01" + bytes(map(int, host.split("."))) + struct.pack("!H", port)
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack("!H", port)


@asynccontextmanager
async def stage_with_service(**client: Any) -> AsyncGenerator[Pair]:
    async with pair(echo, client={**SOCKS, **client}) as stage:
        stage.mesh.service(
            "cart.shop.svc.cluster.local", {80: stage.app.port}, namespace="shop", vips=(), subject_alt_names=()
        )
        workload = stage.mesh.workloads[0]
        stage.mesh.workloads[0] = workload_in(workload, "shop/cart.shop.svc.cluster.local", {80: stage.app.port})
        stage.mesh.publish()
        yield stage


def workload_in(workload: Any, service: str, ports: dict[int, int]) -> Any:
    return replace(workload, services={service: ports})


async def socks(node: Node, host: str, port: int) -> tuple[Tcp, int]:
    """A program that asked for host and port, and the code of the answer."""
    program = await Tcp.connect(entry_of(node))
    await program.send(HELLO)
    assert await program.exactly(2) == CHOSEN
    await program.send(socks_request(host, port))
    answer = await program.exactly(10)
    assert answer[:1] + answer[2:] == b"\x05\x00\x01\x00\x00\x00\x00\x00\x00"
    return program, answer[1]


async def http(node: Node, target: str, *more: str) -> tuple[Tcp, str, bytes]:
    """A program that sent a CONNECT, the status line and the rest of what came with it."""
    program = await Tcp.connect(entry_of(node))
    lines = [f"CONNECT {target} HTTP/1.1", f"host: {target}", *more, "", ""]
    await program.send("\r\n".join(lines).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = await program.recv(1)
        assert piece, head
        head += piece
    return program, head.split(b"\r\n")[0].decode(), head


async def talk(program: Tcp) -> None:
    await program.send(b"hello")
    assert await program.exactly(5) == b"hello"


@pytest.mark.parametrize(
    "name", ["127.0.1.1", "cart.shop.svc.cluster.local", "cart.shop", "CART.shop.svc.cluster.local."]
)
async def test_socks_carries_to_addresses_and_to_names_of_the_mesh(name: str) -> None:
    async with stage_with_service() as stage:
        port = stage.app.port if name == "127.0.1.1" else 80
        program, code = await socks(stage.client, name, port)
        assert code == 0
        await talk(program)
        program.end()
        assert await program.to_end() == b""
        program.close()
        assert 'error="' not in await stage.client.line()


async def test_http_connect_carries_to_addresses_and_to_names_of_the_mesh() -> None:
    async with stage_with_service() as stage:
        for target in (str(stage.app.address), "cart.shop.svc.cluster.local:80"):
            program, status, _ = await http(stage.client, target, "proxy-connection: keep-alive")
            assert status == "HTTP/1.1 200 Connection established"
            await talk(program)
            program.close()


async def test_bytes_sent_along_with_the_request_are_payload() -> None:
    async with stage_with_service() as stage:
        async with await Tcp.connect(entry_of(stage.client)) as program:
            head = f"CONNECT {stage.app.address} HTTP/1.1\r\n\r\n".encode()
            await program.send(head + b"early payload")
            assert (await program.recv(1 << 12)).startswith(b"HTTP/1.1 200 ")
            assert await program.exactly(13) == b"early payload"
        async with await Tcp.connect(entry_of(stage.client)) as program:
            await program.send(HELLO + socks_request("127.0.1.1", stage.app.port) + b"early")
            assert await program.exactly(2 + 10 + 5) == CHOSEN + b"\x05\x00\x00\x01" + bytes(6) + b"early"


async def test_a_program_that_sends_its_request_byte_by_byte_is_served() -> None:
    async with stage_with_service() as stage:
        async with await Tcp.connect(entry_of(stage.client)) as program:
            for byte in HELLO + socks_request("cart.shop", 80):
                await program.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await program.exactly(12))[3] == 0
            await talk(program)
        async with await Tcp.connect(entry_of(stage.client)) as program:
            for byte in f"CONNECT {stage.app.address} HTTP/1.1\r\nx: y\r\n\r\n".encode():
                await program.send(bytes([byte]))
            assert (await program.recv(1 << 12)).startswith(b"HTTP/1.1 200 ")
            await talk(program)


async def test_what_goes_wrong_is_told_in_the_programs_own_words() -> None:
    async with stage_with_service() as stage:
        stage.mesh.workload("shop/gone", "127.0.1.9", hbone_port=1)
        stage.mesh.workload("shop/plain", "127.0.1.8", protocol=Protocol.TCP)
        free = await unused_port("127.0.1.1")
        for host, port, code, status in (
            ("nowhere.example", 80, 4, "502"),  # no such name in the mesh
            ("127.0.1.9", 80, 5, "502"),  # its proxy's port is closed
            ("127.0.1.8", free, 5, "502"),  # plain TCP, refused
            ("127.0.1.1", free, 5, "502"),  # through the tunnel, refused behind it
            ("cart.shop", 81, 4, "502"),  # a port that the service does not have
        ):
            program, got = await socks(stage.client, host, port)
            assert got == code, (host, port)
            assert await program.ending() == "end"  # an end, so that the answer is read for sure
            program.close()
            program, line, rest = await http(stage.client, f"{host}:{port}")
            assert line.startswith(f"HTTP/1.1 {status} "), (host, line)
            body = await program.to_end()
            assert b"content-type: text/plain" in rest
            assert body.strip(), "the reason"
            program.close()
        assert all("connection" in line for line in await stage.client.wait_lines(10))


async def unused_port(ip: str) -> int:
    async with App(ip=ip) as app:
        return app.port


async def test_a_denial_is_told_as_one() -> None:
    def deny(_: Facts) -> PolicyDenied:
        return PolicyDenied("no")

    async with pair(echo, client=SOCKS, server={"authorize": deny}) as stage:
        program, code = await socks(stage.client, "127.0.1.1", stage.app.port)
        assert code == 2
        program.close()
        program, line, _ = await http(stage.client, str(stage.app.address))
        assert line.startswith("HTTP/1.1 403 ")
        program.close()


async def test_no_answer_in_time_is_told_as_such() -> None:
    async def silent(peer: FramePeer) -> None:
        await peer.rest()

    async with Mesh() as mesh:
        svid = await svid_of(DirectIssuer(mesh.authority), "shop/cart")
        async with FrameServer(svid, silent) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            client = await mesh.node("web/web", "127.0.1.2", timeouts={"connect_response_timeout_s": 0.1}, **SOCKS)
            program, code = await socks(client, "127.0.1.1", 80)
            assert code == 4
            program.close()
            program, line, _ = await http(client, "127.0.1.1:80")
            assert line.startswith("HTTP/1.1 504 ")
            program.close()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),  # user name and password only
        (b"\x05\x00", b"\x05\xff"),  # no method at all
        (HELLO + b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", CHOSEN + b"\x05\x07"),  # BIND
        (HELLO + b"\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x50", CHOSEN + b"\x05\x07"),  # UDP ASSOCIATE
        (HELLO + b"\x05\x01\x00\x07\x7f\x00\x00\x01\x00\x50", CHOSEN + b"\x05\x08"),  # address type 7
        (HELLO + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00", CHOSEN + b"\x05\x01"),  # port 0
        (HELLO + b"\x05\x01\x00\x03\x05a b c\x00\x50", CHOSEN + b"\x05\x01"),  # no host name
        (HELLO + b"\x05\x01\x00\x03\x00\x00\x50", CHOSEN + b"\x05\x01"),  # an empty one
        (HELLO + b"\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", CHOSEN + b"\x05\x01"),  # version 4 in the middle
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 405 "),
        (b"CONNECT nowhere HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT a:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT user@a:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT a:80\r\n\r\n", b"HTTP/1.1 400 "),
        (b"hello world\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT a:80 HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES, b"HTTP/1.1 431 "),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b""),  # SOCKS4
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),  # TLS
        (b"\x00" * 100, b""),
    ],
)
async def test_what_is_no_request_gets_a_fitting_answer_and_one_access_line(said: bytes, answer: bytes) -> None:
    async with pair(echo, client=SOCKS) as stage, await Tcp.connect(entry_of(stage.client)) as program:
        await program.send(said)
        got = await program.to_end()
        assert got.startswith(answer), got
        if not answer:
            assert not got
        assert "connection failed" in await stage.client.line()
        healthy, code = await socks(stage.client, "127.0.1.1", stage.app.port)
        assert code == 0
        healthy.close()


@pytest.mark.parametrize("said", [b"", b"\x05", b"\x05\x02\x00", HELLO, b"CONNECT a:80 HTTP/1.1\r\n"])
async def test_a_program_that_does_not_finish_its_request_is_dropped_in_time(said: bytes) -> None:
    async with pair(echo, client={**SOCKS, "timeouts": {"handshake_timeout_s": 0.1}}) as stage:
        async with await Tcp.connect(entry_of(stage.client)) as program:
            if said:
                await program.send(said)
            assert await program.ending() == "end"
        assert "did not say where to" in await stage.client.line()


async def test_a_program_that_leaves_before_it_said_where_to_is_one_line() -> None:
    async with pair(echo, client=SOCKS) as stage:
        async with await Tcp.connect(entry_of(stage.client)) as program:
            await program.send(b"\x05")
        assert "went away before it said where to" in await stage.client.line()


async def test_slow_programs_do_not_keep_others_waiting_and_are_bounded() -> None:
    async with pair(echo, client={**SOCKS, "limits": {"max_connections": 20}}) as stage:
        slow = [await Tcp.connect(entry_of(stage.client)) for _ in range(19)]
        await asyncio.sleep(0.02)
        program, code = await socks(stage.client, "127.0.1.1", stage.app.port)
        assert code == 0
        await talk(program)
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(entry_of(stage.client)) as late:
                await late.recv()
        assert "too many connections" in await stage.client.line()
        for tcp in (*slow, program):
            tcp.close()


async def test_ipv6_targets_are_carried() -> None:
    async with App(echo, ip="::1") as app, Mesh() as mesh:
        server = await mesh.node("shop/cart", "::1", inbound="[::1]:0")
        client = await mesh.node("web/web", "127.0.1.2", **SOCKS)
        program, line, _ = await http(client, f"[::1]:{app.port}")
        assert " 200 " in line
        await talk(program)
        program.close()
        async with await Tcp.connect(entry_of(client)) as other:
            await other.send(HELLO + b"\x05\x01\x00\x04" + IPv6Address("::1").packed + struct.pack("!H", app.port))
            assert (await other.exactly(12))[3] == 0
            await talk(other)
        await server.quiet()
        assert f"dst.hbone_addr=[::1]:{app.port}" in server.lines()[0]


async def test_a_shared_node_refuses_programs_from_addresses_that_are_nobodys() -> None:
    async with App(echo) as app, Mesh() as mesh:
        await mesh.node("shop/cart", "127.0.1.1")
        shared = await mesh.node(None, "127.0.1.2", **SOCKS)
        program, code = await socks(shared, "127.0.1.1", app.port)
        assert code == 4
        program.close()
        assert "no workload of this node connects from 127.0.0.1" in await shared.line()
        mesh.workload("web/known", "127.0.0.1")
        program, code = await socks(shared, "127.0.1.1", app.port)
        assert code == 0
        await talk(program)
        program.close()


async def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Any) -> None:
    path = str(tmp_path / "entry.sock")
    first = bind_unix_listener(path)
    with pytest.raises(Exception, match="another process listens there"):
        bind_unix_listener(path)
    first.close()
    second = bind_unix_listener(path)
    second.close()


async def test_the_reply_is_read_though_the_program_goes_on_talking() -> None:
    async with pair(echo, client=SOCKS) as stage, await Tcp.connect(entry_of(stage.client)) as program:
        await program.send(HELLO + socks_request("nowhere.example", 80) + bytes(100_000))
        assert (await program.exactly(12))[:4] == CHOSEN + b"\x05\x04"
        await eventually(stage.client.lines)
