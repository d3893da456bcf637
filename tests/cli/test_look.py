"""Looking at what runs, and at certificates: `hbone get`, `cert`, `bundle` beside a running `hbone up`."""

import json
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.programs import connect, expose, forward, up
from tests.support.commands import Running, Sandbox
from tests.support.targets import TcpServer, echo

CART = "spiffe://cluster.local/ns/shop/sa/cart"


@pytest.fixture
def target() -> Iterator[TcpServer]:
    with echo() as server:
        yield server


@pytest.fixture
def mesh(sandbox: Sandbox) -> Running:
    """`hbone up` with its window where it is by default."""
    running = sandbox.start("up", env={"HBONE_ADMIN": ""})
    running.wait_for("Ctrl-C ends it")
    return running


def get(sandbox: Sandbox, *arguments: str) -> list[dict[str, Any]]:
    where = ("--state-dir", str(sandbox.state))
    found: list[dict[str, Any]] = json.loads(sandbox.run("get", *arguments, *where, "-o", "json").expect(0).out)
    return found


@pytest.mark.usefixtures("mesh")
def test_get_shows_the_workloads_and_services_of_the_hbone_up_with_that_state_directory(
    sandbox: Sandbox, target: TcpServer
) -> None:
    assert get(sandbox, "workloads") == []
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    (workload,) = get(sandbox, "workloads")
    assert (workload["namespace"], workload["name"], workload["protocol"]) == ("shop", "cart", "HBONE")
    (service,) = get(sandbox, "services")
    assert service["hostname"] == "cart.shop.mesh.internal"
    assert "cart.shop.mesh.internal" in sandbox.run("get", "services", "--state-dir", str(sandbox.state)).expect(0).out
    exposed.stop()
    assert get(sandbox, "workloads") == []


def test_get_shows_a_connection_while_it_is_carried(sandbox: Sandbox, target: TcpServer) -> None:
    window = f"unix:{sandbox.directory}/w.sock"
    sandbox.write(
        "node.yaml",
        "workload: web/client\nlisteners:\n  outbound: off\nforwards:\n- {listen: 127.0.0.1:0, to: cart.shop:80}\n",
    )
    up(sandbox)
    expose(sandbox, "shop/cart", 80, target.address)
    node = sandbox.start("node", "--config", "node.yaml", env={"HBONE_ADMIN": window})
    with connect(node.address("forward 1")) as held:
        held.sendall(b"x")
        assert held.recv(1) == b"x"
        asked = sandbox.run("get", "connections", "--node", window, "-o", "json").expect(0)
        (shown,) = json.loads(asked.out)
        assert CART in json.dumps(shown)
    assert CART in sandbox.run("get", "tunnels", "--node", window, "-o", "json").expect(0).out
    assert "client" in sandbox.run("get", "certificates", "--node", window).expect(0).out


def test_the_window_of_hbone_up_is_open_to_its_owner_alone_and_goes_with_it(sandbox: Sandbox, mesh: Running) -> None:
    window = sandbox.state / "admin.sock"
    assert stat.S_IMODE(window.stat().st_mode) == 0o600
    mesh.stop().expect(0)
    assert not window.exists()
    sandbox.run("get", "workloads", "--state-dir", str(sandbox.state)).expect(3)


def test_nothing_secret_is_shown_or_logged(sandbox: Sandbox, mesh: Running, target: TcpServer) -> None:
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    forwarded, _ = forward(sandbox, "web/client", "cart.shop:80")
    shown = sandbox.run("get", "config", "--state-dir", str(sandbox.state)).expect(0).text
    for text in (shown, mesh.text, exposed.text, forwarded.text):
        assert "PRIVATE KEY" not in text


@pytest.mark.usefixtures("mesh")
def test_a_certificate_issued_beside_hbone_up_is_what_its_peers_accept(sandbox: Sandbox) -> None:
    issued = sandbox.run("cert", "issue", "--as", "shop/cart", "--out", "made").expect(0)
    assert CART in issued.out
    made = sandbox.work / "made"
    assert stat.S_IMODE((made / "key.pem").stat().st_mode) == 0o600
    assert CART in sandbox.run("cert", "show", "made/cert-chain.pem").expect(0).out
    sandbox.write("roots.pem", sandbox.run("bundle", "show", "-o", "pem").expect(0).out)
    verify = ("cert", "verify", "made/cert-chain.pem", "--bundle", "roots.pem", "--as")
    assert "accepted" in sandbox.run(*verify, "shop/cart").expect(0).out
    assert "refused" in sandbox.run(*verify, "shop/other").expect(1).out
