"""The agent: keeps a node of several workers together, and shows it as one."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

from hbone import __version__
from hbone.app.life import Life
from hbone.app.mesh_metrics import describe_reloads
from hbone.app.options import local_workloads
from hbone.app.parts import NodeParts, subscription_to
from hbone.app.parts import parts_from as node_parts
from hbone.app.place import Place
from hbone.app.policies import policy_views
from hbone.app.run import Stop, calm_collector
from hbone.app.sources import MeshFiles, Protected
from hbone.app.window import Shown, Windows
from hbone.app.workers.choice import worker_count
from hbone.app.workers.crew import Crew
from hbone.app.workers.feed import Feeds, Forwarder, certificates_of
from hbone.app.workers.listening import Listening, with_descriptors
from hbone.app.workers.messages import Begin
from hbone.app.workers.totals import WholeMetrics
from hbone.app.workers.turns import take_turns
from hbone.app.workers.whole import WholeLevels, WholeNode, WholeWindow
from hbone.config.model import NodeSettings
from hbone.control.publish import Mesh
from hbone.control.subscribe import AddressSink, Sink, Subscription
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE, decode
from hbone.discovery.store import Change, Source, Store, Update
from hbone.discovery.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE
from hbone.net.clock import SystemClock
from hbone.net.tasks import Tasks
from hbone.policy.model import Authorization
from hbone.telemetry.log import Logs
from hbone.telemetry.process import describe_process, open_fds
from hbone.telemetry.views import ListenerView, PolicyView, ProcessView
from hbone.values import dataclass

log = logging.getLogger("hbone.node")

TURN: Final = "lines.lock"
LONGEST_PATH_BYTES: Final = 64  # of a base directory: our names inside have to fit into sun_path too


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentParts:
    """What an agent stands on: `meshes` are what workers are told, by source.

    `node`: what a node of one process would stand on; its files and its feed fill meshes, and certificates come from
    its source. Without it, `socket` is that of a control plane in this process, which workers ask themselves.
    """

    meshes: Mapping[Source, Mesh]
    node: NodeParts | None = None
    socket: Path | None = None


def parts_from(settings: NodeSettings, place: Place) -> AgentParts:
    """The parts of a node of its own; raises UsageError, InvalidConfiguration."""
    node = node_parts(settings, place)
    given = {
        Source.XDS: node.endpoint is not None,
        Source.MANIFESTS: settings.manifests is not None,
        Source.LOCAL_FILE: settings.local_xds is not None,
    }
    sources = [source for source, there in given.items() if there] or [Source.XDS]
    return AgentParts(meshes={source: Mesh() for source in sources}, node=node)


class Agent:
    """One node of several processes. `async with` starts it; leaving drains and closes it."""

    def __init__(
        self, settings: NodeSettings, parts: AgentParts, logs: Logs, quit_: Callable[[], None] = lambda: None
    ) -> None:
        """`quit_`: what `POST /quitquitquit` does. Raises UsageError."""
        self.settings = settings
        self.metrics = WholeMetrics()
        self._parts = parts
        self._logs = logs
        self._quit = quit_
        self._clock = SystemClock()
        self._tasks = Tasks("agent")
        self._life = Life(self._clock)
        self._windows = Windows(settings)
        self._directory = Path()
        self._count = worker_count(settings)
        self._listening = Listening(settings, self._count)
        node = parts.node
        self._feeds = None if node is None else Feeds(parts.meshes, certificates_of(node.source), self._clock)
        self._crew = Crew(self._listening, self._count, self._brief, self._clock)
        self._crew.on_end(self.metrics.totals.ended)
        self.store = _directory_of(parts.meshes)
        self._local = local_workloads(settings, self.store)
        files = None if node is None else node.files
        self._files = None if files is None else MeshFiles(files, self._replace)
        describe_process(self.metrics, __version__, logs)
        describe_reloads(self.metrics, self._files)

    async def bind(self) -> None:
        """Read the files and take the ports, or none; raises UsageError. Entering does it, unless it was done."""
        if self._files is not None:
            await self._files.load()
        self._life.bind(self._listening, self._windows)

    def unbind(self) -> None:
        """Give the ports back: for a start that failed."""
        self._life.unbind()

    async def __aenter__(self) -> Self:
        await self._life.begin(self.bind, self._start)
        return self

    async def _start(self, undo: AsyncExitStack) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hbone-", dir=_short_place()))
        undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
        take_turns(self._logs, os.fspath(self._directory / TURN))
        if self._feeds is not None:
            undo.push_async_callback(self._feeds.close)
            await self._feeds.start(self._directory, self._crew.pids)
        undo.push_async_callback(self._tasks.close)
        if self._files is not None:
            self._files.start(self._tasks)
        undo.push_async_exit(await self._windows.serve(self._shown()))
        undo.push_async_callback(self._drain)
        self._tasks.start(self._begin(), name="start")

    async def _begin(self) -> None:
        """Workers are told the mesh only when it is known whole: to half of it they would answer wrongly."""
        subscription = self._subscription()
        if subscription is not None:
            self._life.pending.add("state manager")
            self._tasks.keep(subscription.run, name="discovery")
            await subscription.wait_synced()
            self._life.pending.discard("state manager")
        self._crew.start()
        await self._crew.wait_ready()
        for listener in self._listening.views():
            log.info("listening", extra={"listener": listener.name, "address": listener.address})
        calm_collector()
        log.info("ready", extra={"pid": os.getpid(), "workers": self._count})

    async def __aexit__(self, *_: object) -> None:
        self._life.draining = True
        await self._life.end()

    async def _drain(self) -> None:
        await self._crew.drain(self.settings.timeouts.drain_deadline_s)

    def _brief(self, number: int, descriptors: Mapping[str, int]) -> Begin:
        feeds = {source.name: os.fspath(path) for source, path in self._sockets().items()}
        balancing = self._listening.balancing
        settings = with_descriptors(self.settings, descriptors).model_copy(update={"workers": 1})
        return Begin(
            number=number,
            settings=settings.model_dump(mode="json"),
            feeds=feeds,
            directory=os.fspath(self._directory),
            turn=os.fspath(self._directory / TURN),
            levels=self._logs.levels,
            balance=None if balancing is None else balancing.handed(number),
        )

    # --- the mesh -------------------------------------------------------------------------------------------

    def _replace(self, source: Source, loaded: Protected) -> None:
        mesh = self._parts.meshes[source]
        mesh.set_policies(loaded.policies)  # first: what they protect must not come before them
        mesh.replace_all(source, loaded.state)

    def _apply(self, update: Update) -> object:
        return self._parts.meshes[Source.XDS].apply(update, Source.XDS)

    def _subscription(self) -> Subscription | None:
        """To the control plane above, if there is one; all that it tells goes on to the workers."""
        node = self._parts.node
        if node is None or self._feeds is None or node.endpoint is None:
            return None
        feed = self._feeds.feed(Source.XDS)
        sinks: dict[str, Sink] = {
            TRUST_BUNDLE_TYPE: Forwarder(feed, TRUST_BUNDLE_TYPE, decode),
            AUTHORIZATION_TYPE: Forwarder(feed, AUTHORIZATION_TYPE),
            ADDRESS_TYPE: AddressSink(self._apply),
        }
        return subscription_to(node.endpoint, sinks, self.settings, node)

    def _sockets(self) -> Mapping[Source, Path]:
        """Where workers ask."""
        if self._feeds is not None:
            return self._feeds.paths
        assert self._parts.socket is not None  # noqa: S101 -- one of the two is there
        return {Source.XDS: self._parts.socket}

    # --- what is shown --------------------------------------------------------------------------------------

    def _policies(self) -> list[PolicyView]:
        """Of all sources; of two with one name the stronger source's holds, as in the workers."""
        merged = {key: policy for source in sorted(self._parts.meshes) for key, policy in self._of(source).items()}
        return policy_views(merged[key] for key in sorted(merged))

    def _of(self, source: Source) -> Mapping[str, Authorization]:
        return self._parts.meshes[source].policies

    def _shown(self) -> Shown:
        node = WholeNode(
            settings=self.settings,
            crew=self._crew,
            metrics=self.metrics,
            store=self.store,
            local=self._local,
            policies=self._policies,
            process=self.process,
            listeners=lambda: (*self._listening.views(), *self._windows.views()),
            quit=self._quit,
        )
        window = WholeWindow(node)
        return Shown(
            source=window,
            levels=WholeLevels(self._logs, self._crew),
            metrics=self.metrics,
            pending=lambda: self.pending,
            before=window.before,
        )

    async def wait_ready(self) -> None:
        """Until every worker takes connections."""
        await self._crew.wait_ready()

    def listeners(self) -> tuple[ListenerView, ...]:
        """Where it takes connections."""
        return self._listening.views()

    @property
    def pending(self) -> tuple[str, ...]:
        """What it still waits for before all of it takes connections."""
        return (*sorted(self._life.pending), *self._crew.pending)

    def process(self) -> ProcessView:
        workers = self._crew.views()
        fds = [count for count in (open_fds(), *(worker.open_fds for worker in workers)) if count is not None]
        listeners, held = self.listeners(), sum(fds) or None
        return self._life.view(pending=self.pending, listeners=listeners, open_fds=held, workers=workers)


