"""`hbone up`: control plane and node in one process, on one machine."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from hbone.app.control import Control
from hbone.app.node import Node
from hbone.app.parts import NodeParts
from hbone.app.place import Place
from hbone.app.reread import ControlFile
from hbone.app.run import Stop, calm_collector
from hbone.app.workers.choice import worker_count
from hbone.config.model import ControlSettings, NodeSettings
from hbone.control.credentials import Credentials
from hbone.control.jwt_mint import OwnJwt
from hbone.control.local_ca import LocalCa
from hbone.discovery.store import Source
from hbone.identity.spiffe import SpiffeId
from hbone.telemetry.log import Logs
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.app.workers.agent import Agent

Say = Callable[[list[str]], None]

log = logging.getLogger("hbone.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """Both halves. `control_file`: where the first came from, to be followed."""

    control: ControlSettings
    node: NodeSettings
    control_file: ControlFile | None = None


class _OwnCa:
    """Certificates from the control plane in this process, which has its CA once it has started (`SvidSource`)."""

    def __init__(self, control: Control, ttl_s: float) -> None:
        self._control = control
        self._ttl_s = ttl_s

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        return await LocalCa(self._control.issuer, ttl_s=self._ttl_s).fetch(spiffe_id)


class Up:
    """`async with` starts the control plane, then the node on it.

    The node's ports are taken first: nothing is written for a mesh that cannot be up.
    """

    def __init__(
        self, settings: UpSettings, place: Place, logs: Logs, quit_: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._logs = logs
        self._quit = quit_
        self.control = Control(settings.control, place)
        self.node: Node | Agent

    async def __aenter__(self) -> Self:
        await self.control.prepare()
        undo = self.control.make_state()  # the node may have its window there
        self.node = self._agent() if worker_count(self._settings.node) > 1 else self._node()
        try:
            await self.node.bind()
        except BaseException:
            undo()
            raise
        try:
            await self.control.__aenter__()
        except BaseException:
            self.node.unbind()
            raise
        try:
            await self.node.__aenter__()
        except BaseException:
            await self.control.__aexit__()
            raise
        return self

    def _node(self) -> Node:
        source = _OwnCa(self.control, self._settings.node.svid_ttl_s)
        mesh = self.control.mesh
        jwt = OwnJwt(lambda: self.control.minter)
        parts = NodeParts(store=mesh.store, source=source, mesh=mesh, trust=lambda: self.control.ca.trust, jwt=jwt)
        return Node(self._settings.node, parts, self._logs, self._quit)

    def _agent(self) -> "Agent":
        """Its workers ask the control plane themselves, which is in the same process as the agent."""
        from hbone.app.workers.agent import Agent, AgentParts

        parts = AgentParts(meshes={Source.XDS: self.control.mesh}, socket=self.control.socket_path)
        return Agent(self._settings.node, parts, self._logs, self._quit)

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.node.__aexit__()
        finally:
            await self.control.__aexit__()

    def summary(self) -> list[str]:
        """What a person at the terminal wants to know now."""
        store = self.control.mesh.store
        workloads, services = len(store.workloads()), len(store.services())
        lines = [
            f"mesh {self._settings.control.trust_domain} is up: {_count(workloads, 'workload')}, "
            f"{_count(services, 'service')}",
            f"  identities from  {self.control.ca_directory}",
            f"  control socket   {self.control.socket_path}",
        ]
        lines += [*self.control.doors.lines(), *self.control.bundles.lines()]
        lines += [f"  {one.name:<15}  {one.address}" for one in self.node.listeners()]
        return [
            *lines,
            "next: `hbone expose --as NS/SA PORT`, `hbone forward --as NS/SA PORT:HOST:PORT`; Ctrl-C ends it",
        ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


async def run_up(settings: UpSettings, place: Place, logs: Logs, stop: Stop, *, say: Say) -> int:
    """Until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    async with Up(settings, place, logs, stop.set) as up:
        if settings.control_file is not None:
            up.control.follow(settings.control_file)
        await stop.unless_set(up.node.wait_ready())
        calm_collector()
        if not stop.is_set:
            say(up.summary())
        await stop.wait()
    return 0
