"""Rotation where a node is client and server (users' scenario C7): peers see every certificate in both roles, and no
tunnel takes a stream past the end of a certificate that it was opened with."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from hbone.identity.svid import wall_time
from hbone.net.clock import SystemClock
from hbone.net.tls import TlsStream
from tests.support.camesh import CaMesh, Load, MeshNode, echo_app
from tests.support.mesh import DirectIssuer, Mesh, Pair
from tests.support.tcp import App, echo, eventually

TTL_S = 3.0
ROTATIONS = 5
LATE_S = 0.5  # a tunnel that has ended is gone by then, on a machine that does other things too


def ended_s(tls: TlsStream) -> float:
    """How long ago the first of its certificates ended; below zero while both are good."""
    ends = min(tls.contexts.svid.not_after, wall_time(tls.peer_chain[0].not_valid_after_utc))
    return SystemClock().wall() - ends


def opened_by(node: MeshNode) -> list[TlsStream]:
    return [tunnel.link.tls for tunnel in node.node.dataplane.pool.tunnels()]


def accepted_by(node: MeshNode) -> list[TlsStream]:
    inbound = node.node.dataplane.inbound
    return [tunnel.link.tls for tunnel in inbound._tunnels]  # pyright: ignore[reportPrivateUsage]


@dataclass(slots=True)
class Seen:
    """Serial numbers of one node's certificates: what it had, and what its peer saw of it in each role."""

    node: MeshNode
    peer: MeshNode
    had: list[int] = field(default_factory=list[int])
    as_server: set[int] = field(default_factory=set[int])
    as_client: set[int] = field(default_factory=set[int])

    def look(self) -> None:
        if self.node.serial not in self.had:
            self.had.append(self.node.serial)
        self.as_server.update(_serials(opened_by(self.peer)))
        self.as_client.update(_serials(accepted_by(self.peer)))


def _serials(streams: Iterable[TlsStream]) -> set[int]:
    return {tls.peer_chain[0].serial_number for tls in streams}


def _knows(node: MeshNode, app: App) -> bool:
    return node.node.store.workload_at("", app.address.ip) is not None


@pytest.mark.slow
async def test_c7_peers_see_every_certificate_of_a_node_as_a_client_and_as_a_server(tmp_path: Path) -> None:
    async with CaMesh(tmp_path, ttl_s=TTL_S) as mesh, echo_app("127.0.2.1") as app_a, echo_app("127.0.2.2") as app_b:
        a = await mesh.node("shop/a", "127.0.2.1", to=str(app_b.address))
        b = await mesh.node("web/b", "127.0.2.2", to=str(app_a.address))
        for node, app in ((a, app_b), (b, app_a)):
            await mesh.until(partial(_knows, node, app))
        both = Seen(a, b), Seen(b, a)
        async with Load(a) as from_a, Load(b) as from_b, asyncio.timeout(TTL_S * (ROTATIONS + 2)):
            await mesh.until(lambda: min(from_a.done, from_b.done) > 3)
            while min(len(one.had) for one in both) <= ROTATIONS:
                for one in both:
                    one.look()
                for tls in (*opened_by(a), *opened_by(b), *accepted_by(a), *accepted_by(b)):
                    assert ended_s(tls) < LATE_S, "no tunnel outlives its certificates"
                await asyncio.sleep(0.01)
        assert from_a.failures == from_b.failures == []
    for one in both:
        assert set(one.had[:-1]) <= one.as_server, "as a server"
        assert set(one.had[:-1]) <= one.as_client, "as a client"


async def test_c7_a_server_that_renews_is_seen_so_by_a_client_that_does_not(tmp_path: Path) -> None:
    async with App(echo) as app, Mesh() as mesh:
        short = DirectIssuer(mesh.authority, ttl_s=3.0)
        far = await mesh.node("shop/cart", "127.0.1.1", issuer=short)
        near = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(app.address)}])
        stage = Pair(mesh, app, near, far)
        try:
            held = await stage.connect()
            await held.send(b"first")
            assert await held.exactly(5) == b"first"
            (old,) = near.dataplane.pool.tunnels()
            await eventually(lambda: short.issued >= 2)
            again = await stage.connect()
            await again.send(b"second")
            assert await again.exactly(6) == b"second"
            (newer,) = (tunnel for tunnel in near.dataplane.pool.tunnels() if tunnel is not old)
            assert newer.link.tls.peer_chain[0].serial_number != old.link.tls.peer_chain[0].serial_number
            await asyncio.sleep(max(0.0, -ended_s(old.link.tls)) + 0.1)
            await held.send(b"what is open runs to its end")
            assert await held.exactly(28) == b"what is open runs to its end"
            held.close()
            await eventually(lambda: old.link.closed)
        finally:
            for program in stage.programs:
                program.close()
