"""Destinations whose addresses are in DNS and not in the mesh."""

import asyncio
import time
from typing import Any

import pytest

from hbone.discovery.model import Protocol, Workload
from tests.support.mesh import Mesh, forward_of
from tests.support.tcp import App, Tcp, echo

HOST = "db.example"


async def stage(mesh: Mesh, app: App, **settings: Any) -> Tcp:
    """A program that was led to HOST, behind which DNS alone knows the address of `app`."""
    service = mesh.service(HOST, {80: app.port}, namespace="shop")
    mesh.workloads.append(
        Workload(
            uid="db",
            name="db",
            namespace="shop",
            hostname="localhost",
            protocol=Protocol.TCP,
            services={service.key: {80: app.port}},
        )
    )
    client = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": f"{HOST}:80"}], ipv6_enabled=False, **settings)
    return await Tcp.connect(forward_of(client))


async def test_a_name_is_looked_up_and_its_address_connected_to() -> None:
    async with App(echo, "127.0.0.1") as app, Mesh() as mesh, await stage(mesh, app) as program:
        await program.send(b"hello")
        assert await program.exactly(5) == b"hello"


async def test_a_name_server_that_does_not_answer_costs_the_connect_timeout_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    asks = loop.getaddrinfo

    async def never(host: Any, *arguments: Any, **options: Any) -> Any:
        return await (asyncio.sleep(3600) if host == "localhost" else asks(host, *arguments, **options))

    async with App(echo, "127.0.0.1") as app, Mesh() as mesh:
        monkeypatch.setattr(loop, "getaddrinfo", never)
        began = time.monotonic()
        async with await stage(mesh, app, timeouts={"connect_timeout_s": 0.3}) as program:
            assert await program.ending() == "reset"
        assert 0.2 < time.monotonic() - began < 3
        assert "localhost" in await mesh.nodes[0].line()
