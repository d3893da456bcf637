"""`hbone up` with `hbone expose` and `hbone forward` beside it: a mesh on one machine, in three commands."""

import signal
import socket
import time
from collections.abc import Iterator

import pytest

from hbone.app.demo.client import Client
from tests.cli.programs import access, connect, exchange, expose, forward, refused, traffic, up, wait_answer
from tests.support.commands import Sandbox
from tests.support.targets import TcpServer, digester, echo, payload, payload_digest

WEB, CART = "spiffe://cluster.local/ns/web/sa/client", "spiffe://cluster.local/ns/shop/sa/cart"
TO_CART = "cart.shop:80"


@pytest.fixture
def target() -> Iterator[TcpServer]:
    with echo() as server:
        yield server


def test_traffic_flows_under_both_identities_which_both_access_logs_name(sandbox: Sandbox, target: TcpServer) -> None:
    up(sandbox)
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    forwarded, address = forward(sandbox, "web/client", TO_CART)
    assert f"cart.shop.mesh.internal:80 is {target.address}, as {CART}" in exposed.err
    assert f"leads to {TO_CART} as {WEB}" in forwarded.err
    assert exchange(address, b"through the tunnel") == b"through the tunnel"
    for line, direction in ((access(forwarded)[0], "outbound"), (access(exposed)[0], "inbound")):
        assert line["error"] == "", line
        assert (line["src.identity"], line["dst.identity"]) == (WEB, CART)
        assert line["direction"] == direction
        assert {line["bytes_sent"], line["bytes_recv"]} == {"18"}


def test_many_mebibytes_arrive_whole(sandbox: Sandbox) -> None:
    size = 64 << 20
    up(sandbox)
    with digester() as target:
        expose(sandbox, "shop/cart", 80, target.address)
        _, address = forward(sandbox, "web/client", TO_CART)
        with connect(address) as sock:
            for block in payload(size):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100).decode() == payload_digest(size)


def test_a_port_exposed_for_some_is_closed_to_others_and_both_ends_say_why(sandbox: Sandbox, target: TcpServer) -> None:
    up(sandbox)
    exposed = expose(sandbox, "shop/cart", 80, target.address, "--allow", "web/client", "--allow", "ops/probe")
    assert "only for web/client, ops/probe" in exposed.err
    _, allowed = forward(sandbox, "web/client", TO_CART)
    stranger, denied = forward(sandbox, "web/other", TO_CART)
    assert exchange(allowed) == b"ping"
    assert refused(denied)
    assert target.accepted == 1
    line = next(line for line in access(exposed, 2) if line["error"])
    assert line["src.identity"] == "spiffe://cluster.local/ns/web/sa/other"
    assert "only web/client, ops/probe may" in line["error"]
    assert "401" in access(stranger)[0]["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_registration_ends_with_its_process_however_that_ends(
    sandbox: Sandbox, target: TcpServer, number: signal.Signals
) -> None:
    mesh = up(sandbox)
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    forwarded, address = forward(sandbox, "web/client", TO_CART)
    assert exchange(address) == b"ping"
    exposed.signal(number)
    assert exposed.wait().code == {signal.SIGTERM: 0, signal.SIGINT: 0, signal.SIGKILL: -signal.SIGKILL}[number]
    mesh.wait_for("registration ended", "shop/cart")
    assert refused(address)
    gone = ("\taccess\t", "no service or workload for hostname: cart.shop")
    # the forward is told a moment after the mesh's line; until then nobody listens where the service was
    forwarded.wait_until(lambda: refused(address) and bool(forwarded.lines(*gone)), "to know no such service")


def test_a_second_process_of_an_account_gets_a_name_of_its_own_and_takes_nothing_from_the_first(
    sandbox: Sandbox, target: TcpServer
) -> None:
    up(sandbox)
    expose(sandbox, "shop/cart", 80, target.address)
    with echo() as other:
        second = expose(sandbox, "shop/cart", 80, other.address)
        assert f"cart-2.shop.mesh.internal:80 is {other.address}, as {CART}" in second.err
        for name, server in ((TO_CART, target), ("cart-2.shop:80", other)):
            before = server.accepted
            assert exchange(forward(sandbox, "web/client", name)[1]) == b"ping"
            assert server.accepted == before + 1


def test_programs_that_speak_socks_reach_exposed_ports_by_name(sandbox: Sandbox, target: TcpServer) -> None:
    mesh = up(sandbox, "--as", "web/client", "--socks", "127.0.0.1:0")
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    program = Client("127.0.0.1", mesh.address("socks"))
    with program.connect("cart.shop.mesh.internal", 80) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
    assert access(exposed)[0]["src.identity"] == WEB


# --- one after another ------------------------------------------------------------------------------------------


