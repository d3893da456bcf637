"""Which connections share a tunnel, when tunnels are opened, and when they go."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hbone.addr import SocketAddress
from hbone.discovery.model import Workload
from hbone.errors import ConnectionCut
from hbone.identity.spiffe import SpiffeId
from tests.support import h2frames
from tests.support.framepeer import FramePeer, FrameServer, echo_script, svid_of
from tests.support.mesh import DirectIssuer, Mesh, Node, forward_of, pair
from tests.support.tcp import App, Tcp, digest, echo, eventually, pattern

REFUSED_STREAM = 7


async def talk(program: Tcp, data: bytes = b"hello") -> None:
    await program.send(data)
    assert await program.exactly(len(data)) == data


async def test_a_cold_burst_of_two_hundred_connects_opens_one_tunnel() -> None:
    async with pair(echo) as stage:

        async def one() -> None:
            await talk(await stage.connect())

        await asyncio.gather(*(one() for _ in range(200)))
        (tunnel,) = stage.client.dataplane.tunnels()
        assert tunnel.streams == 200
        assert len(stage.server.dataplane.tunnels()) == 1


async def test_two_source_identities_never_share_a_tunnel() -> None:
    async with App(echo) as app, Mesh() as mesh:
        server = await mesh.node("shop/cart", "127.0.1.1")
        forwards = [{"to": str(app.address), "as": name} for name in ("web/web", "web/other")]
        client = await mesh.node("web/web", "127.0.1.2", forwards=forwards)
        for place in (1, 2, 1, 2):
            async with await Tcp.connect(forward_of(client, place)) as program:
                await talk(program)
        await client.quiet()
        tunnels = client.dataplane.tunnels()
        assert sorted(tunnel.local_identity for tunnel in tunnels) == [
            "spiffe://cluster.local/ns/web/sa/other",
            "spiffe://cluster.local/ns/web/sa/web",
        ]
        seen = {line.split('src.identity="')[1].split('"')[0] for line in server.lines()}
        assert seen == {tunnel.local_identity for tunnel in tunnels}


async def test_two_source_addresses_never_share_a_tunnel() -> None:
    async with pair(echo) as stage:
        for source in ("127.0.0.1", "127.0.7.7", "127.0.0.1"):
            await talk(await stage.connect(source=source))
        assert len(stage.client.dataplane.tunnels()) == 2


async def test_a_peer_that_takes_few_streams_gets_more_tunnels() -> None:
    async with pair(echo, server={"http2": {"max_streams_per_connection_inbound": 10}}) as stage:

        async def one() -> None:
            await talk(await stage.connect())

        await asyncio.gather(*(one() for _ in range(45)))
        tunnels = stage.client.dataplane.tunnels()
        assert sorted(tunnel.streams for tunnel in tunnels) == [5, 10, 10, 10, 10]
        for program in stage.programs:
            program.close()
        await stage.client.quiet()
        await talk(await stage.connect())
        assert len(stage.client.dataplane.tunnels()) == 5  # one that was full is used again


async def test_our_own_limit_of_streams_per_tunnel_holds_too() -> None:
    async with pair(echo, client={"http2": {"pool_max_streams_per_tunnel": 4}}) as stage:
        for _ in range(9):
            await talk(await stage.connect())
        assert sorted(tunnel.streams for tunnel in stage.client.dataplane.tunnels()) == [1, 4, 4]


async def one_client(mesh: Mesh, server: FrameServer, **settings: Any) -> Node:
    """A node with a forward to a workload that `server` plays."""
    mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
    return await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}], **settings)


async def test_a_refused_stream_is_repeated_on_another_tunnel_with_its_early_bytes() -> None:
    seen: list[bytes] = []

    async def refuse_the_second(peer: FramePeer) -> None:
        if len(server.peers) > 1:
            await echo_script(peer)
            return
        first = await peer.until("HEADERS")
        peer.fields(first)
        peer.send(h2frames.headers(first.stream_id, h2frames.OK))
        second = await peer.until("HEADERS")
        peer.fields(second)
        seen.append((await peer.until("DATA", second.stream_id)).payload)
        await peer.until("DATA", second.stream_id)  # its end
        peer.send(h2frames.rst_stream(second.stream_id, REFUSED_STREAM))
        await peer.rest()

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), refuse_the_second) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)), await Tcp.connect(forward_of(client)) as second:
            await second.send(b"early bytes")
            second.end()
            assert await second.to_end() == b"early bytes"
            assert len(server.peers) == 2
            assert seen == [b"early bytes"]
            line = await client.line()
            assert "bytes_sent=11 bytes_recv=11" in line
            assert 'error="' not in line


def new_issuer(mesh: Mesh) -> DirectIssuer:
    return DirectIssuer(mesh.authority)


async def test_a_peer_that_refuses_every_stream_is_given_up_after_a_few_tunnels() -> None:
    async def refuse(peer: FramePeer) -> None:
        while (frame := await peer.frame()) is not None:
            if frame.name == "HEADERS":
                peer.send(h2frames.rst_stream(frame.stream_id, REFUSED_STREAM))

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), refuse) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            assert await program.ending() == "reset"
        assert "REFUSED_STREAM" in await client.line()
        assert 2 <= len(server.peers) < 12


async def test_an_answered_connect_is_never_repeated() -> None:
    connects = 0

    async def answer_then_refuse(peer: FramePeer) -> None:
        nonlocal connects
        frame = await peer.until("HEADERS")
        connects += 1
        peer.send(h2frames.headers(frame.stream_id, h2frames.OK), h2frames.rst_stream(frame.stream_id, REFUSED_STREAM))
        await peer.rest()

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), answer_then_refuse) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            await program.send(b"once")
            assert await program.ending() == "reset"
        assert "REFUSED_STREAM" in await client.line()
        assert connects == 1


async def test_a_connect_that_may_have_been_acted_on_is_never_repeated() -> None:
    connects = 0

    async def take_and_die(peer: FramePeer) -> None:
        nonlocal connects
        await peer.until("HEADERS")
        connects += 1
        peer.close()

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), take_and_die) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            await program.send(b"once")
            assert await program.ending() == "reset"
        assert connects == 1


async def test_streams_that_goaway_leaves_out_are_opened_elsewhere() -> None:
    async def leave(peer: FramePeer) -> None:
        if len(server.peers) > 1:
            await echo_script(peer)
            return
        await peer.until("HEADERS")
        peer.send(h2frames.goaway(0))
        await peer.rest()

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), leave) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            await talk(program)
        assert len(server.peers) == 2


async def test_a_peer_that_says_goaway_to_a_tunnel_that_is_just_open_costs_no_connection() -> None:
    """Its certificate was renewed during the handshake."""

    async def leave_at_once(peer: FramePeer) -> None:
        if len(server.peers) > 1:
            await echo_script(peer)
            return
        peer.send(h2frames.goaway(0))  # with the SETTINGS, before anything could be asked
        assert "HEADERS" not in [frame.name for frame in await peer.rest()]

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), leave_at_once) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            await talk(program)
        assert len(server.peers) == 2


async def test_a_certificate_of_ours_that_is_renewed_while_a_tunnel_opens_costs_no_connection() -> None:
    async def answer_after_that(peer: FramePeer) -> None:
        if len(server.peers) == 1:
            (first,) = client.keeper.views()
            await eventually(lambda: client.keeper.views()[0].serial != first.serial)
        peer.send(h2frames.settings())
        await echo_script(peer)

    async with Mesh() as mesh:
        issuer = new_issuer(mesh)
        async with FrameServer(await svid_of(issuer, "shop/cart"), answer_after_that, settings=None) as server:
            client = await one_client(mesh, server, issuer=DirectIssuer(mesh.authority, ttl_s=3.0))
            async with await Tcp.connect(forward_of(client)) as program:
                await talk(program)
            assert len(server.peers) == 2


async def test_a_peer_that_says_goaway_to_every_tunnel_is_given_up_after_three() -> None:
    async def leave_at_once(peer: FramePeer) -> None:
        peer.send(h2frames.goaway(0))
        await peer.rest()

    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), leave_at_once) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as program:
            assert await program.ending() == "reset"
        assert "closed the tunnel at once" in await client.line()
        assert len(server.peers) == 3


async def test_streams_run_on_after_goaway_and_new_ones_take_a_new_tunnel() -> None:
    async def leave(peer: FramePeer) -> None:
        if len(server.peers) > 1:
            await echo_script(peer)
            return
        frame = await peer.until("HEADERS")
        peer.send(h2frames.headers(frame.stream_id, h2frames.OK), h2frames.goaway(frame.stream_id))
        for _ in range(2):
            data = await peer.until("DATA")
            peer.send(h2frames.data(data.stream_id, data.payload))
        await peer.until("DATA")  # the client's end
        peer.send(h2frames.data(frame.stream_id, end=True))
        ended.append((await peer.rest())[-1].name)

    ended: list[str] = []
    async with Mesh() as mesh, FrameServer(await svid_of(new_issuer(mesh), "shop/cart"), leave) as server:
        client = await one_client(mesh, server)
        async with await Tcp.connect(forward_of(client)) as old:
            await talk(old)
            async with await Tcp.connect(forward_of(client)) as new:
                await talk(new)
                await talk(old)
                assert len(server.peers) == 2
        await client.quiet()
        await eventually(lambda: len(client.dataplane.tunnels()) == 1)
        await eventually(lambda: ended)


async def test_a_tunnel_without_streams_is_closed_after_the_idle_time() -> None:
    async with pair(echo, client={"timeouts": {"idle_tunnel_timeout_s": 0.2}}) as stage:
        program = await stage.connect()
        await talk(program)
        await asyncio.sleep(0.4)
        assert len(stage.client.dataplane.tunnels()) == 1  # it has a stream
        program.close()
        await stage.client.quiet()
        await asyncio.sleep(0.1)
        assert len(stage.client.dataplane.tunnels()) == 1
        await eventually(lambda: not stage.client.dataplane.tunnels())
        await eventually(lambda: not stage.server.dataplane.tunnels())
        assert len(await stage.client.wait_lines(1)) == 1
        await talk(await stage.connect())


async def test_a_tunnel_that_nobody_waits_for_any_more_falls_idle_too() -> None:
    async with pair(echo, client={"timeouts": {"idle_tunnel_timeout_s": 0.2}}) as stage:
        program = await stage.connect()
        for connection in stage.client.dataplane.registry:
            connection.cut(ConnectionCut("a test's whim"))
        assert await program.ending() == "reset"
        await eventually(lambda: not stage.client.dataplane.tunnels())


async def test_new_certificates_take_new_tunnels_and_old_streams_run_to_their_end() -> None:
    async with pair(echo) as stage:
        old = await stage.connect()
        await talk(old)
        (before,) = stage.client.dataplane.tunnels()
        await rotate(stage.client, before.local_identity)
        new = await stage.connect()
        await talk(new)
        await talk(old)
        assert len(stage.client.dataplane.tunnels()) == 2
        assert before.id in {tunnel.id for tunnel in stage.client.dataplane.tunnels()}
        old.close()
        await eventually(lambda: before.id not in {tunnel.id for tunnel in stage.client.dataplane.tunnels()})
        await talk(new)
        assert all('error="' not in line for line in await stage.client.wait_lines(1))


async def rotate(node: Node, identity: str) -> None:
    """A new certificate, now."""
    spiffe_id = SpiffeId.parse(identity)
    node.keeper.forget(spiffe_id)
    await node.keeper.get(spiffe_id)


async def test_a_tunnel_takes_no_new_streams_when_its_address_changes_hands() -> None:
    async with pair(echo) as stage:
        old = await stage.connect()
        await talk(old)
        (before,) = stage.client.dataplane.tunnels()
        released = next(one for one in stage.mesh.workloads if one.service_account == "cart")
        stage.mesh.workloads.remove(released)
        stage.mesh.workloads.append(renamed(released))
        stage.mesh.publish()
        new = await stage.connect()
        assert await new.ending() == "reset"  # the server still has its old identity
        await talk(old)
        assert "expected" in (await stage.client.line()).lower() or "identity" in await stage.client.line()
        old.close()
        await eventually(lambda: before.id not in {tunnel.id for tunnel in stage.client.dataplane.tunnels()})


def renamed(workload: Workload) -> Workload:
    return replace(workload, uid="test//Pod/shop/successor", service_account="successor")


async def test_a_proxy_that_is_killed_and_restarted_costs_no_connection_that_begins_after() -> None:
    async with App(echo) as app, Mesh() as mesh:
        server = await mesh.node("shop/cart", "127.0.1.1")
        address = server.dataplane.address("inbound")
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        for _ in range(25):
            held = [await Tcp.connect(forward_of(client)) for _ in range(3)]
            await asyncio.gather(*(talk(program) for program in held))
            await server.kill()
            mesh.nodes.remove(server)
            mesh.workloads = [one for one in mesh.workloads if one.service_account != "cart"]
            server = await mesh.node("shop/cart", "127.0.1.1", inbound=str(address))
            async with await Tcp.connect(forward_of(client)) as program:  # in the same turn, if the kernel lets us
                await talk(program)
            for program in held:
                assert await program.ending() == "reset"
                program.close()


async def test_under_steady_load_only_what_met_a_restart_is_lost() -> None:
    async with App(echo) as app, Mesh() as mesh:
        server = await mesh.node("shop/cart", "127.0.1.1")
        address = server.dataplane.address("inbound")
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        loop = asyncio.get_running_loop()
        failed: list[tuple[float, float]] = []
        served = 0
        stop = asyncio.Event()

        async def load() -> None:
            nonlocal served
            while not stop.is_set():
                began = loop.time()
                try:
                    async with await Tcp.connect(forward_of(client)) as program:
                        await talk(program)
                        served += 1
                except (OSError, AssertionError):
                    failed.append((began, loop.time()))
                await asyncio.sleep(0.002)

        loads = [asyncio.create_task(load()) for _ in range(5)]
        outages: list[tuple[float, float]] = []
        for _ in range(10):
            before = served
            await eventually(lambda: served > before + 5)  # noqa: B023 - called at once
            killed = loop.time()
            await server.kill()
            mesh.nodes.remove(server)
            mesh.workloads = [one for one in mesh.workloads if one.service_account != "cart"]
            server = await mesh.node("shop/cart", "127.0.1.1", inbound=str(address))
            outages.append((killed, loop.time()))
        before = served
        await eventually(lambda: served > before + 5)
        stop.set()
        await asyncio.gather(*loads)
        unexplained = [
            (began, ended)
            for began, ended in failed
            if not any(began <= again and killed <= ended for killed, again in outages)
        ]
        assert not unexplained, outages


async def test_another_identity_on_a_recycled_address_is_refused_before_a_byte_is_sent() -> None:
    async with App(echo) as app, Mesh() as mesh:
        server = await mesh.node("shop/cart", "127.0.1.1")
        address = server.dataplane.address("inbound")
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        async with await Tcp.connect(forward_of(client)) as program:
            await talk(program)
        await server.kill()
        mesh.nodes.remove(server)
        state = list(mesh.workloads)
        imposter = await mesh.node("evil/mallory", "127.0.1.1", inbound=str(address))
        mesh.workloads = state
        mesh.publish()
        async with await Tcp.connect(forward_of(client)) as program:
            await program.send(b"secret")
            assert await program.ending() == "reset"
        lines = await client.wait_lines(2)
        assert "spiffe://cluster.local/ns/evil/sa/mallory" in lines[1]
        assert "connection failed" in lines[1]  # nothing was ever carried
        assert app.accepted == 1
        assert "connection failed" in await imposter.line()


async def test_the_number_of_tunnels_is_limited_and_idle_ones_make_room() -> None:
    async with App(echo) as app, Mesh() as mesh:
        await mesh.node("shop/cart", "127.0.1.1")
        client = await mesh.node(
            "web/web", "127.0.1.2", forwards=[{"to": str(app.address)}], limits={"max_outbound_tunnels": 2}
        )
        address = forward_of(client)
        first, second = [await Tcp.connect(address, source=f"127.0.7.{i}") for i in (1, 2)]
        await talk(first)
        await talk(second)
        with pytest.raises(ConnectionResetError):
            async with await Tcp.connect(address, source="127.0.7.3") as third:
                await third.recv()
        assert "2 are open, as many as allowed" in await client.line()
        first.close()
        await eventually(lambda: len(client.dataplane.connections()) == 1)
        async with await Tcp.connect(address, source="127.0.7.3") as third:
            await talk(third)
            assert len(client.dataplane.tunnels()) == 2
        second.close()


async def test_who_finds_every_tunnel_full_waits_for_room_and_gets_it_in_order() -> None:
    async with pair(
        echo,
        server={"http2": {"max_streams_per_connection_inbound": 2}},
        client={"limits": {"max_outbound_tunnels": 1}},
    ) as stage:
        held = [await stage.connect() for _ in range(2)]
        for program in held:
            await talk(program)
        waiting = [await stage.connect() for _ in range(2)]
        for program in waiting:
            await program.send(b"patience")
        await asyncio.sleep(0.05)
        assert stage.app.accepted == 2
        held[0].close()
        assert await waiting[0].exactly(8) == b"patience"
        assert stage.app.accepted == 3
        held[1].close()
        assert await waiting[1].exactly(8) == b"patience"


async def test_nobody_waits_for_room_for_ever() -> None:
    async with pair(
        echo,
        server={"http2": {"max_streams_per_connection_inbound": 1}},
        client={
            "limits": {"max_outbound_tunnels": 1},
            "timeouts": {"connect_timeout_s": 0.1, "handshake_timeout_s": 0.2},
        },
    ) as stage:
        await talk(await stage.connect())
        late = await stage.connect()
        assert await late.ending() == "reset"
        assert "no room in a tunnel" in await stage.client.line()


async def test_a_waiting_program_that_is_cut_leaves_the_queue() -> None:
    async with pair(
        echo,
        server={"http2": {"max_streams_per_connection_inbound": 1}},
        client={"limits": {"max_outbound_tunnels": 1}},
    ) as stage:
        first = await stage.connect()
        await talk(first)
        waiting = await stage.connect()
        await eventually(lambda: len(stage.client.dataplane.registry) == 2)
        for connection in stage.client.dataplane.registry:
            if connection.view().tunnel is None:
                connection.cut(ConnectionCut("a test's whim"))
        assert await waiting.ending() == "reset"
        first.close()
        await talk(await stage.connect())
        assert stage.app.accepted == 2


async def test_a_failed_tunnel_is_everybodys_failure_at_once_and_the_next_one_tries_afresh() -> None:
    async with App(echo) as app, Mesh() as mesh:
        address = SocketAddress.parse("127.0.1.1:1")
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=address.port)
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        programs = [await Tcp.connect(forward_of(client)) for _ in range(20)]
        for program in programs:
            assert await program.ending() == "reset"
            program.close()
        assert all("Connection refused" in line for line in await client.wait_lines(20))
        mesh.workloads = [one for one in mesh.workloads if one.service_account != "cart"]
        await mesh.node("shop/cart", "127.0.1.1")
        async with await Tcp.connect(forward_of(client)) as program:
            await talk(program)


async def test_who_comes_while_an_attempt_hangs_is_not_failed_by_it() -> None:
    async with App(echo) as app, Mesh() as mesh, App() as silent:
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=silent.port)
        timeouts = {"handshake_timeout_s": 0.3}
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}], timeouts=timeouts)
        early = await Tcp.connect(forward_of(client))
        hung = await silent.accept()
        silent.stop_listening()
        mesh.workloads = [one for one in mesh.workloads if one.service_account != "cart"]
        await mesh.node("shop/cart", "127.0.1.1", inbound=str(silent.address))
        async with await Tcp.connect(forward_of(client)) as late:
            await talk(late)
        assert await early.ending() == "reset"
        assert "TLS handshake was not done in time" in client.lines()[0]
        early.close()
        hung.close()


async def test_a_large_transfer_survives_rotation_while_it_runs() -> None:
    payload = pattern(8 << 20)

    async def pour(tcp: Tcp) -> None:
        await tcp.send(payload)

    async with pair(pour) as stage:
        program = await stage.connect(receive_buffer=65_536)
        reading = asyncio.create_task(program.digest_to_end(pause_s=0.001, piece=65_536))
        await eventually(stage.client.dataplane.tunnels)
        (tunnel,) = stage.client.dataplane.tunnels()
        await rotate(stage.client, tunnel.local_identity)
        assert await reading == (len(payload), digest(payload))