def _directory_of(meshes: Mapping[Source, Mesh]) -> Store:
    """One store with all that the workers know: the mesh's own where there is one, else kept in step with all."""
    if len(meshes) == 1:
        return next(iter(meshes.values())).store
    store = Store()
    for source, mesh in meshes.items():
        _follow(store, source, mesh)
    return store


def _follow(store: Store, source: Source, mesh: Mesh) -> None:
    def follow(change: Change) -> None:
        workloads = tuple(one.after for one in change.workloads if one.after is not None)
        services = tuple(one.after for one in change.services if one.after is not None)
        removed = (
            *(one.before.uid for one in change.workloads if one.before is not None and one.after is None),
            *(one.before.key for one in change.services if one.before is not None and one.after is None),
        )
        store.apply(Update(workloads=workloads, services=services, removed=removed), source)

    mesh.on_change(follow)


def _short_place() -> str | None:
    """Where the private directory goes: where the user's sockets are, else where temporary files are; /tmp when the
    names of sockets would become too long there."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if place and len(os.fsencode(place)) <= LONGEST_PATH_BYTES and os.access(place, os.W_OK | os.X_OK):
            return place
    return "/tmp"  # noqa: S108 -- mkdtemp makes a private directory in it


async def run_agent(settings: NodeSettings, place: Place, logs: Logs, stop: Stop) -> int:
    """A node of several workers until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    async with Agent(settings, parts_from(settings, place), logs, stop.set) as agent:
        if agent.pending:
            log.info("waiting", extra={"pid": os.getpid()})
        await stop.wait()
    return 0
