"""Connections without a tunnel, further endpoints when the first fails, and a listener without descriptors."""

import asyncio
import resource
import socket
from typing import Any

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.discovery.model import MeshState, NetworkAddress, Protocol
from hbone.discovery.store import Source
from hbone.errors import PolicyDenied
from hbone.net.dial import Dial
from hbone.net.splice import Splice
from hbone.proxy.judge import Facts
from hbone.proxy.outbound_stream import OutboundStream
from hbone.proxy.passthrough import PlainConnection
from tests.support.garbage import no_garbage
from tests.support.mesh import Mesh, Node, forward_of, pair
from tests.support.tcp import App, Tcp, digest, echo, eventually, pattern

MIB = 1 << 20


async def plain(mesh: Mesh, app: App, **settings: Any) -> Node:
    """A node with a forward to a workload that speaks no HBONE."""
    mesh.workload("shop/plain", str(app.address.ip), protocol=Protocol.TCP)
    return await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}], **settings)


async def test_a_destination_that_speaks_plain_tcp_is_carried_as_it_is() -> None:
    payload = pattern(3 * MIB)
    async with App(echo) as app, Mesh() as mesh:
        node = await plain(mesh, app)
        async with await Tcp.connect(forward_of(node)) as program:
            reading = asyncio.create_task(program.digest_to_end())
            await program.send(payload)
            program.end()
            assert await reading == (len(payload), digest(payload))
        line = await node.line()
        assert f"bytes_sent={len(payload)} bytes_recv={len(payload)}" in line
        assert "identity" not in line
        assert not node.dataplane.tunnels()


async def test_a_plain_connection_that_ended_leaves_nothing_to_the_collector() -> None:
    async with App(echo) as app, Mesh() as mesh:
        node = await plain(mesh, app)
        with no_garbage(PlainConnection, Splice, OutboundStream, Dial):
            for ending in ("end", "reset"):
                program = await Tcp.connect(forward_of(node))
                await program.send(b"x")
                assert await program.recv() == b"x"
                if ending == "end":
                    program.end()
                    assert await program.to_end() == b""
                    program.close()
                else:
                    program.reset()
            await node.wait_lines(2)


async def both(node: Node, app: App) -> tuple[Tcp, Tcp]:
    program = await Tcp.connect(forward_of(node))
    return program, await app.accept()


@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_close_is_carried_either_way(first: str) -> None:
    async with App() as app, Mesh() as mesh:
        program, server = await both(await plain(mesh, app), app)
        one, other = (program, server) if first == "client" else (server, program)
        await one.send(b"done")
        one.end()
        assert await other.to_end() == b"done"
        await other.send(b"and ")
        await asyncio.sleep(0.02)
        await other.send(b"now")
        other.end()
        assert await one.to_end() == b"and now"
        program.close()


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_is_carried_either_way_and_in_the_middle_of_a_transfer(who: str) -> None:
    async with App() as app, Mesh() as mesh:
        node = await plain(mesh, app)
        program, server = await both(node, app)
        near, far = (program, server) if who == "client" else (server, program)
        near.reset()
        assert await far.ending() == "reset"
        program.close()
        program, server = await both(node, app)
        near, far = (program, server) if who == "client" else (server, program)
        sending = asyncio.create_task(near.send(bytes(64 * MIB)))
        await far.exactly(MIB)
        sending.cancel()
        near.reset()
        assert await far.ending() == "reset"
        program.close()
        assert all('error="the connection was reset' in line for line in await node.wait_lines(2))


async def test_a_receiver_that_resets_stops_the_sender() -> None:
    async with App() as app, Mesh() as mesh:
        program, server = await both(await plain(mesh, app), app)
        sending = asyncio.create_task(program.send(bytes(64 * MIB)))
        await server.exactly(MIB)
        server.reset()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
        program.close()


async def test_a_slow_reader_gets_everything_from_a_server_that_closed_at_once() -> None:
    payload = pattern(8 * MIB)

    async def pour(tcp: Tcp) -> None:
        await tcp.send(payload)

    async with App(pour) as app, Mesh() as mesh:
        node = await plain(mesh, app)
        async with await Tcp.connect(forward_of(node), receive_buffer=65_536) as program:
            assert await program.digest_to_end(pause_s=0.001, piece=65_536) == (len(payload), digest(payload))


async def test_an_answer_is_read_though_the_server_closed_in_the_middle_of_the_question() -> None:
    async with App() as app, Mesh() as mesh:
        program, server = await both(await plain(mesh, app), app)
        await program.send(b"question")
        await server.exactly(8)
        await server.send(b"answer")
        server.end()
        assert await program.exactly(6) == b"answer"
        server.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await program.send(bytes(65_536))
        program.close()


