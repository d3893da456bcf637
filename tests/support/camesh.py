"""A mesh with a real control plane, all in one process: gRPC on the Unix socket, nodes as `hbone node` runs them.

async with CaMesh(tmp_path) as mesh:
    server = await mesh.node("shop/cart", "127.0.2.1")
    client = await mesh.node("web/web", "127.0.2.2", to="127.0.2.1:8080")
    await mesh.admin.rotate_root(…)
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from hbone.addr import SocketAddress, parse_ip
from hbone.app.control import Control
from hbone.app.node import Node
from hbone.app.parts import parts_from
from hbone.app.place import Place
from hbone.config.listen import parse_listen
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.sections import Logging
from hbone.control.admin_client import AdminClient
from hbone.control.channel import UnixEndpoint
from hbone.discovery.model import Protocol, Workload
from hbone.discovery.store import Source, Update
from hbone.proto.admin_pb2 import CaStatusResponse, RotateRootRequest
from hbone.telemetry.log import Logs
from tests.support.tcp import App, Tcp, echo

LIMIT_S = 15.0


class CaMesh:
    """`ttl_s`: lifetime of every certificate. `settings` are the control plane's."""

    def __init__(self, directory: Path, *, ttl_s: float = 3600.0, **settings: Any) -> None:
        self.directory = directory
        self.ttl_s = ttl_s
        self._settings = settings
        self.nodes: list[MeshNode] = []
        self.workloads: list[Workload] = []
        self.control: Control
        self.up = False

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.state / "control.sock")

    @property
    def admin(self) -> AdminClient:
        return AdminClient(self.endpoint)

    async def start(self) -> None:
        place = Place(environment={}, state_dir=self.state)
        self.control = Control(ControlSettings.model_validate({**self._given(), **self._settings}), place)
        await self.control.__aenter__()
        self.up = True
        self._publish()

    async def stop(self) -> None:
        """The control plane alone."""
        self.up = False
        await self.control.__aexit__(None, None, None)

    async def restart(self, **settings: Any) -> None:
        """The control plane alone; with `settings` changed, if any are given."""
        await self.stop()
        self._settings |= settings
        await self.start()

    async def change(self, **settings: Any) -> None:
        """Settings that it takes while it runs; raises InvalidConfiguration."""
        changed = self._settings | settings
        await self.control.change(self.control.settings.model_validate({**self._given(), **changed}))
        self._settings = changed

    def _given(self) -> dict[str, Any]:
        return {"state_dir": self.state, "svid_ttl_s": self.ttl_s}

    @property
    def trust_domain(self) -> str:
        return str(self._settings.get("trust_domain", "cluster.local"))

    def _publish(self) -> None:
        self.control.mesh.apply(Update(workloads=tuple(self.workloads)), Source.REGISTRATIONS)

    async def node(self, account: str, ip: str, *, to: str = "", **settings: Any) -> "MeshNode":
        """A running node, dedicated to NAMESPACE/ACCOUNT and served at `ip`; `to`: where its one forward leads."""
        node = MeshNode(self, account, ip, to, settings)
        await node.start()
        self.nodes.append(node)
        return node

    def place(self, node: "MeshNode") -> None:
        namespace, _, name = node.account.partition("/")
        workload = Workload(
            uid=f"test//Pod/{namespace}/{name}",
            name=name,
            namespace=namespace,
            service_account=name,
            trust_domain=self.trust_domain,
            addresses=(parse_ip(node.ip),),
            protocol=Protocol.HBONE,
            hbone_port=node.node.dataplane.address("inbound").port,
            workload_name=name,
            canonical_name=name,
        )
        self.workloads = [one for one in self.workloads if one.uid != workload.uid] + [workload]
        if self.up:
            self._publish()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():  # noqa: ASYNC110 - of another's making
                await asyncio.sleep(0.01)

    async def until_status(self, condition: Callable[[CaStatusResponse], bool]) -> CaStatusResponse:
        async with asyncio.timeout(LIMIT_S):
            while not condition(status := await self.admin.status()):  # noqa: ASYNC110 - of another's making
                await asyncio.sleep(0.02)
        return status

    async def rotate(self, action: "RotateRootRequest.Action" = RotateRootRequest.FORWARD) -> CaStatusResponse:
        return await self.admin.rotate_root(RotateRootRequest(action=action))

    async def __aenter__(self) -> Self:
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()
        if self.up:
            await self.stop()
        for name, level in self._levels.items():  # each node restores what it found, and not in reverse order
            logging.getLogger(name).setLevel(level)


_LOGGERS = ("", "hbone")


class MeshNode:
    """One `hbone.app.node.Node` and its access log."""

    def __init__(self, mesh: CaMesh, account: str, ip: str, to: str, settings: dict[str, Any]) -> None:
        self.mesh = mesh
        self.account = account
        self.ip = ip
        self._settings = NodeSettings.model_validate(
            {
                "workload": account,
                "trust_domain": mesh.trust_domain,
                "control_socket": mesh.state / "control.sock",
                "svid_ttl_s": mesh.ttl_s,
                "node_name": account.replace("/", "-"),
                "listeners": {
                    "inbound": f"{ip}:0",
                    "socks": "off",
                    "admin": "off",
                    "readiness": "off",
                    "metrics": "off",
                },
                "forwards": [{"listen": "127.0.0.1:0", "to": to}] if to else [],
                "timeouts": {"drain_deadline_s": 0.05},
                **settings,
            }
        )
        self._access = mesh.directory / f"{account.replace('/', '-')}.access"
        self._running = False
        self.node: Node

    def listen_on(self, port: int) -> None:
        """At the next start: where peers know it, when nobody can tell them another port."""
        listeners = self._settings.listeners.model_copy(update={"inbound": parse_listen(f"{self.ip}:{port}")})
        self._settings = self._settings.model_copy(update={"listeners": listeners})

    async def start(self) -> None:
        """A new process, so to say: nothing is remembered but what is on disk."""
        self._fd = os.open(self._access, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._logs = Logs(Logging(), log_fd=2, access_fd=self._fd)
        place = Place(environment={}, state_dir=self.mesh.state)
        self.node = Node(self._settings, parts_from(self._settings, place), self._logs)
        await self.node.__aenter__()
        self._running = True
        async with asyncio.timeout(LIMIT_S):
            await self.node.wait_ready()
        self.mesh.place(self)

    async def stop(self) -> None:
        """Harmless when repeated."""
        if self._running:
            self._running = False
            await self.node.__aexit__(None, None, None)
            await asyncio.to_thread(self._logs.close)
            os.close(self._fd)

    @property
    def forward(self) -> SocketAddress:
        return self.node.dataplane.address("forward 1")

    @property
    def serial(self) -> int:
        """Of the certificate in use."""
        (view,) = self.node.keeper.views()
        assert view.serial is not None
        return view.serial

    def lines(self) -> list[str]:
        return self._access.read_text().splitlines()

    async def connect(self) -> Tcp:
        return await Tcp.connect(self.forward)


class Load:
    """Requests one after the other through a node's forward to an echo server, checked byte for byte."""

    def __init__(self, node: MeshNode) -> None:
        self._node = node
        self.done = 0
        self.failures: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        while True:
            question = os.urandom(2000)
            try:
                async with await self._node.connect() as tcp:
                    await tcp.send(question)
                    answer = await tcp.exactly(len(question))
                if answer != question:
                    self.failures.append(f"{len(answer)} bytes came back")
            except (OSError, TimeoutError) as error:
                self.failures.append(repr(error))
            self.done += 1
            await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def echo_app(ip: str) -> App:
    return App(echo, ip)
