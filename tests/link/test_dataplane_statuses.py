"""What a CONNECT is answered with, what is on the wire beside it, and its one access line with the reason."""

import asyncio
import re
import ssl

import pytest

from hbone.errors import PolicyDenied
from hbone.proxy.judge import Facts
from tests.support import h2frames
from tests.support.framepeer import FramePeer, FrameServer, connect_to, echo_script, svid_of, tls_context
from tests.support.mesh import Mesh, Node, Pair, forward_of, pair
from tests.support.tcp import App, Tcp, echo, eventually

NO_ERROR, CANCEL = 0, 8


async def client_of(stage: Pair, account: str = "web/web") -> FramePeer:
    address = stage.server.dataplane.address("inbound")
    return await FramePeer.connect(address, await svid_of(stage.server.issuer, account))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"127.0.1.1:80")), "GET"),
        (connect_to("127.0.1.1"), "not an address with a port"),
        (connect_to("127.0.1.1:0"), "not a port"),
        (connect_to("127.0.1.1:70000"), "not a port"),
        (connect_to("127.0.1.1:http"), "not a port"),
        (connect_to("user@127.0.1.1:80"), "not a host name"),
        (connect_to("x" * 4000 + ":80"), ":authority of 4003 bytes"),
        (connect_to("127.0.9.9:80"), "ip mismatch"),
        (connect_to("[::1]:80"), "ip mismatch"),
    ],
)
async def test_a_request_that_is_not_for_us_is_answered_with_400(fields: h2frames.Fields, reason: str) -> None:
    async with pair(echo) as stage, await client_of(stage) as client:
        client.send(h2frames.headers(1, fields))
        answer = await client.until("HEADERS", 1)
        assert client.fields(answer) == {":status": "400"}
        assert answer.flags & 1
        assert (await client.until("RST_STREAM", 1)).code == NO_ERROR
        line = await stage.server.line()
        assert reason in line
        assert "\twarn\t" in line
        assert 'src.identity="spiffe' in line or "connection failed" in line
        # the tunnel lives on
        client.send(h2frames.headers(3, connect_to(stage.app.address)))
        assert (await client.answer(3))[":status"] == "200"


async def test_a_connect_without_authority_is_a_protocol_error_of_that_stream_alone() -> None:
    async with pair(echo) as stage, await client_of(stage) as client:
        client.send(h2frames.headers(1, ((b":method", b"CONNECT"),)))
        assert (await client.until("RST_STREAM", 1)).code == 1
        assert "CONNECT without :authority" in await stage.server.line()
        client.send(h2frames.headers(3, connect_to(stage.app.address)))
        assert (await client.answer(3))[":status"] == "200"


async def test_an_oversized_header_block_is_answered_with_431_and_the_others_live() -> None:
    async with pair(echo) as stage, await client_of(stage) as client:
        big = connect_to(stage.app.address, *((b"x-%d" % i, b"y" * 1000) for i in range(70)))
        client.send(h2frames.headers(1, big, parts=6))
        assert (await client.answer(1))[":status"] == "431"
        assert "header list of" in await stage.server.line()
        client.send(h2frames.headers(3, connect_to(stage.app.address)))
        assert (await client.answer(3))[":status"] == "200"


async def test_a_closed_port_is_answered_with_503() -> None:
    async with pair() as stage, await client_of(stage) as client:
        stage.app.stop_listening()
        client.send(h2frames.headers(1, connect_to(stage.app.address)))
        assert (await client.answer(1))[":status"] == "503"
        line = await stage.server.line()
        assert "Connection refused" in line
        assert 'src.identity="spiffe://cluster.local/ns/web/sa/web"' in line


async def test_a_tunnel_that_leads_back_into_the_proxy_is_answered_with_503() -> None:
    async with pair() as stage, await client_of(stage) as client:
        client.send(h2frames.headers(1, connect_to(stage.server.dataplane.address("inbound"))))
        assert (await client.answer(1))[":status"] == "503"
        assert "recursive call to ourselves" in await stage.server.line()


async def test_200_comes_only_when_the_application_is_connected() -> None:
    async with App() as app, Mesh() as mesh:
        full = await app.stop_answering()
        server = await mesh.node("shop/cart", "127.0.1.1", timeouts={"connect_timeout_s": 30})
        svid = await svid_of(server.issuer, "web/web")
        async with await FramePeer.connect(server.dataplane.address("inbound"), svid) as client:
            client.send(h2frames.headers(1, connect_to(app.address)))
            client.send(h2frames.ping())
            seen = [await client.frame() for _ in range(4)]
            assert all(frame is not None and frame.name != "HEADERS" for frame in seen)
            client.send(h2frames.rst_stream(1))
            client.send(h2frames.ping())
            await client.until("PING")
            assert "gave up before the connection was made" in await server.line()
        for sock in full:
            sock.close()


