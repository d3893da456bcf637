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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hbone import __version__
from hbone.app.allow import only
from hbone.app.dataplane import DataPlane, Surroundings
from hbone.app.identities import TlsIdentities
from hbone.app.policies import NodePolicies, PolicySink
from hbone.app.run import Stop, calm_collector
from hbone.app.sources import FileSources, MeshFiles, Protected
from hbone.app.window import NodeWindow, Shown, Windows
from hbone.config.model import NodeSettings
from hbone.config.places import control_socket, state_dir
from hbone.config.refs import AccountRef
from hbone.control import cadir
from hbone.control.credentials import SvidSource
from hbone.control.issue import Issuer
from hbone.control.local_ca import LocalCa
from hbone.control.renew import IdentityKeeper
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Change, Source, Store, Update
from hbone.errors import UsageError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock, system_rng
from hbone.net.tasks import Tasks
from hbone.policy.model import MeshNames
from hbone.proxy.traffic import TrafficCounters, describe_tunnels
from hbone.telemetry.log import Logs
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.process import describe_process, open_fds
from hbone.telemetry.views import ListenerView, ProcessView

if TYPE_CHECKING:
    from hbone.control.channel import Endpoint
    from hbone.control.node_cache import CachingSink, NodeCache
    from hbone.control.publish import Mesh
    from hbone.control.subscribe import Sink, Subscription
    from hbone.control.trust import Trust
    from hbone.control.trust_resource import DomainTrust

log = logging.getLogger("hbone.node")


