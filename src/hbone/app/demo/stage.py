"""What the demo plays on: a control plane, two node processes, three applications, and the wire between the nodes.

machine A                                      machine B
web/client   127.10.0.11 ┐                   ┌ shop/api  127.10.0.21  an HTTP server
batch/job    127.10.0.12 ┴ node a ══ wire ══ node b
shop/echo    127.10.0.13, a TCP echo
"""

import asyncio
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from hbone.addr import SocketAddress
from hbone.app.control import Control
from hbone.app.demo.client import Client
from hbone.app.demo.wire import Wire
from hbone.app.demo.workloads import READY
from hbone.app.place import Place
from hbone.config.environment import without_settings
from hbone.config.model import ControlSettings, NodeSettings
from hbone.errors import HboneError
from hbone.net.clock import system_rng
from hbone.net.guard import Guard
from hbone.values import dataclass

CLIENT, JOB, ECHO, API, IMPOSTOR = (f"127.10.0.{n}" for n in (11, 12, 13, 21, 31))
API_HOST, ECHO_HOST, IMPOSTOR_HOST = "api.shop.demo", "echo.shop.demo", "payments.shop.demo"
SVID_TTL_S: Final = 10  # renewed after 5 s: within the demo, and not before its first half
START_LIMIT_S: Final = 15.0
STOP_LIMIT_S: Final = 5.0

T = TypeVar("T")


class StageFailed(HboneError):
    """A part of the demo did not start."""


@dataclass(slots=True)
class Proc:
    """A child process and where it writes."""

    name: str
    process: asyncio.subprocess.Process
    out: Path
    err: Path

    def lines(self) -> list[str]:
        """What it has written so far, whole lines only."""
        return self.out.read_text(errors="replace").split("\n")[:-1]


@dataclass(slots=True)
class Ports:
    """Free ports, found before anything starts."""

    inbound_a: int
    inbound_b: int
    socks: int