async def test_an_application_that_does_not_answer_is_503_after_the_connect_timeout() -> None:
    async with App() as app, Mesh() as mesh:
        full = await app.stop_answering()
        server = await mesh.node("shop/cart", "127.0.1.1", timeouts={"connect_timeout_s": 0.1})
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        async with await Tcp.connect(forward_of(client)) as program:
            assert await program.ending() == "reset"
        assert "no answer to our SYN" in await server.line()
        assert "http status: 503" in await client.line()
        for sock in full:
            sock.close()


async def test_who_is_denied_gets_401_before_anything_is_dialled() -> None:
    asked: list[Facts] = []

    def deny(facts: Facts) -> PolicyDenied | None:
        asked.append(facts)
        return PolicyDenied("connection closed due to policy rejection", why="explicitly denied by: shop/nobody")

    async with pair(server={"authorize": deny}) as stage:
        program = await stage.connect()
        assert await program.ending() == "reset"
        assert stage.app.accepted == 0
        (facts,) = asked
        assert str(facts.identity) == "spiffe://cluster.local/ns/web/sa/web"
        assert facts.destination == stage.app.address
        assert facts.workload is not None
        assert facts.workload.namespace == "shop"
        assert "explicitly denied by: shop/nobody" in await stage.server.line()
        line = await stage.client.line()
        assert "http status: 401" in line
        assert "a policy at the destination denies this connection" in line


async def test_a_connection_is_registered_when_it_is_judged() -> None:
    open_then: list[int] = []
    nodes: list[Node] = []

    def allow(_: Facts) -> None:
        open_then.append(len(nodes[0].dataplane.registry))

    async with pair(echo, server={"authorize": allow}) as stage:
        nodes.append(stage.server)
        program = await stage.connect()
        await program.send(b"x")
        assert await program.exactly(1) == b"x"
        assert open_then == [1]


async def test_baggage_forwarded_and_traceparent_travel_with_the_connect() -> None:
    async with Mesh() as mesh:
        seen: list[dict[str, str]] = []

        async def script(peer: FramePeer) -> None:
            frame = await peer.until("HEADERS")
            seen.append(peer.fields(frame))
            assert not frame.flags & 1
            peer.send(h2frames.headers(frame.stream_id, h2frames.OK))
            await peer.rest()

        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}])
        async with FrameServer(await svid_of(client.issuer, "shop/cart"), script) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            async with await Tcp.connect(forward_of(client)) as program:
                own = program.sock.getsockname()
                await program.send(b"x")
                await eventually(lambda: seen)
        (fields,) = seen
        assert list(fields) == [":method", ":authority", "baggage", "forwarded", "traceparent"]
        assert fields[":method"] == "CONNECT"
        assert fields[":authority"] == "127.0.1.1:8080"
        assert fields["forwarded"] == f'for="{own[0]}:{own[1]}"'
        assert fields["baggage"].startswith(
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=web,k8s.deployment.name=web,"
        )
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", fields["traceparent"])


async def test_the_answer_says_who_answered() -> None:
    async with pair(echo) as stage, await client_of(stage) as client:
        client.send(h2frames.headers(1, connect_to(stage.app.address)))
        answer = await client.answer(1)
        assert set(answer) == {":status", "baggage"}
        assert "k8s.namespace.name=shop" in answer["baggage"]


async def test_both_access_lines_tell_the_whole_story_of_a_connection() -> None:
    async with pair(echo) as stage:
        program = await stage.connect()
        await program.send(b"x" * 1234)
        program.end()
        await program.to_end()
        near, far = await stage.client.line(), await stage.server.line()
        for line in (near, far):
            assert "\tinfo\taccess\tconnection complete\t" in line
            assert 'src.identity="spiffe://cluster.local/ns/web/sa/web"' in line
            assert 'dst.identity="spiffe://cluster.local/ns/shop/sa/cart"' in line
            assert f"dst.hbone_addr={stage.app.address}" in line
            assert "bytes_sent=1234 bytes_recv=1234" in line
        assert f"src.addr=127.0.0.1:{program.sock.getsockname()[1]}" in near
        assert f"dst.addr={stage.server.dataplane.address('inbound')}" in near


