"""The root is rotated in a mesh of real processes, one of which hangs (users' scenario C1)."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hbone.addr import SocketAddress
from tests.cli.programs import Traffic, exchange, traffic
from tests.support.commands import WAIT_LIMIT_S, Running, Sandbox
from tests.support.targets import TcpServer, echo

pytestmark = pytest.mark.slow

TTL_S = 8
STAYS_S = 1.5


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


def free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


class Stage:
    """A control plane and three nodes: a server, and two clients with a way to it."""

    def __init__(self, sandbox: Sandbox, target: TcpServer) -> None:
        self._sandbox = sandbox
        self._ports = {ip: free_port(ip) for ip in ("127.88.1.1", "127.88.1.2", "127.88.1.3")}
        entries = zip(("shop/cart", "web/one", "web/two"), self._ports.items(), strict=True)
        sandbox.write("mesh/all.yaml", "---".join(_entry(account, ip, port) for account, (ip, port) in entries))
        control = sandbox.start("control", "--listen", "off", "--manifests", "mesh")
        control.wait_for("Ctrl-C ends it")
        self.cart = self._node("shop/cart", "127.88.1.1", exposes=[_exposed(target)])
        self.one = self._node("web/one", "127.88.1.2", forwards=[_FORWARD])
        self.two = self._node("web/two", "127.88.1.3", forwards=[_FORWARD])

    def _node(self, account: str, ip: str, **settings: Any) -> Running:
        name = account.partition("/")[2]
        document = {
            "workload": f"{account}-0/{name}",
            "node_name": f"node-{name}",
            "control_socket": str(self._sandbox.state / "control.sock"),
            "svid_ttl_s": TTL_S,
            "listeners": {"inbound": f"{ip}:{self._ports[ip]}"},
            **settings,
        }
        file = self._sandbox.write(f"{name}.yaml", json.dumps(document))
        env = {"HBONE_INBOUND": f"{ip}:{self._ports[ip]}"}
        running = self._sandbox.start("node", "--config", str(file), env=env)
        running.wait_for('listening	listener="inbound"')
        return running

    def rotate(self, *options: str) -> str:
        return self._sandbox.run("ca", "rotate-root", *options).expect(0).out

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._sandbox.run("ca", "status", "-o", "json").expect(0).out)
        return found

    def wait_phase(self, phase: str, *waiting: str) -> dict[str, Any]:
        """Until the rotation is in that phase, and all of `waiting` is among what it waits for."""
        deadline = time.monotonic() + WAIT_LIMIT_S + 2 * TTL_S
        while True:
            status = self.status()
            said = " ".join(status["rotation"]["waiting"])
            if status["rotation"]["phase"] == phase and all(word in said for word in waiting):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.1)


_FORWARD = {"listen": "127.0.0.1:0", "to": "127.88.1.1:8080"}


def _exposed(target: TcpServer) -> dict[str, Any]:
    return {"workload": "shop/cart-0", "port": 8080, "to": str(target.address)}


def _entry(account: str, ip: str, port: int) -> str:
    namespace, _, name = account.partition("/")
    return (
        "\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        f"metadata: {{name: {name}-0, namespace: {namespace}}}\n"
        f"spec: {{address: {ip}, serviceAccount: {name}, ports: {{hbone: {port}}}}}\n"
    )


def roots(status: dict[str, Any]) -> set[str]:
    return {one["root"] for one in status["authorities"] if one["state"] not in {"retired", "removed"}}


def address(node: Running) -> SocketAddress:
    return node.address("forward 1")


@pytest.fixture
def stage(sandbox: Sandbox) -> Iterator[Stage]:
    with echo() as target:
        yield Stage(sandbox, target)


@pytest.fixture
def load(stage: Stage) -> Iterator[Traffic]:
    """One exchange after another all the while; the test fails if one of them failed."""
    assert exchange(address(stage.two)) == b"ping"
    with traffic(address(stage.one)) as carried:
        yield carried


@pytest.mark.timeout(150)
def test_c1_a_node_that_hangs_is_named_and_waited_for_and_the_rotation_ends_when_it_goes_on(
    stage: Stage, load: Traffic
) -> None:
    before = stage.status()
    stage.two.signal(signal.SIGSTOP)
    stage.rotate()
    stage.wait_phase("published", "node-two", "has not acknowledged the new root")
    time.sleep(STAYS_S)
    stage.wait_phase("published", "node-two")
    stage.two.signal(signal.SIGCONT)
    after = stage.wait_phase("none")
    assert not roots(before) & roots(after)
    load.wait_more()
    assert exchange(address(stage.two)) == b"ping"


@pytest.mark.timeout(150)
def test_c1_each_phase_is_taken_back_under_traffic(stage: Stage, load: Traffic) -> None:
    before = stage.status()
    stage.two.signal(signal.SIGSTOP)
    stage.rotate()
    stage.wait_phase("published", "node-two")
    stage.rotate("--back")
    assert stage.wait_phase("prepared")["rotation"]["paused"]
    stage.rotate("--back")
    assert roots(stage.wait_phase("none")) == roots(before)
    load.wait_more()

    stage.rotate()
    stage.wait_phase("published", "node-two")
    stage.two.signal(signal.SIGCONT)
    stage.wait_phase("activated")
    stage.rotate("--back")
    stage.wait_phase("published")
    load.wait_more()
    assert exchange(address(stage.two)) == b"ping"
    stage.rotate()
    assert not roots(stage.wait_phase("none")) & roots(before)
