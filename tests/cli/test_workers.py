"""A node of several workers, as real processes: it is one node to whoever looks, and a worker's death is its own."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hbone.addr import SocketAddress
from hbone.admin.client import ask
from hbone.app.workers.balancing import BALANCES
from hbone.bench.ports import Ports
from hbone.bench.procfs import listens
from hbone.config.listen import UnixListen
from tests.support.cafiles import whole_ca
from tests.support.commands import Running, Sandbox

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

MANY = 24  # connections: that none of them reaches one of two workers is 2^-23
LIMIT_S = 20.0
POLL_S = 0.02


class Echo:
    """What the tunnels lead to: gives back what it gets."""

    def __init__(self, host: str) -> None:
        self._listening = socket.create_server((host, 0))
        self.address = SocketAddress.of(self._listening.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    @staticmethod
    def _serve(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            while data := conn.recv(4096):
                conn.sendall(data)

    def close(self) -> None:
        self._listening.close()


class Pair:
    """A server's node and a client's, the latter with two workers and a local port that leads to an echo."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        ip = f"127.{os.getpid() % 250 + 1}.{time.monotonic_ns() % 250 + 1}.1"
        self.echo = Echo(ip)
        self.ip = ip
        self.tunnel = Ports(Random()).free(IPv4Address(ip))
        whole_ca(sandbox.work / "ca")
        self.mesh(self.both)
        self.server = self.node("server", inbound=str(self.tunnel), workers=2)
        self.client = self.start_client()

    def mesh(self, workloads: dict[str, str], policies: tuple[dict[str, Any], ...] = ()) -> None:
        document = {"workloads": [_workload(*one, self.tunnel.port) for one in workloads.items()], "policies": policies}
        new = self.sandbox.write("mesh.new", json.dumps(document))
        new.replace(self.sandbox.work / "mesh.yaml")

    @property
    def both(self) -> dict[str, str]:
        return {"server": self.ip, "client": self.ip[:-1] + "2"}

    def start_client(self, **more: Any) -> Running:
        forwards = [{"listen": "127.0.0.1:0", "to": str(self.echo.address)}]
        client = self.node("client", forwards=forwards, workers=2, **more)
        client.wait_for("\tready\t")
        return client

    def node(self, name: str, *, inbound: str = "off", **more: Any) -> Running:
        settings = {
            "workload": f"{name}/{name}/{name}",
            "ca": str(self.sandbox.work / "ca"),
            "local_xds": str(self.sandbox.work / "mesh.yaml"),
            "listeners": {
                "inbound": inbound, "socks": "off", "admin": f"unix:{self.admin(name)}",
                "readiness": f"unix:{self.admin(name)}.ready", "metrics": f"unix:{self.admin(name)}.metrics",
            },
            **more,
        }  # fmt: skip
        file = self.sandbox.write(f"{name}.yaml", json.dumps(settings))
        node = self.sandbox.start("node", "--config", str(file), env=NOTHING)
        node.wait_for("\tready\t")
        return node

    def admin(self, name: str = "client") -> Path:
        return self.sandbox.directory / f"{name}.admin"

    def get(self, path: str, node: str = "client") -> Any:
        return ask([UnixListen(str(self.admin(node)))], path)

    def metric(self, start: str) -> float:
        """The sum of the client's series whose line begins so."""
        lines = unix_get(f"{self.admin()}.metrics", "/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/process")["workers"]
        return found

    def connect(self) -> socket.socket:
        address = self.client.address("forward 1")
        return socket.create_connection((str(address.ip), address.port), timeout=LIMIT_S)

    def close(self) -> None:
        self.echo.close()


NOTHING = {"HBONE_ADMIN": "", "HBONE_READINESS": "", "HBONE_METRICS": "", "HBONE_SOCKS": "", "HBONE_INBOUND": ""}


def _workload(name: str, ip: str, hbone_port: int) -> dict[str, object]:
    return {
        "uid": f"t//Pod/{name}/{name}", "name": name, "namespace": name, "serviceAccount": name,
        "workloadIps": [ip], "protocol": "HBONE", "hbonePort": hbone_port, "services": {},
    }  # fmt: skip