async def test_a_connect_that_is_not_answered_is_given_up() -> None:
    async with Mesh() as mesh:

        async def silent(peer: FramePeer) -> None:
            frame = await peer.until("RST_STREAM")
            assert frame.code == CANCEL
            await peer.rest()

        client = await mesh.node(
            "web/web",
            "127.0.1.2",
            forwards=[{"to": "127.0.1.1:8080"}],
            timeouts={"connect_response_timeout_s": 0.1},
        )
        async with FrameServer(await svid_of(client.issuer, "shop/cart"), silent) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            async with await Tcp.connect(forward_of(client)) as program:
                assert await program.ending() == "reset"
            assert "no answer to the CONNECT within 0.1 s" in await client.line()


async def test_a_status_other_than_200_is_a_failure_even_if_http_calls_it_success() -> None:
    async with Mesh() as mesh:

        async def created(peer: FramePeer) -> None:
            frame = await peer.until("HEADERS")
            peer.send(h2frames.headers(frame.stream_id, ((b":status", b"204"),)))
            await peer.rest()

        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}])
        async with FrameServer(await svid_of(client.issuer, "shop/cart"), created) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            async with await Tcp.connect(forward_of(client)) as program:
                assert await program.ending() == "reset"
            assert "http status: 204" in await client.line()


async def test_a_peer_with_another_identity_gets_no_byte() -> None:
    async with Mesh() as mesh:
        heard: list[bytes] = []

        async def listen(peer: FramePeer) -> None:
            heard.append(await peer.reader.read(1))

        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}])
        async with FrameServer(await svid_of(client.issuer, "evil/mallory"), listen) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            async with await Tcp.connect(forward_of(client)) as program:
                await program.send(b"secret")
                assert await program.ending() == "reset"
            line = await client.line()
            assert "spiffe://cluster.local/ns/evil/sa/mallory" in line
            assert "bytes_sent" not in line
        assert not b"".join(heard)


async def test_our_certificate_refused_is_told_in_words() -> None:
    async with pair(echo) as stage:
        async with Mesh() as other:  # another CA
            stranger = await other.node("web/web", "127.0.1.3", forwards=[{"to": str(stage.app.address)}])
            other.workload("shop/cart", "127.0.1.1", hbone_port=stage.server.dataplane.address("inbound").port)
            async with await Tcp.connect(forward_of(stranger)) as program:
                assert await program.ending() == "reset"
            assert "cluster.local" in await stranger.line()
        assert "cluster.local" in await stage.server.line() or "trust" in await stage.server.line()


async def test_too_many_connections_are_turned_away_and_said_so() -> None:
    async with pair(server={"limits": {"max_connections": 2}}) as stage:
        held = [await stage.both() for _ in range(2)]
        third = await stage.connect()
        assert await third.ending() == "reset"
        assert "too many connections" in await stage.server.line()
        assert "http status: 503" in await stage.client.line()
        for program, app in held:
            await program.send(b"x")
            assert await app.recv() == b"x"
    async with pair(client={"limits": {"max_connections": 2}}) as stage:
        held = [await stage.both() for _ in range(2)]
        with pytest.raises(ConnectionResetError):
            await (await stage.connect()).recv()
        assert "too many connections" in await stage.client.line()
        assert len(held) == 2


async def test_a_peer_that_says_nothing_at_all_is_given_up_by_the_handshake_deadline() -> None:
    async with App() as silent, Mesh() as mesh:
        timeouts = {"handshake_timeout_s": 0.1}
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}], timeouts=timeouts)
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=silent.port)
        async with await Tcp.connect(forward_of(client)) as program:
            assert await program.ending() == "reset"
        assert "TLS handshake was not done in time" in await client.line()


async def test_a_peer_that_shakes_hands_and_speaks_no_http2_is_given_up_by_the_handshake_deadline() -> None:
    async with Mesh() as mesh:
        timeouts = {"handshake_timeout_s": 0.2}
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}], timeouts=timeouts)
        context = tls_context(ssl.Purpose.CLIENT_AUTH, await svid_of(client.issuer, "shop/cart"))
        mute = await asyncio.start_server(lambda reader, writer: None, "127.0.1.1", 0, ssl=context)
        mesh.workload("shop/cart", "127.0.1.1", hbone_port=mute.sockets[0].getsockname()[1])
        async with await Tcp.connect(forward_of(client)) as program:
            assert await program.ending() == "reset"
        assert "no HTTP/2 SETTINGS came" in await client.line()
        mute.close()


async def test_a_frame_server_is_a_peer_like_any_other() -> None:
    async with Mesh() as mesh:
        client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": "127.0.1.1:8080"}])
        async with FrameServer(await svid_of(client.issuer, "shop/cart"), echo_script) as server:
            mesh.workload("shop/cart", "127.0.1.1", hbone_port=server.address.port)
            async with await Tcp.connect(forward_of(client)) as program:
                await program.send(b"x" * 200_000)
                program.end()
                assert await program.to_end() == b"x" * 200_000