async def test_a_half_closed_plain_connection_is_cut_if_a_limit_is_set() -> None:
    async with App() as app, Mesh() as mesh:
        node = await plain(mesh, app, timeouts={"half_close_timeout_s": 0.1})
        program, server = await both(node, app)
        program.end()
        assert await server.to_end() == b""
        assert await program.ending() == "reset"
        assert "half-closed for 0.1 s" in await node.line()
        program.close()


async def test_what_is_outside_of_the_mesh_is_passed_through_when_a_program_asks_for_it() -> None:
    async with App(echo, ip="127.0.9.9") as app, Mesh() as mesh:
        node = await mesh.node("web/web", "127.0.1.2", socks="127.0.0.1:0")
        async with await Tcp.connect(node.dataplane.address("socks")) as program:
            await program.send(f"CONNECT {app.address} HTTP/1.1\r\n\r\n".encode())
            assert (await program.recv()).startswith(b"HTTP/1.1 200 ")
            await program.send(b"x")
            assert await program.exactly(1) == b"x"
        line = await node.line()
        assert f"dst.addr={app.address}" in line


async def test_a_forward_never_leaves_the_mesh_in_clear() -> None:
    async with App(echo, ip="127.0.9.9") as app, Mesh() as mesh:
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(forward_of(node)) as program:
                await program.recv()
        assert app.accepted == 0
        assert "no service or workload for address" in await node.line()


async def service_of_two(mesh: Mesh, ports: dict[str, int], **more: Any) -> None:
    """shop/cart with endpoints 127.0.1.1 and 127.0.1.6, of HBONE ports as given."""
    key = "shop/cart.shop.svc.cluster.local"
    vips = (NetworkAddress("", parse_ip("10.9.9.9")),)
    mesh.service("cart.shop.svc.cluster.local", {80: 8080}, namespace="shop", vips=vips)
    for ip, port in ports.items():
        mesh.workload("shop/cart", ip, hbone_port=port, services={key: {80: 8080}}, **more)


async def test_when_the_first_endpoint_refuses_the_next_one_is_tried() -> None:
    async with Mesh() as mesh, App(echo, ip="127.0.1.6") as app:
        server = await mesh.node("shop/cart", "127.0.1.6")
        mesh.workloads.clear()
        key = "shop/cart.shop.svc.cluster.local"
        vips = (NetworkAddress("", parse_ip("10.9.9.9")),)
        mesh.service("cart.shop.svc.cluster.local", {80: app.port}, namespace="shop", vips=vips)
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=1, services={key: {80: app.port}})
        port = server.dataplane.address("inbound").port
        mesh.workload("shop/cart", "127.0.1.6", hbone_port=port, services={key: {80: app.port}})
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "10.9.9.9:80"}])
        for _ in range(12):
            async with await Tcp.connect(forward_of(node)) as program:
                await program.send(b"x")
                assert await program.exactly(1) == b"x"
        await node.quiet()
        assert all('error="' not in line for line in node.lines())
        assert all('dst.service="cart.shop.svc.cluster.local"' in line for line in node.lines())


async def test_when_every_endpoint_refuses_the_last_reason_is_told() -> None:
    async with Mesh() as mesh:
        await service_of_two(mesh, {"127.0.1.1": 1, "127.0.1.6": 1})
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "10.9.9.9:80"}])
        async with await Tcp.connect(forward_of(node)) as program:
            assert await program.ending() == "reset"
        line = await node.line()
        assert "Connection refused" in line


async def test_plain_endpoints_are_tried_one_after_the_other_too() -> None:
    async with App(echo, ip="127.0.1.6") as app, Mesh() as mesh:
        key = "shop/cart.shop.svc.cluster.local"
        vips = (NetworkAddress("", parse_ip("10.9.9.9")),)
        mesh.service("cart.shop.svc.cluster.local", {80: app.port}, namespace="shop", vips=vips)
        for ip in ("127.0.1.1", "127.0.1.6"):
            mesh.workload("shop/cart", ip, protocol=Protocol.TCP, services={key: {80: app.port}})
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "10.9.9.9:80"}])
        for _ in range(12):
            async with await Tcp.connect(forward_of(node)) as program:
                await program.send(b"x")
                assert await program.exactly(1) == b"x"
        await node.quiet()
        assert all('error="' not in line for line in node.lines())