def unix_get(path: str, what: str, *, method: str = "GET") -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(path)
        sock.sendall(f"{method} {what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    return answer.decode()


def echoes(conn: socket.socket, text: bytes = b"hello") -> bool:
    """Whether the other end still answers."""
    try:
        conn.sendall(text)
        return conn.recv(len(text)) == text
    except OSError:
        return False


def answered(pair: Pair) -> bool:
    """Whether a new connection gets through; one that is refused may be reset before it is known to us."""
    try:
        with pair.connect() as conn:
            return echoes(conn)
    except ConnectionResetError:
        return False


def until(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def pair(sandbox: Sandbox) -> Iterator[Pair]:
    with contextlib.closing(Pair(sandbox)) as made:
        yield made


def test_two_workers_are_one_node_to_whoever_looks(pair: Pair) -> None:
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(MANY)]
        assert all(map(echoes, conns))
        connections = pair.get("/connections")
        assert len(connections) == MANY
        assert {connection["worker"] for connection in connections} == {1, 2}
        tunnels = pair.get("/tunnels")
        assert sorted(tunnel["worker"] for tunnel in tunnels) == [1, 2]  # one pair of identities: one for each worker
        assert sum(tunnel["streams"] for tunnel in tunnels) == MANY
        certificates = pair.get("/certificates")
        assert [one["worker"] for one in certificates] == [1, 2]
        assert len({one["serial"] for one in certificates}) == 2
        assert len(pair.get("/roots")) == 1
        assert {one["name"] for one in pair.get("/listeners")} == {"forward 1", "admin", "readiness", "metrics"}
        assert len(pair.get("/workloads")) == 2
        assert [one["state"] for one in pair.workers()] == ["ready", "ready"]
        dump = pair.get("/config_dump")
        assert (len(dump["tunnels"]), dump["config"]["workers"]) == (2, 2)
        assert pair.metric("istio_tcp_connections_opened_total{") == MANY
        assert pair.metric("hbone_tunnels_open{") == 2
        assert pair.metric("istio_build") == 1
        assert "200 OK" in unix_get(f"{pair.admin()}.ready", "/healthz/ready")
    until(lambda: len(pair.client.lines("\taccess\t")) == MANY, "an access line for each connection")
    done = pair.client.stop()
    done.expect(0)
    pair.server.stop().expect(0)
    assert list(pair.sandbox.temporary.iterdir()) == []


@pytest.mark.skipif(not BALANCES, reason="needs Linux")
def test_tunnels_and_long_connections_are_spread_evenly(pair: Pair) -> None:
    """Whatever the kernel's hash says: the sum scales with cores."""
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(8)]
        assert all(map(echoes, conns))
        workers = Counter(connection["worker"] for connection in pair.get("/connections"))
        assert max(workers.values()) <= 5
        assert sorted(tunnel["worker"] for tunnel in pair.get("/tunnels")) == [1, 2]
        assert sorted(tunnel["worker"] for tunnel in pair.get("/tunnels", node="server")) == [1, 2]


