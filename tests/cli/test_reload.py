"""Manifests change while traffic runs: what is right is taken, what is wrong changes nothing and is told."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hbone.addr import SocketAddress
from tests.cli.programs import access, connect, exchange, expose, forward, refused, traffic, tunnels_of, up, wait_answer
from tests.support.cafiles import ca_files
from tests.support.commands import Running, Sandbox
from tests.support.targets import TcpServer, echo, greeter

ALONE = ("--ca", "ca")
CART = ("shop/cart", 80)


def manifest(tunnels: SocketAddress) -> str:
    """The workload shop/cart, whose tunnels arrive there, behind the name cart.shop."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: cart, namespace: shop, labels: {{app: cart}}}}
spec:
  address: {tunnels.ip}
  serviceAccount: cart
  ports: {{hbone: {tunnels.port}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: cart, namespace: shop}}
spec:
  hosts: [cart.shop]
  ports: [{{number: 80, name: tcp, protocol: TCP}}]
  resolution: STATIC
  workloadSelector: {{labels: {{app: cart}}}}
"""


def replace(path: Path, text: str) -> None:
    """As editors do: written beside, then renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


@dataclass(frozen=True)
class Alone:
    """An exposed echo, and a forward to it whose mesh is a directory of manifests."""

    forwarded: Running
    address: SocketAddress
    tunnels: SocketAddress
    file: Path


@pytest.fixture
def target() -> Iterator[TcpServer]:
    with echo() as server:
        yield server


@pytest.fixture
def alone(sandbox: Sandbox, target: TcpServer) -> Alone:
    ca_files(sandbox.work / "ca")
    exposed = expose(sandbox, *CART, target.address, *ALONE, "--listen", "127.0.0.5:0")
    tunnels = tunnels_of(exposed)
    file = sandbox.write("mesh/cart.yaml", manifest(tunnels))
    forwarded, address = forward(sandbox, "web/client", "cart.shop:80", *ALONE, "--manifests", "mesh")
    return Alone(forwarded, address, tunnels, file)