async def test_no_more_than_a_few_of_many_dead_endpoints_are_tried() -> None:
    async with Mesh() as mesh:
        ports = {f"127.0.20.{i}": 1 for i in range(1, 41)}
        await service_of_two(mesh, ports)
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "10.9.9.9:80"}])
        async with await Tcp.connect(forward_of(node)) as program:
            assert await program.ending() == "reset"
        assert "Connection refused" in await node.line()


async def test_a_tunnels_connect_timeout_is_told_with_its_usual_cause() -> None:
    async with App() as app, Mesh() as mesh:
        full = await app.stop_answering()
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=app.port)
        timeouts = {"connect_timeout_s": 0.1}
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:80"}], timeouts=timeouts)
        async with await Tcp.connect(forward_of(node)) as program:
            assert await program.ending() == "reset"
        assert "maybe a network policy blocks the HBONE port" in await node.line()
        for tcp in full:
            tcp.close()


async def test_a_listener_without_descriptors_pauses_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        address = forward_of(stage.client)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
        spare = [socket.socket()]
        highest = spare[0].fileno()
        try:
            spare.pop().close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            for sock in waiting:
                sock.connect_ex((str(address.ip), address.port))
            await eventually(lambda: "accepting pauses" in caplog.text)
            await program.send(b"y")  # what is open goes on
            assert await program.exactly(1) == b"y"
            assert caplog.text.count("accepting pauses") < 5
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in waiting:
            late = Tcp(sock)
            await late.send(b"z")
            assert await late.exactly(1) == b"z"
            late.close()


async def test_plaintext_that_reaches_its_own_listener_is_no_loop() -> None:
    async with Mesh() as mesh:
        node = await mesh.node("shop/cart", "127.0.1.1", inbound_plaintext="127.0.1.1:0")
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(node.dataplane.address("inbound_plaintext")) as stranger:
                await stranger.recv()
        assert "recursive call to ourselves" in await node.line()


async def test_a_captured_connection_to_our_own_listener_is_no_loop() -> None:
    async with Mesh() as mesh:
        node = await mesh.node("shop/cart", "127.0.1.1", outbound="127.0.1.1:0")
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(node.dataplane.address("outbound")) as stranger:
                await stranger.recv()
        assert "recursive call to ourselves" in await node.line()


async def test_an_application_may_have_the_port_of_a_listener_of_ours_on_another_address() -> None:
    async with Mesh() as mesh:
        far = await mesh.node("shop/cart", "127.0.1.1", socks="127.0.0.1:0")
        async with App(echo, ip="127.0.1.1", port=far.dataplane.address("socks").port) as app:
            near = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
            async with await Tcp.connect(forward_of(near)) as program:
                await program.send(b"ping")
                assert await program.exactly(4) == b"ping"
            assert "error=" not in await far.line()


async def plaintext_arrives(node: Node, target: SocketAddress) -> Tcp:
    """As if a connection to `target` had been redirected to the node: its socket is handed over."""
    with socket.create_server((str(target.ip), 0)) as listener:
        program = await Tcp.connect(SocketAddress.of(listener.getsockname()))
        accepted, _ = listener.accept()
    accepted.setblocking(False)
    node.dataplane.plaintext.accept(accepted)
    return program


async def test_plaintext_is_judged_without_an_identity_and_reset_when_denied() -> None:
    asked: list[Facts] = []

    def deny(facts: Facts) -> PolicyDenied:
        asked.append(facts)
        return PolicyDenied("connection closed due to policy rejection", why="mutual TLS is demanded here")

    async with App() as app, Mesh() as mesh:
        node = await mesh.node("shop/cart", "127.0.1.1", authorize=deny)
        program = await plaintext_arrives(node, app.address)
        assert await program.ending() == "reset"
        program.close()
        (facts,) = asked
        assert facts.identity is None
        assert facts.workload is not None
        assert facts.destination.ip == app.address.ip
        assert "mutual TLS is demanded here" in await node.line()
        assert not node.dataplane.connections()


async def test_plaintext_for_nobody_here_is_refused() -> None:
    async with Mesh() as mesh:
        shared = await mesh.node(None, "127.0.1.2")
        program = await plaintext_arrives(shared, SocketAddress.parse("127.0.1.1:1"))
        assert await program.ending() == "reset"
        program.close()
        assert "no workload of this node has the address 127.0.1.1" in await shared.line()


async def test_an_empty_mesh_knows_nobody() -> None:
    async with Mesh() as mesh:
        node = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "10.9.9.9:80"}])
        node.store.replace_all(Source.MANIFESTS, MeshState())
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(forward_of(node)) as program:
                await program.recv()
        assert "no service or workload for address: 10.9.9.9" in await node.line()
