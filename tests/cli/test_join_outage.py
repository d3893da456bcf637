"""A machine that joined starts again while the control plane is away: it serves as before (scenario C3)."""

import json
import socket
import stat

import pytest

from hbone.addr import SocketAddress
from tests.cli.programs import exchange, forward, refused, wait_answer
from tests.support.commands import Running, Sandbox
from tests.support.targets import TcpServer, echo

IP = "127.88.4.1"


class Vm:
    """A machine of its own state directory, and the control plane that it joins."""

    def __init__(self, sandbox: Sandbox, target: TcpServer) -> None:
        self._sandbox = sandbox
        self.state = sandbox.directory / "vm"
        with socket.socket() as probe:
            probe.bind((IP, 0))
            inbound = f"{IP}:{probe.getsockname()[1]}"
        self._more = ("--expose", f"80:{target.address}", "--address", IP, "--inbound", inbound)
        self.control = self._start_control("127.0.0.1:0")
        line = self.control.wait_for("control plane listens", "address=")
        self._address = line.rpartition('address="')[2].rstrip('"')

    def _start_control(self, listen: str) -> Running:
        control = self._sandbox.start("control", "--listen", listen)
        control.wait_for("Ctrl-C ends it")
        return control

    def back(self) -> None:
        """The control plane, where it was."""
        self.control = self._start_control(self._address)

    def token(self, *words: str) -> str:
        return self._sandbox.run("token", "create", *words).expect(0).out.strip()

    def join(self, *arguments: str) -> Running:
        return self._sandbox.start("join", *arguments, *self._more, env={"HBONE_STATE_DIR": str(self.state)})


def up(vm: Vm, *arguments: str) -> Running:
    running = vm.join(*arguments)
    running.wait_for("is up, a member of the mesh")
    return running


def answers(address: SocketAddress) -> bool:
    return not refused(address) and exchange(address) == b"ping"


@pytest.mark.slow
def test_a_machine_that_restarts_while_the_control_plane_is_away_serves_and_registers_again(sandbox: Sandbox) -> None:
    with echo() as target:
        vm = Vm(sandbox, target)
        first = up(vm, vm.token("--as", "shop/cart"))
        known_as = first.wait_for("known as")
        _, address = forward(sandbox, "web/client", "cart.shop:80")
        assert exchange(address) == b"ping"
        vm.control.stop()
        first.stop()
        assert refused(address)
        again = up(vm)
        assert again.wait_for("known as") == known_as
        again.wait_for("registration as it was kept")
        wait_answer(address, b"ping")
        assert vm.control.process.poll() is not None, "it is away all the time"
        kept = [path for path in vm.state.rglob("*") if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
        assert len([path for path in kept if b"PRIVATE KEY" in path.read_bytes()]) == 1
        vm.back()
        again.wait_for("registered again")
        _, later = forward(sandbox, "web/other", "cart.shop:80")
        wait_answer(later, b"ping")
        assert exchange(address) == b"ping"


def test_a_machine_that_is_to_be_something_else_than_before_waits_for_the_control_plane(sandbox: Sandbox) -> None:
    with echo() as target, echo() as other:
        vm = Vm(sandbox, target)
        up(vm, vm.token("--as", "shop/cart")).stop()
        vm.control.stop()
        waiting = vm.join("--expose", f"90:{other.address}")
        waiting.wait_for("control plane not reached")
        vm.back()
        waiting.wait_for("is up, a member of the mesh")


def test_a_machine_with_many_workloads_serves_them_if_it_may_keep_their_keys(sandbox: Sandbox) -> None:
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "c", "namespace": "shop", "labels": {"kubernetes.io/hostname": "vm-7"}},
        "spec": {"address": "127.88.3.1", "serviceAccount": "cart"},
    }
    sandbox.write("mesh/all.yaml", json.dumps(entry))
    control = sandbox.start("control", "--listen", "127.0.0.1:0", "--manifests", "mesh")
    control.wait_for("Ctrl-C ends it")
    cache = sandbox.directory / "cache"
    file = sandbox.write("node.yaml", json.dumps({"cache_dir": str(cache), "attest": [], "forwards": []}))
    token = sandbox.run("token", "create", "--node", "vm-7").expect(0).out.strip()
    env = {"HBONE_STATE_DIR": str(sandbox.directory / "vm")}
    first = sandbox.start("join", token, "--config", str(file), env=env)
    first.wait_for("is up, a member of the mesh")
    first.wait_until((cache / "istio.workload.Address.pb").exists, "to keep the mesh")
    first.stop()
    control.stop()
    again = sandbox.start("join", "--config", str(file), env=env)
    again.wait_for("is up, a member of the mesh")
