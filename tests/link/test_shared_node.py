"""A node of many workloads: each is itself, whichever way its connections go."""

import pytest

from tests.support.mesh import Mesh, forward_of
from tests.support.tcp import App, Tcp, echo

CART, WALLET, NOBODY = "127.0.74.1", "127.0.74.2", "127.0.74.3"


async def test_each_workload_behind_one_listener_shows_its_own_certificate_and_no_other() -> None:
    async with Mesh() as mesh, App(echo, CART) as cart, App(echo, WALLET) as wallet:
        shared = await mesh.node(None, "", inbound="0.0.0.0:0")
        port = shared.dataplane.address("inbound").port
        mesh.workload("shop/cart", CART, hbone_port=port)
        mesh.workload("bank/wallet", WALLET, hbone_port=port)
        forwards = [{"to": str(cart.address)}, {"to": str(wallet.address)}]
        caller = await mesh.node("web/web", "127.0.74.9", forwards=forwards)
        for place in (1, 2):
            async with await Tcp.connect(forward_of(caller, place)) as program:
                await program.send(b"hello")
                assert await program.exactly(5) == b"hello"
        shown = {tunnel.peer.partition(":")[0]: tunnel.peer_identity for tunnel in caller.dataplane.tunnels()}
        assert shown == {
            CART: "spiffe://cluster.local/ns/shop/sa/cart",
            WALLET: "spiffe://cluster.local/ns/bank/sa/wallet",
        }


@pytest.mark.parametrize("wrong", [WALLET, NOBODY])
async def test_a_workload_s_certificate_is_not_shown_at_another_s_address(wrong: str) -> None:
    """The mesh says that shop/cart is at an address where something else, or nobody, is: not a byte goes there."""
    async with Mesh() as mesh, App(echo, wrong) as app, Mesh() as theirs:
        theirs.authority = mesh.authority
        shared = await theirs.node(None, "", inbound="0.0.0.0:0")
        theirs.workload("shop/cart", CART)
        theirs.workload("bank/wallet", WALLET)
        mesh.workload("shop/cart", wrong, hbone_port=shared.dataplane.address("inbound").port)
        caller = await mesh.node("web/web", "127.0.74.9", forwards=[{"to": str(app.address)}])
        async with await Tcp.connect(forward_of(caller)) as program:
            await program.send(b"secret")
            assert await program.ending() == "reset"
        assert app.accepted == 0