@dataclass(slots=True)
class Stage:
    """`async with Stage()` puts everything up; leaving takes everything down."""

    wire: Wire = field(init=False)
    canary: bytes = field(init=False)
    node_a: Proc = field(init=False)
    node_b: Proc = field(init=False)
    control: Control = field(init=False)
    directory: Path = field(init=False)
    ports: Ports = field(init=False)
    api_port: int = field(init=False)
    echo_port: int = field(init=False)
    _wire_port: int = field(init=False)
    _impostor_port: int = field(init=False)
    _guard: Guard = field(init=False)
    _undo: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)
    _direct: bool = False
    _policies: list[str] = field(default_factory=list[str])

    async def __aenter__(self) -> Self:
        try:
            await self._put_up()
        except BaseException:
            await self._undo.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._undo.aclose()

    async def _put_up(self) -> None:
        # the control plane in this process would warn of what the demo does on purpose: the account says it already
        quiet, logger = logging.NullHandler(), logging.getLogger("hbone")
        logger.addHandler(quiet)
        self._undo.callback(logger.removeHandler, quiet)
        enter = self._undo.enter_context
        self.directory = Path(enter(tempfile.TemporaryDirectory(prefix="hbone-demo-")))
        self._guard = enter(Guard(self.directory))
        self.canary = f"canary-{system_rng().getrandbits(128):032x}".encode()
        self.ports = Ports(_free_port(ECHO), _free_port(API), _free_port("127.0.0.1"))
        self.api_port, self.echo_port = await _both(self._application("http", API), self._application("echo", ECHO))
        await self._lay_wires()
        self.mesh_directory.mkdir()
        self._write_mesh()
        self.control = Control(
            ControlSettings(manifests=self.mesh_directory, state_dir=self.directory / "state", svid_ttl_s=SVID_TTL_S),
            Place(environment=dict(os.environ), state_dir=self.directory / "state"),
        )
        await self._undo.enter_async_context(self.control)
        self.node_a, self.node_b = await _both(self._node("a", ECHO), self._node("b", API))

    async def _lay_wires(self) -> None:
        self.wire, impostor = Wire(API, self.canary), Wire(IMPOSTOR, self.canary)
        node_b = SocketAddress.parse(f"{API}:{self.ports.inbound_b}")
        self._wire_port, self._impostor_port = await self.wire.open(), await impostor.open()
        for wire in (self.wire, impostor):
            wire.lead_to(node_b)
            self._undo.push_async_callback(wire.close)

    # --- the mesh -------------------------------------------------------------------------------------------

    @property
    def mesh_directory(self) -> Path:
        return self.directory / "mesh"

    def take_wire_out(self) -> None:
        """Change the manifest: tunnels to shop/api go to its node without the eavesdropper between."""
        self._direct = True
        self._write_mesh()

    def deny_job(self) -> None:
        """Change the manifest: a policy keeps batch/job away from shop/api."""
        self._policies.append(_DENY_JOB)
        self._write_mesh()

    def allow_job(self) -> None:
        """Take the policy away again."""
        self._policies.remove(_DENY_JOB)
        self._write_mesh()

    def _write_mesh(self) -> None:
        api_tunnels = self.ports.inbound_b if self._direct else self._wire_port
        documents = [
            _workload("web", "client", CLIENT, "a", None),
            _workload("batch", "job", JOB, "a", None),
            _workload("shop", "echo", ECHO, "a", self.ports.inbound_a),
            _workload("shop", "api", API, "b", api_tunnels),
            _workload("shop", "payments", IMPOSTOR, "b", self._impostor_port),
            _service("api", API_HOST, 80, self.api_port),
            _service("echo", ECHO_HOST, 7, self.echo_port),
            _service("payments", IMPOSTOR_HOST, 443, self.api_port),
            *self._policies,
        ]
        text = "---\n".join(documents)
        temporary = self.mesh_directory / ".mesh.yaml.new"
        temporary.write_text(text)
        temporary.rename(self.mesh_directory / "mesh.yaml")

    # --- processes ------------------------------------------------------------------------------------------

    async def _application(self, kind: str, ip: str) -> int:
        process = await self._spawn(f"{kind} server", "-m", "hbone.app.demo.workloads", kind, ip, "0")
        line = await self._wait_line(process, READY)
        return int(line.split()[1])

    async def _node(self, name: str, inbound: str) -> Proc:
        port = self.ports.inbound_a if name == "a" else self.ports.inbound_b
        config = self.directory / f"node-{name}.yaml"
        socks = f"127.0.0.1:{self.ports.socks}" if name == "a" else "off"
        config.write_text(
            f"""\
mode: shared
node_name: {name}
control_socket: state/control.sock
svid_ttl_s: {SVID_TTL_S}
listeners:
  inbound: {inbound}:{port}
  socks: {socks}
  admin: off
  readiness: off
  metrics: off
"""
        )
        node = await self._spawn(f"node {name}", "-m", "hbone", "node", "--config", str(config))
        await self._wait_line(node, "listening", error_stream=True)
        return node

    async def _spawn(self, name: str, *arguments: str) -> Proc:
        stem = self.directory / name.replace(" ", "-")
        out, err = stem.with_suffix(".out"), stem.with_suffix(".err")
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                env=without_settings(os.environ, NodeSettings),
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
            )
        self._undo.callback(self._guard.ended, process.pid)
        self._undo.push_async_callback(_stop, process)
        self._guard.lives(process.pid)
        return Proc(name, process, out, err)

    async def _wait_line(self, proc: Proc, word: str, *, error_stream: bool = False) -> str:
        path = proc.err if error_stream else proc.out
        deadline = asyncio.get_running_loop().time() + START_LIMIT_S
        while asyncio.get_running_loop().time() < deadline and proc.process.returncode is None:
            for line in path.read_text(errors="replace").split("\n")[:-1]:
                if word in line:
                    return line
            await asyncio.sleep(0.02)
        said = proc.err.read_text(errors="replace").strip()
        raise StageFailed(f"{proc.name} did not start", why=said[-500:] or "it said nothing", fix="try `hbone doctor`")

    # --- clients --------------------------------------------------------------------------------------------

    @property
    def socks(self) -> SocketAddress:
        return SocketAddress.of(("127.0.0.1", self.ports.socks))

    def client(self) -> Client:
        return Client(CLIENT, self.socks)

    def job(self) -> Client:
        return Client(JOB, self.socks)

    async def wait_access(self, proc: Proc, *words: str, after: int = 0, limit_s: float = 3.0) -> str:
        """The first access line with all `words`, after the first `after` lines; empty if none comes in time."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while True:
            for line in proc.lines()[after:]:
                if all(word in line for word in words):
                    return line
            if asyncio.get_running_loop().time() >= deadline:
                return ""
            await asyncio.sleep(0.02)


async def _both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """What both give; when one fails the other has ended too, so that nothing is put up while all is taken down."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


_DENY_JOB: Final = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-batch-jobs
  namespace: shop
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/batch/sa/job]}}]
"""


def _workload(namespace: str, name: str, ip: str, node: str, hbone_port: int | None) -> str:
    ports = f"\n  ports: {{hbone: {hbone_port}}}" if hbone_port is not None else ""
    return f"""\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {name}}}
spec:
  address: {ip}
  serviceAccount: {name}{ports}
"""


def _service(app: str, host: str, port: int, target: int) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: {app}
  namespace: shop
spec:
  hosts: [{host}]
  ports:
  - {{number: {port}, name: tcp, protocol: TCP, targetPort: {target}}}
  resolution: STATIC
  workloadSelector:
    labels: {{app: {app}}}
"""
