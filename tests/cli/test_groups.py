"""A VM of a WorkloadGroup: it joins with the group's token, and is in the mesh as long as it is there."""

import signal
import socket
import time
from collections.abc import Callable

import pytest

from hbone.addr import SocketAddress
from tests.cli.programs import exchange, forward, refused, wait_answer
from tests.support.commands import WAIT_LIMIT_S, Running, Sandbox
from tests.support.targets import echo

GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: cart-vms, namespace: shop}
spec:
  metadata: {labels: {app: cart}}
  template: {serviceAccount: cart, weight: 5}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{port: 80, targetPort: 8080}]
"""
OTHER = """
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec: {address: 127.88.0.9, serviceAccount: cart}
"""
GRACE_S = 1.5
RESTART_S = 8.0  # in which a program starts again, also where the processors are busy


@pytest.fixture
def mesh(sandbox: Sandbox) -> Running:
    """A control plane with the group."""
    return with_group(sandbox, GRACE_S)


def with_group(sandbox: Sandbox, grace_s: float) -> Running:
    sandbox.write("mesh/cart.yaml", GROUP)
    env = {"HBONE_GROUP_GRACE_S": str(grace_s)}
    running = sandbox.start("control", "--listen", "127.0.0.1:0", "--manifests", "mesh", env=env)
    running.wait_for("Ctrl-C ends it")
    return running


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Vm:
    """A machine: its own state directory, address, and HBONE port."""

    def __init__(self, sandbox: Sandbox, name: str, ip: str) -> None:
        self._sandbox = sandbox
        self._state = {"HBONE_STATE_DIR": str(sandbox.directory / name)}
        self.ip = ip
        with socket.socket() as probe:
            probe.bind((ip, 0))
            self._inbound = f"{ip}:{probe.getsockname()[1]}"

    def join(self, *arguments: str) -> Running:
        """`hbone join` there, ready."""
        more = ("--address", self.ip, "--inbound", self._inbound)
        running = self._sandbox.start("join", *arguments, *more, env=self._state)
        running.wait_for("is up, a member of the mesh")
        return running


def token(sandbox: Sandbox) -> str:
    return sandbox.run("token", "create", "--group", "shop/cart-vms").expect(0).out.strip()


def answerer(sandbox: Sandbox) -> SocketAddress:
    """Where a program of another workload finds the service."""
    return forward(sandbox, "web/client", "cart.shop.svc.cluster.local:80")[1]


def test_a_vm_serves_its_groups_service_and_is_gone_a_while_after_it_was_lost(sandbox: Sandbox, mesh: Running) -> None:
    with echo() as target:
        vm = Vm(sandbox, "vm-1", "127.88.0.1").join(token(sandbox), "--expose", f"8080:{target.address}")
        address = answerer(sandbox)
        assert exchange(address) == b"ping"
        vm.signal(signal.SIGKILL)
        lost = time.monotonic()
        mesh.wait_for("group member lost", "WorkloadEntry/shop/cart-vms")
        assert refused(address)
        mesh.wait_for("registration ended", "WorkloadEntry/shop/cart-vms")
        assert time.monotonic() - lost >= GRACE_S


@pytest.mark.slow
def test_a_vm_that_restarts_within_the_grace_is_the_same_workload_without_a_token(sandbox: Sandbox) -> None:
    mesh = with_group(sandbox, RESTART_S)
    with echo() as target:
        vm, expose = Vm(sandbox, "vm-1", "127.88.0.2"), ("--expose", f"8080:{target.address}")
        first = vm.join(token(sandbox), *expose)
        address = answerer(sandbox)
        first.signal(signal.SIGKILL)
        mesh.wait_for("group member lost")
        over = time.monotonic() + RESTART_S
        vm.join(*expose)
        wait_answer(address, b"ping")
        assert len(mesh.lines("registered", 'WorkloadEntry/shop/cart-vms"')) == 2
        wait_until(lambda: time.monotonic() > over)
        assert exchange(address) == b"ping", "the grace of the former connection takes nothing away"
        assert mesh.lines("registration ended") == []


def test_of_two_vms_of_a_group_the_one_that_is_there_answers(sandbox: Sandbox, mesh: Running) -> None:
    with echo() as target:
        expose = ("--expose", f"8080:{target.address}")
        vms = [Vm(sandbox, f"vm-{n}", f"127.88.0.{n}").join(token(sandbox), *expose) for n in (3, 4)]
        mesh.wait_for("registered", "WorkloadEntry/shop/cart-vms-2")
        address = answerer(sandbox)
        vms[0].signal(signal.SIGKILL)
        mesh.wait_for("group member lost")
        wait_answer(address, b"ping")
        assert [exchange(address) for _ in range(6)] == [b"ping"] * 6, "an unhealthy endpoint is not chosen"


def test_a_group_that_is_taken_away_takes_its_vms_along_until_it_is_back(sandbox: Sandbox, mesh: Running) -> None:
    with echo() as target:
        Vm(sandbox, "vm-1", "127.88.0.5").join(token(sandbox), "--expose", f"8080:{target.address}")
        address = answerer(sandbox)
        assert exchange(address) == b"ping"
        group, _, service = GROUP.partition("---")
        sandbox.write("mesh/cart.yaml", service + OTHER)
        mesh.wait_for("manifests read")
        wait_until(lambda: refused(address))
        sandbox.write("mesh/cart.yaml", group + "---" + service)
        wait_answer(address, b"ping")


def test_a_token_for_a_group_that_is_not_there_is_refused_with_those_that_are(sandbox: Sandbox, mesh: Running) -> None:
    done = sandbox.run("token", "create", "--group", "shop/cart").expect(1)
    assert "there is no WorkloadGroup shop/cart: there are: shop/cart-vms" in done.err
    done = sandbox.run("token", "create", "--group", "cart-vms").expect(2)
    assert "write NAMESPACE/NAME" in done.err
    assert not mesh.lines("join token created")
