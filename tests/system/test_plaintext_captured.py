"""Plaintext that the kernel redirects to a node on its way to a workload: what policies make of it.

Two machines on a wire: on one a workload with its node, before which everything that comes in is redirected to port
15006 as a CNI does it; on the other its callers, who know of nothing.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from hbone.bench.processes import Processes
from tests.interop.certificates import MeshPki
from tests.support.netns import Namespace, NoNamespaces, redirect_inbound, two_machines
from tests.support.node import Node
from tests.support.targets import TcpServer, echo

pytestmark = [pytest.mark.system, pytest.mark.slow]

CART, FRIEND, FOE = "10.99.0.1", "10.99.0.2", "10.99.0.3"
LIMIT_S = 10.0
PLAINTEXT_PORT, HBONE_PORT = 15006, 15008

WORKLOADS = f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: cart, namespace: shop, labels: {{app: cart}}}}
spec: {{address: {CART}, serviceAccount: cart}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: friend, namespace: web}}
spec: {{address: {FRIEND}, serviceAccount: friend}}
"""
STRICT = "metadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}"
PERMISSIVE = "metadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: PERMISSIVE}}"


def peer(rest: str) -> str:
    return f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n{rest}\n"


def authorization(name: str, spec: str) -> str:
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    return f"{head}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"


@dataclass
class Stage:
    """The workload's machine with its node and two echo servers, and the callers' machine."""

    here: Namespace
    there: Namespace
    directory: Path
    first: TcpServer
    second: TcpServer
    node: Node

    def write(self, *policies: str) -> None:
        """The manifests as they are from now on."""
        new = self.directory / ".new"
        new.write_text("---\n".join((WORKLOADS, *policies)))
        new.replace(self.directory / "mesh.yaml")

    def call(self, server: TcpServer, source: str = FRIEND) -> socket.socket:
        with self.there.entered():
            return socket.create_connection((CART, server.address.port), LIMIT_S, source_address=(source, 0))

    def answered(self, server: TcpServer, source: str = FRIEND) -> bool:
        """Whether a byte comes back; else the connection was reset, and the application never saw it."""
        accepted = server.accepted
        try:
            with self.call(server, source) as caller:
                caller.sendall(b"?")
                if caller.recv(1) == b"?":
                    return True
        except ConnectionResetError:  # as early as out of connect: a node refuses faster than a caller wakes
            assert server.accepted == accepted
            return False
        raise AssertionError("neither an answer nor a reset")


def settings(ca: Path, manifests: Path) -> dict[str, object]:
    off = dict.fromkeys(("outbound", "socks", "admin", "readiness", "metrics"), "off")
    taken = {"inbound": f"0.0.0.0:{HBONE_PORT}", "inbound_plaintext": f"0.0.0.0:{PLAINTEXT_PORT}"}
    return {"mode": "shared", "ca": str(ca), "manifests": str(manifests), "listeners": {**off, **taken}}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    with ExitStack() as undo:
        try:
            here, there = undo.enter_context(two_machines((f"{CART}/24",), (f"{FRIEND}/24", f"{FOE}/24")))
        except NoNamespaces as reason:
            pytest.skip(str(reason))
        processes = undo.enter_context(Processes(tmp_path))
        with here.entered():
            redirect_inbound(PLAINTEXT_PORT, but=(HBONE_PORT,))
            first, second = undo.enter_context(echo(CART)), undo.enter_context(echo(CART))
        node = Node(settings(MeshPki(tmp_path / "pki").directory, manifests), processes)
        yield Stage(here, there, manifests, first, second, node)


def start(stage: Stage, *policies: str) -> None:
    stage.write(*policies)
    with stage.here.entered():
        stage.node.start()


@pytest.mark.parametrize("policies", [(), (peer(PERMISSIVE),)], ids=["without policies", "PERMISSIVE"])
def test_plaintext_is_carried_where_nothing_forbids_it(policies: tuple[str, ...], stage: Stage) -> None:
    start(stage, *policies)
    assert stage.answered(stage.first)
    line = stage.node.only_access()
    assert line.fields["dst.addr"] == str(stage.first.address)
    assert line.fields["dst.workload"] == "cart"
    assert line.fields["src.workload"] == "friend"
    assert "src.identity" not in line.fields
    assert line.error == ""


def test_strict_refuses_plaintext_before_the_application_sees_it(stage: Stage) -> None:
    start(stage, peer(STRICT))
    assert not stage.answered(stage.first)
    line = stage.node.only_access()
    assert "explicitly denied by: istio-system/istio_converted_static_strict" in line.error


def test_a_port_that_is_permissive_takes_plaintext_under_strict_and_the_others_do_not(stage: Stage) -> None:
    ports = f"portLevelMtls: {{{stage.second.address.port}: {{mode: PERMISSIVE}}}}"
    own = f"metadata: {{name: cart, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: cart}}}}, {ports}}}"
    start(stage, peer(STRICT), peer(own))
    assert not stage.answered(stage.first)
    assert stage.answered(stage.second)


def test_ranges_and_ports_hold_for_plaintext(stage: Stage) -> None:
    source, operation = f"{{ipBlocks: [{FRIEND}]}}", f"{{ports: ['{stage.first.address.port}']}}"
    rule = f"{{from: [{{source: {source}}}], to: [{{operation: {operation}}}]}}"
    start(stage, authorization("friends", f"{{rules: [{rule}]}}"))
    assert stage.answered(stage.first, FRIEND)
    assert not stage.answered(stage.first, FOE)
    assert not stage.answered(stage.second, FRIEND)
    denied = stage.node.wait_access(2, lambda line: bool(line.error))
    assert all("allow policies exist, but none allowed" in line.error for line in denied)


def test_a_denied_range_is_denied_and_the_line_names_the_policy(stage: Stage) -> None:
    start(stage, authorization("foes", f"{{action: DENY, rules: [{{from: [{{source: {{ipBlocks: [{FOE}/32]}}}}]}}]}}"))
    assert stage.answered(stage.first, FRIEND)
    assert not stage.answered(stage.first, FOE)
    (line,) = stage.node.wait_access(1, lambda line: bool(line.error))
    assert "explicitly denied by: shop/foes" in line.error


def test_an_address_proves_no_identity(stage: Stage) -> None:
    start(stage, authorization("friends", "{rules: [{from: [{source: {principals: ['*']}}]}]}"))
    assert not stage.answered(stage.first, FRIEND)


def test_an_open_plaintext_connection_is_reset_when_strict_comes(stage: Stage) -> None:
    start(stage)
    with stage.call(stage.first) as caller:
        caller.sendall(b"?")
        assert caller.recv(1) == b"?"
        stage.write(peer(STRICT))
        with pytest.raises(ConnectionResetError):
            caller.recv(1)
    assert "connection closed due to policy change" in stage.node.only_access().error


def test_a_connection_to_the_listener_itself_is_no_loop(stage: Stage) -> None:
    start(stage)
    with (
        stage.there.entered(),
        pytest.raises(ConnectionResetError),  # by the connect, or by what is read
        socket.create_connection((CART, PLAINTEXT_PORT), LIMIT_S) as caller,
    ):
        caller.recv(1)
    assert "recursive call to ourselves" in stage.node.only_access().error