@pytest.mark.skipif(not BALANCES, reason="needs Linux")
def test_a_worker_that_hangs_takes_its_share_of_new_connections_at_most(pair: Pair) -> None:
    hung, other = pair.workers()
    os.kill(hung["pid"], signal.SIGSTOP)
    with ExitStack() as held:
        for _ in range(MANY):
            held.enter_context(pair.connect())
        until(lambda: len(pair.get("/connections")) >= MANY // 8, "the other worker to carry some")
        assert {one["worker"] for one in pair.get("/connections")} == {other["number"]}
        os.kill(hung["pid"], signal.SIGCONT)
        until(lambda: len(pair.get("/connections")) == MANY, "the rest to be carried too")


def test_a_worker_that_is_killed_is_replaced_and_the_others_connections_go_on(pair: Pair) -> None:
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(MANY)]
        assert all(map(echoes, conns))
        before = pair.metric("istio_tcp_connections_opened_total{")
        by_worker = {one["source"]: one["worker"] for one in pair.get("/connections")}
        victim, other = pair.workers()
        os.kill(victim["pid"], signal.SIGKILL)
        waiting = [held.enter_context(pair.connect()) for _ in range(MANY)]  # some of them in the dead one's queue
        for conn in conns:
            survives = by_worker[str(SocketAddress.of(conn.getsockname()))] == other["number"]
            assert echoes(conn) is survives
        assert all(map(echoes, waiting))
        assert {one["worker"] for one in pair.get("/connections")} == {1, 2}
        now_one, now_two = pair.workers()
        assert now_one["pid"] != victim["pid"]
        assert (now_one["restarts"], now_one["last_end"], now_one["state"]) == (1, "SIGKILL", "ready")
        assert (now_two["restarts"], now_two["pid"]) == (0, other["pid"])
        assert pair.metric("istio_tcp_connections_opened_total{") == before + MANY
    assert "SIGKILL" in pair.client.wait_for("worker ended")


def test_a_node_is_not_ready_while_one_of_its_workers_is_not(pair: Pair) -> None:
    victim = pair.workers()[1]
    os.kill(victim["pid"], signal.SIGKILL)
    until(lambda: "not ready, pending: worker 2" in unix_get(f"{pair.admin()}.ready", "/healthz/ready"), "unready")
    until(lambda: "200 OK" in unix_get(f"{pair.admin()}.ready", "/healthz/ready"), "ready again")


def test_a_worker_that_hangs_does_not_take_the_views_of_the_others(pair: Pair) -> None:
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(MANY)]
        assert all(map(echoes, conns))
        hung = pair.workers()[0]
        os.kill(hung["pid"], signal.SIGSTOP)
        assert {one["worker"] for one in pair.get("/connections")} == {2}
        assert [one["state"] for one in pair.workers()] == ["silent", "ready"]
        os.kill(hung["pid"], signal.SIGCONT)
        until(lambda: {one["worker"] for one in pair.get("/connections")} == {1, 2}, "both again")


def test_workers_end_when_their_agent_is_killed(pair: Pair) -> None:
    pids = [one["pid"] for one in pair.workers()]
    assert all(map(alive, pids))
    pair.client.signal(signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the workers' end")
    pair.server.stop()
    until(lambda: list(pair.sandbox.temporary.iterdir()) == [], "the private directory to go")


def test_a_change_of_the_mesh_reaches_both_workers(pair: Pair) -> None:
    assert pair.get("/workloads/") is not None
    with ExitStack() as held:
        assert all(echoes(held.enter_context(pair.connect())) for _ in range(MANY))
    pair.mesh({"client": pair.ip[:-1] + "2"})  # whoever names one target expects it in the mesh
    until(lambda: len(pair.get("/workloads")) == 1, "the agent to have read it")

    def answers() -> int:
        return sum(map(answered, [pair] * MANY))

    until(lambda: answers() == 0, "no worker to know the server")
    pair.mesh(pair.both)
    until(lambda: answers() == MANY, "both workers to know the server again")


def test_a_policy_is_enforced_by_all_workers_also_on_connections_that_are_open(pair: Pair) -> None:
    callers = {"principals": [{"Exact": "cluster.local/ns/client/sa/client"}]}
    deny = {"name": "no", "namespace": "server", "scope": "Namespace", "action": "Deny", "rules": [[[callers]]]}
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(MANY)]
        assert all(map(echoes, conns))
        pair.mesh(pair.both, (deny,))
        until(lambda: not any(map(echoes, conns)), "all of them to be cut")
    assert not any(map(answered, [pair] * MANY))
    pair.mesh(pair.both)
    until(lambda: all(map(answered, [pair] * MANY)), "all to pass again")


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C", "SIGTERM to all", "quitquitquit"])
def test_all_workers_drain_together_and_a_connection_may_finish(pair: Pair, how: str) -> None:
    with ExitStack() as held:
        conns = [held.enter_context(pair.connect()) for _ in range(MANY)]
        assert all(map(echoes, conns))
        match how:
            case "SIGTERM":
                pair.client.signal(signal.SIGTERM)
            case "Ctrl-C":
                pair.client.interrupt()
            case "SIGTERM to all":
                for pid in pair.client.family():
                    os.kill(pid, signal.SIGTERM)
            case _:
                assert "200 OK" in unix_get(str(pair.admin()), "/quitquitquit", method="POST")
        address = pair.client.address("forward 1")
        until(lambda: not listens(str(address.ip), address.port), "nobody to listen any more")
        assert all(map(echoes, conns))
    done = pair.client.wait()
    done.expect(0)
    assert "worker ended" not in done.text
    assert len(re.findall("connection complete", done.out)) == MANY


