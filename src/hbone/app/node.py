"""A node process: settings in, a running data plane out; and its orderly end.

Order of start: read the settings' files, take the ports, find who issues certificates; only when all of that is good
does anything begin to run. Order of the end: stop accepting, drain, cut, close.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from hbone import __version__
from hbone.app.allow import only
from hbone.app.certificates import CERTIFICATES, about_to_end, describe_certificates
from hbone.app.dataplane import DataPlane, Surroundings
from hbone.app.identities import TlsIdentities
from hbone.app.life import Life
from hbone.app.mesh_metrics import describe_mesh, describe_reloads
from hbone.app.naming import Naming
from hbone.app.options import domain_names, mesh_names
from hbone.app.parts import Feed, NodeParts, parts_from, subscription_to
from hbone.app.place import Place
from hbone.app.policies import NodePolicies, PolicySink, describe_policies
from hbone.app.run import Stop, calm_collector
from hbone.app.sources import MeshFiles, Protected
from hbone.app.window import NodeWindow, Shown, Windows
from hbone.config.model import NodeSettings
from hbone.control.credentials import SvidSource
from hbone.control.renew import IdentityKeeper
from hbone.discovery.population import Population
from hbone.discovery.store import Change, Source, Update
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import SystemClock, system_rng
from hbone.net.tasks import Tasks
from hbone.proxy.traffic import TrafficCounters, TunnelCounters, describe_tunnels
from hbone.telemetry.log import Logs
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.process import describe_process, open_fds
from hbone.telemetry.views import ListenerView, ProcessView

if TYPE_CHECKING:
    from hbone.app.processes import NodeProcesses
    from hbone.control.node_cache import CachingSink, NodeCache
    from hbone.control.subscribe import Sink, Subscription
    from hbone.control.trust_resource import DomainTrust

log = logging.getLogger("hbone.node")


CACHE_WAIT_S: Final = 1.0  # for the control plane, before a node begins with what it kept from before


class Node:
    """One node. `async with` builds and starts it; leaving drains and closes it."""

    def __init__(
        self, settings: NodeSettings, parts: NodeParts, logs: Logs, quit_: Callable[[], None] = lambda: None
    ) -> None:
        """`quit_`: what `POST /quitquitquit` does."""
        self.settings = settings
        self.metrics = Metrics()
        self._quit = quit_
        self._windows = Windows(settings)
        self.store = parts.store
        self._parts = parts
        self._logs = logs
        self._clock = SystemClock()
        self._tasks = Tasks("node")
        self._life = Life(self._clock)
        self._ready = asyncio.Event()
        self._cache: NodeCache | None = None
        self._kept: list[CachingSink] = []
        self.files = MeshFiles(parts.files, self._replace) if parts.files is not None else None
        self._naming = Naming(domain_names(settings))
        self.policies = NodePolicies(self.store, only(parts.allow, self._naming), self._clock)
        describe_policies(self.metrics, self.policies.engine)
        describe_mesh(self.metrics, self.store)
        describe_reloads(self.metrics, self.files)
        self._population = Population(self.store.workloads(), node=settings.node_name)
        self._processes: NodeProcesses | None = None
        self.keeper: IdentityKeeper
        self.dataplane: DataPlane
        describe_process(self.metrics, __version__, logs)

    def _source(self) -> SvidSource:
        """Where certificates come from; with a cache behind, if one was asked for."""
        directory = self.settings.cache_dir
        if directory is None or self._parts.endpoint is None:
            return self._parts.source
        from hbone.control.node_cache import CachedSource, NodeCache

        self._cache = NodeCache.open(directory)
        if self._parts.keeps_certificates:
            return self._parts.source
        return CachedSource(self._parts.source, self._cache, self._clock)

    def _for_processes(self) -> "NodeProcesses | None":
        path = self.settings.workload_socket
        if path is None:
            return None
        from hbone.app.processes import NodeProcesses

        return NodeProcesses(self.settings, path, self.keeper, self._clock, self._parts.jwt)

    async def bind(self) -> None:
        """Read the files and take the ports, or none; raises UsageError. Entering does it, unless it was done."""
        self.keeper = IdentityKeeper(self._source(), self._clock, system_rng())
        self._processes = self._for_processes()
        describe_certificates(self.metrics, self.keeper, self._clock)
        identities = self._identities = TlsIdentities(self.keeper, self._clock, naming=self._naming)
        around = Surroundings(
            store=self.store,
            identities=identities,
            authorize=self.policies.authorize,
            access=self._logs.access,
            clock=self._clock,
            counters=TrafficCounters(self.metrics),
            watch=TunnelCounters(self.metrics),
            naming=self._naming,
            balance=self._parts.balance,
        )
        self.dataplane = DataPlane(self.settings, around)
        describe_tunnels(self.metrics, self.dataplane.tunnels)
        if self.files is not None:
            await self.files.load()
        self._life.bind(self.dataplane, self._windows)

    def unbind(self) -> None:
        """Give the ports back: for a start that failed."""
        self._life.unbind()

    async def __aenter__(self) -> Self:
        await self._life.begin(self.bind, self._start)
        return self

    async def _start(self, undo: AsyncExitStack) -> None:
        parts = self._parts
        undo.push_async_callback(self._tasks.close)
        await undo.enter_async_context(self.keeper)
        if self.files is not None:
            self.files.start(self._tasks)
        self.policies.start(self._tasks, self.dataplane.registry)
        if parts.mesh is not None:
            undo.callback(parts.mesh.on_policies(partial(self.policies.replace, Source.MANIFESTS)))
            self._population = Population(self.store.workloads(), node=self.settings.node_name)
            undo.callback(parts.mesh.on_change(self._mesh_changed))
        if parts.trust is not None:
            trust = parts.trust()
            self._trusted(trust.known)
            undo.callback(trust.on_change(lambda _: self._trusted(trust.known)))
        feeds = parts.feeds if parts.endpoint is None else (Feed(endpoint=parts.endpoint), *parts.feeds)
        if feeds:
            self._subscribe(feeds)
        self._prefetch()
        if self._processes is not None:
            await self._processes.open(undo)
        undo.push_async_exit(await self._windows.serve(self._shown()))
        if not self._life.pending:
            self._begin()

    async def __aexit__(self, *_: object) -> None:
        self._life.draining = True
        cut = await self.dataplane.drain(self.settings.timeouts.drain_deadline_s)
        if cut:
            log.warning("connections cut at the drain deadline", extra={"connections": cut})
        await self._life.end()

    def _begin(self) -> None:
        self.dataplane.start()
        self._ready.set()
        for listener in self.dataplane.listeners():
            log.info("listening", extra={"listener": listener.name, "address": listener.address})

    # --- the mesh -------------------------------------------------------------------------------------------

    def _replace(self, source: Source, loaded: Protected) -> None:
        self.policies.replace(source, loaded.policies)  # first: what they protect must not come before them
        self._mesh_changed(self.store.replace_all(source, loaded.state))
        self._prefetch()

    def _apply_from(self, source: Source) -> Callable[[Update], object]:
        def apply(update: Update) -> object:
            change = self.store.apply(update, source)
            self._mesh_changed(change)
            return change

        return apply

    def _mesh_changed(self, change: Change) -> None:
        self.dataplane.mesh_changed(change)
        for identity in self._population.left(change):
            self._forget(identity)
        if change.workloads:  # which policies hold for them may be others now
            self.policies.judge_again()

    def _forget(self, identity: SpiffeId) -> None:
        """Its last workload has left; the key does not stay behind. Should it be needed again, it is asked for."""
        if identity in self.keeper and identity != self._own:
            self._identities.forget(identity)
            if self._cache is not None:
                self._cache.drop_credentials(identity)
            if self._processes is not None:
                self._processes.forgotten(identity)
            log.info("identity forgotten", extra={"identity": str(identity)})

    def _trusted(self, domains: "tuple[DomainTrust, ...]") -> None:
        """In force at once: for new handshakes, for tunnels that are open, and for our own certificates."""
        bundle = self._naming.named(TrustBundle.union(one.bundle for one in domains))
        self._naming.learn(domains)
        self._identities.trust(bundle)
        self._parts.on_trust(bundle)
        cut = self.dataplane.trust_changed(bundle)
        if cut:
            log.warning("tunnels of peers that are trusted no more cut", extra={"tunnels": cut})
        if self._processes is not None:
            self._processes.trusted(domains)
        self.keeper.trust_changed(bundle.revocations, frozenset(key for one in domains for key in one.renew))

    def _subscribe(self, feeds: tuple[Feed, ...]) -> None:
        """Nothing is accepted before the mesh is known: an unknown destination would be taken for a foreign one."""
        self._life.pending.add("state manager")
        subscriptions = [
            subscription_to(feed.endpoint, self._sinks(feed.source), self.settings, self._parts) for feed in feeds
        ]
        self._tasks.start(self._follow(subscriptions), name="discovery")

    def _sinks(self, source: Source) -> "Mapping[str, Sink]":
        """What is taken of one feed; whom to trust is no file's to say."""
        from hbone.control.subscribe import AddressSink
        from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
        from hbone.control.trust_sink import TrustSink
        from hbone.discovery.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE

        names = mesh_names(self.settings) if self.settings.trust_domain_aliases else None
        trust: dict[str, Sink] = {TRUST_BUNDLE_TYPE: TrustSink(self._trusted)} if source is Source.XDS else {}
        sinks: dict[str, Sink] = {
            **trust,
            AUTHORIZATION_TYPE: PolicySink(self.policies, source, names),
            ADDRESS_TYPE: AddressSink(self._apply_from(source)),
        }
        return sinks if source is not Source.XDS else self._kept_on_disk(sinks)

    def _kept_on_disk(self, sinks: "Mapping[str, Sink]") -> "Mapping[str, Sink]":
        """The same, and what they take is kept for the next start, if that was asked for."""
        if self._cache is None:
            return sinks
        from hbone.control.node_cache import CachingSink

        kept = {type_url: CachingSink(type_url, sink, self._cache) for type_url, sink in sinks.items()}
        self._kept.extend(kept.values())
        return kept

    async def _follow(self, subscriptions: "list[Subscription]") -> None:
        """Begin with what was kept from before, if anything was, then keep up with the control plane."""
        kept = 0
        for sink in self._kept:
            versions = await sink.prime()
            kept += len(versions)
            for subscription in subscriptions:
                if subscription.feeds(sink):
                    subscription.resume(sink.type_url, versions)
            self._tasks.keep(sink.run, name="cache")
        for subscription in subscriptions:
            self._tasks.keep(subscription.run, name="discovery")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CACHE_WAIT_S if kept else None):
                for subscription in subscriptions:
                    await subscription.wait_synced()
        self._life.pending.discard("state manager")
        self._begin()

    def _prefetch(self) -> None:
        """Certificates of the workloads here are asked for before the first connection needs them."""
        if self._own is not None:
            self.keeper.prefetch(self._own)

    @property
    def _own(self) -> SpiffeId | None:
        """That of a dedicated node's workload."""
        info = self.settings.workload
        return None if info is None else info.account.spiffe_id(TrustDomain(self.settings.trust_domain))

    # --- views ----------------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Until it takes connections."""
        await self._ready.wait()

    @property
    def pending(self) -> tuple[str, ...]:
        """What it still waits for before it takes connections, or should be sent more."""
        ending = {CERTIFICATES} if about_to_end(self.keeper.views()) else set[str]()
        return tuple(sorted(self._life.pending | ending))

    def listeners(self) -> tuple[ListenerView, ...]:
        """Where it takes connections."""
        return self.dataplane.listeners()

    def _shown(self) -> Shown:
        window = NodeWindow(self, self._quit, extra=self._windows.views())
        return Shown(source=window, levels=self._logs, metrics=self.metrics, pending=lambda: self.pending)

    def process(self) -> ProcessView:
        return self._life.view(pending=self.pending, listeners=self.listeners(), open_fds=open_fds())


async def run_node(settings: NodeSettings, place: Place, logs: Logs, stop: Stop) -> int:
    """A node until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    async with Node(settings, parts_from(settings, place), logs, stop.set) as node:
        calm_collector()
        log.info("waiting" if node.pending else "ready", extra={"pid": os.getpid()})
        await stop.wait()
    return 0