def test_a_second_hbone_up_with_the_same_state_is_refused_and_the_first_goes_on(
    sandbox: Sandbox, target: TcpServer
) -> None:
    up(sandbox)
    expose(sandbox, "shop/cart", 80, target.address)
    _, address = forward(sandbox, "web/client", TO_CART)
    done = sandbox.run("up").expect(2)
    assert "`hbone up` runs already" in done.err
    assert "fix: stop it, or give another --state-dir" in done.err
    assert exchange(address) == b"ping"


def test_another_hbone_up_with_another_state_directory_is_another_mesh(sandbox: Sandbox, target: TcpServer) -> None:
    up(sandbox)
    other = ("--state-dir", str(sandbox.directory / "other"))
    up(sandbox, *other)
    expose(sandbox, "shop/cart", 80, target.address, *other)
    _, address = forward(sandbox, "web/client", TO_CART)
    assert refused(address)
    _, address = forward(sandbox, "web/client", TO_CART, *other)
    assert exchange(address) == b"ping"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_traffic_goes_on_while_hbone_up_is_away_and_all_find_it_again(
    sandbox: Sandbox, target: TcpServer, number: signal.Signals
) -> None:
    mesh = up(sandbox)
    expose(sandbox, "shop/cart", 80, target.address)
    _, address = forward(sandbox, "web/client", TO_CART)
    with traffic(address) as carried:
        mesh.signal(number)
        mesh.wait()
        carried.wait_more(50)
    again = up(sandbox)
    again.wait_for("registered", "shop/cart")
    again.wait_for("registered", "web/client")
    wait_answer(address, b"ping")
    _, newcomer = forward(sandbox, "web/newcomer", TO_CART)
    assert exchange(newcomer) == b"ping"


def test_a_socket_that_a_killed_hbone_up_left_behind_is_no_obstacle(sandbox: Sandbox) -> None:
    first = up(sandbox)
    first.signal(signal.SIGKILL)
    first.wait()
    assert (sandbox.state / "control.sock").is_socket()
    done = sandbox.run("forward", "--as", "web/client", f"0:{TO_CART}").expect(3)
    assert "start `hbone up` first" in done.err
    up(sandbox).stop().expect(0)
    assert not (sandbox.state / "control.sock").exists()


def test_the_ca_is_the_same_after_a_restart(sandbox: Sandbox) -> None:
    up(sandbox).stop().expect(0)
    roots = sandbox.run("bundle", "show", "-o", "pem").expect(0).out
    assert "BEGIN CERTIFICATE" in roots
    up(sandbox).stop().expect(0)
    assert sandbox.run("bundle", "show", "-o", "pem").expect(0).out == roots


# --- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["forward", "expose"])
def test_sigterm_lets_an_open_connection_finish_refuses_new_ones_and_then_ends(
    sandbox: Sandbox, target: TcpServer, ending: str
) -> None:
    up(sandbox)
    exposed = expose(sandbox, "shop/cart", 80, target.address)
    forwarded, address = forward(sandbox, "web/client", TO_CART)
    process = forwarded if ending == "forward" else exposed
    with connect(address) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 3
        while not refused(address):
            assert time.monotonic() < deadline, "new connections are still carried"
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
        assert process.process.poll() is None
        ended = time.monotonic()
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    process.wait().expect(0)
    assert time.monotonic() - ended < 2
    assert access(process)[0]["error"] == ""


def test_a_connection_that_does_not_finish_is_cut_at_the_drain_deadline_by_a_reset(
    sandbox: Sandbox, target: TcpServer
) -> None:
    sandbox.write("node.yaml", "timeouts:\n  drain_deadline_s: 0.5\n")
    mesh = up(sandbox, "--config", "node.yaml", "--as", "web/client", "--socks", "127.0.0.1:0")
    expose(sandbox, "shop/cart", 80, target.address)
    with Client("127.0.0.1", mesh.address("socks")).connect("cart.shop.mesh.internal", 80) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        asked = time.monotonic()
        mesh.signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            sock.recv(100)
    mesh.wait().expect(0)
    assert 0.4 < time.monotonic() - asked < 3
    assert "connections cut at the drain deadline" in mesh.err
    assert "drain" in access(mesh)[0]["error"]


def test_ctrl_c_twice_ends_hbone_up_at_once(sandbox: Sandbox, target: TcpServer) -> None:
    mesh = up(sandbox, "--as", "web/client", "--socks", "127.0.0.1:0")
    expose(sandbox, "shop/cart", 80, target.address)
    with Client("127.0.0.1", mesh.address("socks")).connect("cart.shop.mesh.internal", 80) as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        asked = time.monotonic()
        mesh.interrupt()
        assert sock.recv(0) == b""
        time.sleep(0.3)  # a person at the keyboard
        mesh.interrupt()
        mesh.wait()
    assert time.monotonic() - asked < 2
    assert "Traceback" not in mesh.text