def test_ctrl_c_while_the_workers_start_ends_the_node_quietly(sandbox: Sandbox) -> None:
    mesh = sandbox.start("up", env={"HBONE_WORKERS": "2"})
    mesh.wait_for("worker started")
    mesh.interrupt()
    done = mesh.wait()
    done.expect(0)
    assert "error" not in done.text
    assert mesh.family() == []


def test_what_is_not_finished_at_the_deadline_is_cut(sandbox: Sandbox) -> None:
    with contextlib.closing(Pair(sandbox)) as pair:
        pair.client.stop()
        pair.client = pair.start_client(timeouts={"drain_deadline_s": "300ms"})
        with pair.connect() as conn:
            assert echoes(conn)
            began = time.monotonic()
            pair.client.stop().expect(0)
            assert time.monotonic() - began < 3
            with pytest.raises(ConnectionResetError):
                conn.recv(1)


def test_log_levels_are_set_in_all_processes(pair: Pair) -> None:
    assert "access=off" in unix_get(str(pair.admin()), "/logging?level=access=off", method="POST")
    with ExitStack() as held:
        assert all(echoes(held.enter_context(pair.connect())) for _ in range(MANY))
    done = pair.client.stop()
    assert "connection complete" not in done.out


def test_settings_that_no_worker_can_take_end_the_command(sandbox: Sandbox) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        whole_ca(sandbox.work / "ca")
        done = sandbox.run("node", "--ca", "ca", "--workload", "a/b", "--workers", "2", "--socks", f"127.0.0.1:{port}")
    done.expect(2)
    assert f"cannot listen on 127.0.0.1:{port}" in done.err


def test_certificates_and_the_mesh_come_from_a_control_plane_through_the_agent(sandbox: Sandbox) -> None:
    echo = Echo("127.0.0.1")
    with contextlib.closing(echo):
        up = sandbox.start("up", env={"HBONE_WORKERS": "2", "HBONE_SOCKS": "off"})
        up.wait_for("is up:")
        expose = sandbox.start("expose", "--as", "shop/cart", f"80:{echo.address}")
        host = expose.wait_for(" is ").split()[0].rpartition(":")[0]
        node = sandbox.start("node", "--workload", "web/web", "--workers", "2", env={"HBONE_SOCKS": "127.0.0.1:0"})
        node.wait_for("\tready\t")
        audit = [json.loads(line) for line in (sandbox.state / "audit.jsonl").read_text().splitlines()]
        ours = [one for one in audit if str(one.get("spiffe_id")).endswith("/ns/web/sa/web")]
        assert len({one["key_sha256"] for one in ours}) == 2
        assert all(f"(pid {node.pid})" in one["caller"] for one in ours)
        address = node.address("socks")
        with ExitStack() as held:
            for _ in range(MANY):
                conn = held.enter_context(socket.create_connection((str(address.ip), address.port), timeout=LIMIT_S))
                conn.sendall(f"CONNECT {host}:80 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert b"200" in conn.recv(4096)
                assert echoes(conn)
        for running in (node, expose, up):
            running.stop().expect(0)