def test_forward_and_expose_stand_alone_with_a_ca_and_manifests(alone: Alone) -> None:
    assert exchange(alone.address) == b"ping"
    line = access(alone.forwarded)[0]
    assert line["src.identity"] == "spiffe://cluster.local/ns/web/sa/client"
    assert line["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/cart"


def test_a_peer_whose_ca_is_another_is_refused(sandbox: Sandbox, alone: Alone, target: TcpServer) -> None:
    ca_files(sandbox.work / "other")
    more = ("--ca", "other", "--manifests", "mesh")
    stranger, address = forward(sandbox, "web/client", "cart.shop:80", *more)
    assert refused(address)
    assert "not trusted" in access(stranger)[0]["error"]
    assert target.accepted == 0


def test_a_changed_manifest_moves_new_connections_and_leaves_open_ones(sandbox: Sandbox, alone: Alone) -> None:
    with greeter(b"the new one") as other, connect(alone.address) as held:
        held.sendall(b"one")
        assert held.recv(100) == b"one"
        moved = expose(sandbox, *CART, other.address, *ALONE, "--listen", "127.0.0.6:0")
        replace(alone.file, manifest(tunnels_of(moved)))
        wait_answer(alone.address, b"the new one")
        held.sendall(b"two")
        assert held.recv(100) == b"two"


OTHER = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: other, namespace: shop}
spec: {address: 127.0.0.99}
"""


def test_a_removed_manifest_takes_its_service_away_until_it_is_back(sandbox: Sandbox, alone: Alone) -> None:
    sandbox.write("mesh/other.yaml", OTHER)
    assert exchange(alone.address) == b"ping"
    text = alone.file.read_text()
    alone.file.unlink()
    alone.forwarded.wait_until(lambda: refused(alone.address), "to refuse")
    # Not simply the last line: the program learns of its end before the line about it is written.
    alone.forwarded.wait_for("\taccess\t", "no service or workload for hostname: cart.shop")
    replace(alone.file, text)
    wait_answer(alone.address, b"ping")


def test_a_directory_that_is_emptied_does_not_take_the_mesh_down(alone: Alone) -> None:
    with traffic(alone.address):
        alone.file.unlink()
        line = alone.forwarded.wait_for("manifest not taken", "nothing is left here")
        assert "put the files back" in line


def test_an_added_file_is_taken_beside_the_others(sandbox: Sandbox, alone: Alone) -> None:
    with greeter(b"another") as other:
        exposed = expose(sandbox, "shop/pay", 443, other.address, *ALONE, "--listen", "127.0.0.7:0")
        _, address = forward(sandbox, "web/client", "pay.shop:443", *ALONE, "--manifests", "mesh")
        assert refused(address)
        added = manifest(tunnels_of(exposed)).replace("cart", "pay").replace("80", "443")
        sandbox.write("mesh/below/pay.yaml", added)
        wait_answer(address, b"another")
    assert exchange(alone.address) == b"ping"


BROKEN = {
    "not YAML": ("a: [\n", "mesh/cart.yaml:"),
    "a mistake": ("kind: WorkloadEntri\n", "mesh/cart.yaml:1: kind: unknown kind"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest_changes_nothing_is_told_with_file_and_line_once_and_taken_when_right(
    sandbox: Sandbox, alone: Alone, how: str
) -> None:
    text, place = BROKEN[how]
    with traffic(alone.address) as carried:
        replace(alone.file, text)
        assert place in alone.forwarded.wait_for("manifest not taken, the former state stays")
        sandbox.write("mesh/empty.yaml", "")  # read again, and said already
        carried.wait_more(50)
    with greeter(b"the new one") as other:
        moved = expose(sandbox, *CART, other.address, *ALONE, "--listen", "127.0.0.6:0")
        assert exchange(alone.address) == b"ping"
        replace(alone.file, manifest(tunnels_of(moved)))
        wait_answer(alone.address, b"the new one")
    assert len(alone.forwarded.lines("manifest not taken")) == 1


def test_one_broken_file_keeps_all_changes_back(sandbox: Sandbox, alone: Alone) -> None:
    """Half of a configuration is never applied."""
    with greeter(b"the new one") as other:
        moved = expose(sandbox, *CART, other.address, *ALONE, "--listen", "127.0.0.6:0")
        broken = sandbox.write("mesh/broken.yaml", "kind: Nothing\n")
        replace(alone.file, manifest(tunnels_of(moved)))
        alone.forwarded.wait_for("manifest not taken", "mesh/broken.yaml:1")
        assert exchange(alone.address) == b"ping"
        broken.unlink()
        wait_answer(alone.address, b"the new one")


def test_a_mounted_configmap_is_followed_through_its_symlinks(sandbox: Sandbox, target: TcpServer) -> None:
    """The kubelet writes a new hidden directory and swaps the link `..data` to it; the files' links stay."""
    ca_files(sandbox.work / "ca")
    exposed = expose(sandbox, *CART, target.address, *ALONE, "--listen", "127.0.0.5:0")
    sandbox.write("mesh/..1/cart.yaml", manifest(tunnels_of(exposed)))
    mesh = sandbox.work / "mesh"
    (mesh / "..data").symlink_to("..1")
    (mesh / "cart.yaml").symlink_to("..data/cart.yaml")
    forwarded, address = forward(sandbox, "web/client", "cart.shop:80", *ALONE, "--manifests", "mesh")
    assert exchange(address) == b"ping"
    with greeter(b"the new one") as other:
        moved = expose(sandbox, *CART, other.address, *ALONE, "--listen", "127.0.0.6:0")
        sandbox.write("mesh/..2/cart.yaml", manifest(tunnels_of(moved)))
        (mesh / "..data_tmp").symlink_to("..2")
        os.replace(mesh / "..data_tmp", mesh / "..data")  # noqa: PTH105 - as the kubelet does it: rename(2)
        (mesh / "..1/cart.yaml").unlink()
        wait_answer(address, b"the new one")
    assert forwarded.lines("manifest not taken") == []


def test_the_directory_itself_may_go_and_return(sandbox: Sandbox, alone: Alone) -> None:
    mesh, away = sandbox.work / "mesh", sandbox.work / "away"
    mesh.rename(away)
    alone.forwarded.wait_for("manifest not taken", "no such directory")
    assert exchange(alone.address) == b"ping"
    with greeter(b"the new one") as other:
        moved = expose(sandbox, *CART, other.address, *ALONE, "--listen", "127.0.0.6:0")
        replace(away / "cart.yaml", manifest(tunnels_of(moved)))
        away.rename(mesh)
        wait_answer(alone.address, b"the new one")


def test_hbone_up_tells_the_mesh_of_its_manifests_to_all_beside_it(sandbox: Sandbox, target: TcpServer) -> None:
    """The workload is exposed with hbone up's own CA, where no registration says so: the manifest does."""
    sandbox.write("mesh/.keep", "")
    mesh = up(sandbox, "mesh")
    assert "0 workloads, 0 services" in mesh.err
    _, address = forward(sandbox, "web/client", "cart.shop:80")
    assert refused(address)
    with socket.socket() as probe:
        probe.bind(("127.0.0.5", 0))
        tunnels = SocketAddress.of(probe.getsockname())
    expose(sandbox, *CART, target.address, "--ca", str(sandbox.state / "ca"), "--listen", str(tunnels))
    file = sandbox.write("mesh/cart.yaml", f"{manifest(tunnels)}---\n{OTHER}")
    mesh.wait_for("manifests read")
    wait_answer(address, b"ping")
    replace(file, "kind: Nothing\n")
    assert "mesh/cart.yaml:1: kind: unknown kind 'Nothing'" in mesh.wait_for("manifest not taken")
    assert exchange(address) == b"ping"
    replace(file, manifest(tunnels))
    mesh.wait_for("manifests are right again")
    replace(file, OTHER)
    mesh.wait_until(lambda: refused(address), "to have it taken away")