CACHE_WAIT_S: Final = 1.0  # for the control plane, before a node begins with what it kept from before


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process stands on this machine: its environment, and the state directory that was asked for."""

    environment: dict[str, str]
    state_dir: Path | None = None

    @property
    def state(self) -> Path:
        return state_dir(self.environment, uid=os.getuid(), given=self.state_dir)

    @property
    def control_socket(self) -> Path:
        return control_socket(self.environment, self.state)


def identity_source(settings: NodeSettings, place: Place, holder: str = "") -> tuple[SvidSource, "Endpoint | None"]:
    """Who issues this node's certificates, and the control plane that also tells it the mesh, if there is one.

    `holder`: what the control plane is to know this node by, for one that takes trust bundles under that name.

    A CA directory when one is given, else a control plane on another machine, else the control socket, given or that
    of a running `hbone up`. Raises UsageError when there is none, InvalidConfiguration for a CA that is none.
    """
    clock = SystemClock()
    if settings.ca is not None:
        authority = cadir.load(settings.ca, TrustDomain(settings.trust_domain), clock=clock)
        issuer = Issuer(lambda: authority, clock=clock, rng=system_rng())
        return LocalCa(issuer, ttl_s=settings.svid_ttl_s), None
    remote = _remote_source(settings, place, holder)
    if remote is not None:
        return remote
    socket = settings.control_socket or place.control_socket
    if not socket.exists() and settings.cache_dir is None:  # with a cache it may come back later
        raise UsageError(
            "nobody is there to issue certificates",
            why=f"no CA directory is set, and no `hbone up` listens at {socket}",
            fix="start `hbone up`, or set `ca` to a directory with a CA's files (`--ca DIR`), or `ca_address`",
        )
    # gRPC costs 130 ms to import: a node with a CA directory does without
    from hbone.control.ca_client import CaClient
    from hbone.control.channel import UnixEndpoint

    endpoint = UnixEndpoint(socket)
    return CaClient(endpoint, ttl_s=settings.svid_ttl_s, holder=holder), endpoint


def _remote_source(settings: NodeSettings, place: Place, holder: str) -> "tuple[SvidSource, Endpoint] | None":
    in_cluster = bool(place.environment.get("KUBERNETES_SERVICE_HOST")) and not place.control_socket.exists()
    if settings.ca_address is None and settings.xds_address is None and not in_cluster:
        return None
    from hbone.app.bootstrap import bootstrap
    from hbone.control.ca_client import CaClient

    found = bootstrap(settings, place.environment)
    if found is None:
        return None
    info = settings.workload
    own = info.account.spiffe_id(settings.trust_domain) if info is not None else None
    return CaClient(found.ca, ttl_s=settings.svid_ttl_s, holder=holder, own=own), found.xds


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where the mesh is told, and whose word that counts as."""

    endpoint: "Endpoint"
    source: Source = Source.XDS


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What a node stands on: its store, who issues its certificates, and where changes of the mesh come from.

    `files` are the node's own sources on disk, `endpoint` is a control plane to subscribe to, `mesh` the state of a
    control plane in the same process and `trust` what that has everybody trust; a node has any of these, or none.
    `feeds`: for a worker, what its agent tells in the name of each source.
    `holder`: what the control plane knows this node's certificates by. `on_trust` is told whom to trust from now on.
    """

    store: Store
    source: SvidSource
    endpoint: "Endpoint | None" = None
    feeds: tuple[Feed, ...] = ()
    files: FileSources | None = None
    mesh: "Mesh | None" = None
    trust: "Callable[[], Trust] | None" = None
    holder: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    allow: tuple[AccountRef, ...] = ()
    on_trust: Callable[[TrustBundle], object] = lambda _: None


def parts_from(settings: NodeSettings, place: Place) -> NodeParts:
    """The parts of a node of its own; raises UsageError, InvalidConfiguration."""
    holder = new_holder()
    source, endpoint = identity_source(settings, place, holder)
    defaults = Defaults(trust_domain=settings.trust_domain, network=settings.network, cluster_id=settings.cluster_id)
    names = MeshNames(trust_domain=settings.trust_domain)
    files = FileSources(
        manifests=settings.manifests,
        local_xds=settings.local_xds,
        defaults=defaults,
        names=names,
        allow_empty=settings.allow_empty_mesh,
    )
    return NodeParts(
        store=Store(), source=source, endpoint=endpoint, files=files, holder=holder, environment=place.environment
    )


def new_holder() -> str:
    """A name for one holder of certificates, told to nobody but their CA."""
    return f"{system_rng().getrandbits(96):024x}"


def subscription_to(
    endpoint: "Endpoint", sinks: "Mapping[str, Sink]", settings: NodeSettings, parts: NodeParts
) -> "Subscription":
    """A node's subscription to a control plane."""
    from hbone.app.bootstrap import is_foreign, node_id, node_metadata
    from hbone.control.subscribe import Subscription
    from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
    from hbone.discovery.xds import HOLDER, Interest, NodeInfo

    node = NodeInfo(
        id=node_id(settings, parts.environment),
        metadata={**node_metadata(settings, parts.environment), HOLDER: parts.holder},
    )
    # an istiod does not know our type, and says nothing
    interests = {TRUST_BUNDLE_TYPE: Interest.IF_OFFERED} if is_foreign(endpoint) else None
    return Subscription(endpoint, node, sinks, system_rng(), interests=interests)


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
        self._started = self._clock.now()
        self._started_wall = self._clock.wall()
        self._pending: set[str] = set()
        self._draining = False
        self._bound = False
        self._ready = asyncio.Event()
        self._cache: NodeCache | None = None
        self._kept: list[CachingSink] = []
        self.files = MeshFiles(parts.files, self._replace) if parts.files is not None else None
        self.policies = NodePolicies(self.store, only(parts.allow, settings.trust_domain))
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
        return CachedSource(self._parts.source, self._cache, self._clock)

    async def bind(self) -> None:
        """Read the files and take the ports, or none; raises UsageError. Entering does it, unless it was done."""
        self.keeper = IdentityKeeper(self._source(), self._clock, system_rng())
        identities = self._identities = TlsIdentities(self.keeper, self._clock)
        around = Surroundings(
            store=self.store,
            identities=identities,
            authorize=self.policies.authorize,
            access=self._logs.access,
            clock=self._clock,
            counters=TrafficCounters(self.metrics),
        )
        self.dataplane = DataPlane(self.settings, around)
        describe_tunnels(self.metrics, self.dataplane.tunnels)
        if self.files is not None:
            await self.files.load()
        self.dataplane.bind()
        try:
            self._windows.bind()
        except BaseException:
            self.dataplane.stop_accepting()
            raise
        self._bound = True

    def unbind(self) -> None:
        """Give the ports back: for a start that failed."""
        self._bound = False
        self._windows.close_sockets()
        self.dataplane.stop_accepting()

    async def __aenter__(self) -> Self:
        if not self._bound:
            await self.bind()
        try:
            await self._start()
        except BaseException:
            self.unbind()
            raise
        return self

    async def _start(self) -> None:
        parts = self._parts
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._tasks.close)
            await undo.enter_async_context(self.keeper)
            if self.files is not None:
                self.files.start(self._tasks)
            self.policies.start(self._tasks, self.dataplane.registry)
            if parts.mesh is not None:
                undo.callback(parts.mesh.on_policies(partial(self.policies.replace, Source.MANIFESTS)))
                undo.callback(parts.mesh.on_change(self._mesh_changed))
            if parts.trust is not None:
                trust = parts.trust()
                self._trusted((trust.current,))
                undo.callback(trust.on_change(lambda current: self._trusted((current,))))
            feeds = parts.feeds if parts.endpoint is None else (Feed(endpoint=parts.endpoint), *parts.feeds)
            if feeds:
                self._subscribe(feeds)
            self._prefetch()
            undo.push_async_exit(await self._windows.serve(self._shown()))
            if not self._pending:
                self._begin()
            self._undo = undo.pop_all()

    async def __aexit__(self, *_: object) -> None:
        self._draining = True
        cut = await self.dataplane.drain(self.settings.timeouts.drain_deadline_s)
        if cut:
            log.warning("connections cut at the drain deadline", extra={"connections": cut})
        await self._undo.aclose()

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
        if change.workloads:  # which policies hold for them may be others now
            self.policies.judge_again()

    def _trusted(self, domains: "tuple[DomainTrust, ...]") -> None:
        """In force at once: for new handshakes, for tunnels that are open, and for our own certificates."""
        bundle = TrustBundle(roots={})
        for one in domains:
            bundle = bundle.merged(one.bundle)
        self._identities.trust(bundle)
        self._parts.on_trust(bundle)
        cut = self.dataplane.trust_changed(bundle)
        if cut:
            log.warning("tunnels of revoked peers cut", extra={"tunnels": cut})
        self.keeper.trust_changed(bundle.revocations, frozenset(key for one in domains for key in one.renew))

    def _subscribe(self, feeds: tuple[Feed, ...]) -> None:
        """Nothing is accepted before the mesh is known: an unknown destination would be taken for a foreign one."""
        self._pending.add("state manager")
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

        trust: dict[str, Sink] = {TRUST_BUNDLE_TYPE: TrustSink(self._trusted)} if source is Source.XDS else {}
        sinks: dict[str, Sink] = {
            **trust,
            AUTHORIZATION_TYPE: PolicySink(self.policies, source),
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
            self._tasks.start(sink.run(), name="cache")
        for subscription in subscriptions:
            self._tasks.start(subscription.run(), name="discovery")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CACHE_WAIT_S if kept else None):
                for subscription in subscriptions:
                    await subscription.wait_synced()
        self._pending.discard("state manager")
        self._begin()

    def _prefetch(self) -> None:
        """Certificates of the workloads here are asked for before the first connection needs them."""
        info = self.settings.workload
        if info is not None:
            self.keeper.prefetch(info.account.spiffe_id(TrustDomain(self.settings.trust_domain)))

    # --- views ----------------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Until it takes connections."""
        await self._ready.wait()

    @property
    def pending(self) -> tuple[str, ...]:
        """What it still waits for before it takes connections."""
        return tuple(sorted(self._pending))

    def listeners(self) -> tuple[ListenerView, ...]:
        """Where it takes connections."""
        return self.dataplane.listeners()

    def _shown(self) -> Shown:
        window = NodeWindow(self, self._quit, extra=self._windows.views())
        return Shown(source=window, levels=self._logs, metrics=self.metrics, pending=lambda: self.pending)

    def process(self) -> ProcessView:
        state = "draining" if self._draining else "starting" if self._pending else "ready"
        return ProcessView(
            role="node",
            version=__version__,
            pid=os.getpid(),
            state=state,
            started_at=datetime.fromtimestamp(self._started_wall, UTC).isoformat(timespec="seconds"),
            uptime_s=self._clock.now() - self._started,
            pending=self.pending,
            listeners=self.listeners(),
            open_fds=open_fds(),
        )


async def run_node(settings: NodeSettings, place: Place, logs: Logs, stop: Stop) -> int:
    """A node until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    async with Node(settings, parts_from(settings, place), logs, stop.set) as node:
        calm_collector()
        log.info("waiting" if node.pending else "ready", extra={"pid": os.getpid()})
        await stop.wait()
    return 0
