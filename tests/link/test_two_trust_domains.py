"""Meshes of different trust domains that exchanged their bundles: who is who, and how it ends."""

import asyncio
from pathlib import Path

from tests.support.camesh import MeshNode, echo_app
from tests.support.federated import Town, TownMesh
from tests.support.tcp import Tcp

X, Y, Z = "x.test", "y.test", "z.test"


async def talks(tcp: Tcp) -> bool:
    await tcp.send(b"hello")
    return await tcp.exactly(5) == b"hello"


async def reaches(node: MeshNode) -> bool:
    try:
        async with await node.connect() as tcp:
            return await talks(tcp)
    except (OSError, TimeoutError):
        return False


async def until_reached(*nodes: MeshNode) -> None:
    async with asyncio.timeout(15):
        while not all([await reaches(node) for node in nodes]):  # noqa: ASYNC110 - of another's making
            await asyncio.sleep(0.05)


async def until_refused(node: MeshNode) -> None:
    async with asyncio.timeout(15):
        while await reaches(node):  # noqa: ASYNC110 - of another's making
            await asyncio.sleep(0.05)


async def neighbour(town: Town, domain: str, server: tuple[TownMesh, MeshNode, int], ip: str) -> MeshNode:
    """A node of account a/s in a mesh of its own, which knows the server as `cart.test`."""
    mesh = await town.mesh(domain)
    home, node, port = server
    mesh.serve_from(home, node, "cart.test", port)
    return await mesh.node("a/s", ip, to="cart.test:80")


async def test_the_same_account_of_two_trust_domains_is_two_principals(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.91.1") as app:
        x = await town.mesh(X)
        server = await x.node("shop/cart", "127.0.91.1")
        ours = await x.node("a/s", "127.0.91.2", to=str(app.address))
        theirs = await neighbour(town, Y, (x, server, app.port), "127.0.92.1")
        await until_reached(ours)
        async with asyncio.timeout(15):  # it may not have heard of the server yet
            while not any(f"no roots for trust domain {X}" in line for line in theirs.lines()):
                assert not await reaches(theirs), "before the bundles are exchanged"

        y = theirs.mesh
        assert isinstance(y, TownMesh)
        await town.exchange(x, y)
        await until_reached(ours, theirs)
        seen = [f'src.identity="spiffe://{domain}/ns/a/sa/s"' for domain in (X, Y)]
        await x.until(lambda: all(any(one in line for line in server.lines()) for one in seen))

        x.allow("shop", f"{X}/ns/a/sa/s")
        await until_refused(theirs)
        assert await reaches(ours)
        x.allow("shop", f"{Y}/ns/a/sa/s")
        await until_refused(ours)
        assert await reaches(theirs)


async def test_removing_the_bundle_of_a_trust_domain_cuts_its_tunnels_and_nobody_elses(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.91.1") as app:
        x = await town.mesh(X)
        server = await x.node("shop/cart", "127.0.91.1")
        ours = await x.node("a/s", "127.0.91.2", to=str(app.address))
        of_y = await neighbour(town, Y, (x, server, app.port), "127.0.92.1")
        of_z = await neighbour(town, Z, (x, server, app.port), "127.0.93.1")
        y, z = of_y.mesh, of_z.mesh
        assert isinstance(y, TownMesh)
        assert isinstance(z, TownMesh)
        await town.exchange(x, y, z)
        nodes = (ours, of_y, of_z)
        await until_reached(*nodes)
        streams = {node: await node.connect() for node in nodes}
        assert [await talks(tcp) for tcp in streams.values()] == [True, True, True]

        (y.directory / "bundle.json").write_text("{}")  # rubbish is no end
        await x.until(lambda: bool(x.control.federation.problems()))
        assert await talks(streams[of_y])

        await x.change(federation=[{"trust_domain": Z, "bundle": z.bundle_file()}])
        assert await streams[of_y].ending() == "reset", "never a clean end"
        assert await talks(streams[ours])
        assert await talks(streams[of_z])
        assert await reaches(ours)
        assert await reaches(of_z)
        assert not await reaches(of_y)
        said = f"trust domain {Y} of spiffe://{Y}/ns/a/sa/s is trusted no more"
        await x.until(lambda: any(said in line for line in server.lines()))
        for tcp in streams.values():
            tcp.close()
        await x.change(federation=[{"trust_domain": one.trust_domain, "bundle": one.bundle_file()} for one in (y, z)])
        await until_reached(*nodes)


async def test_a_restart_of_the_control_plane_cuts_no_tunnel_of_another_trust_domain(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.91.1") as app:
        x = await town.mesh(X)
        server = await x.node("shop/cart", "127.0.91.1")
        theirs = await neighbour(town, Y, (x, server, app.port), "127.0.92.1")
        y = theirs.mesh
        assert isinstance(y, TownMesh)
        await town.exchange(x, y)
        await until_reached(theirs)
        async with await theirs.connect() as stream:
            assert await talks(stream)
            for mesh in (x, y):
                await mesh.restart()
                await mesh.until_status(lambda status: any(node.current for node in status.nodes))
                assert await talks(stream)
            assert await reaches(theirs)
