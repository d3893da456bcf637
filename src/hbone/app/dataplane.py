"""The data plane of one process, built from its settings: listeners, both directions, pool, drain.

What it needs from outside comes in as `Surroundings`: the mesh (a store that somebody fills) and certificates
(somebody keeps). So the same object serves `hbone node`, `up`, `forward`, `expose`, the demo and the tests.
"""

import asyncio
import random
import socket
from dataclasses import field, replace

from hbone.addr import Authority, SocketAddress
from hbone.app.identities import TlsIdentities
from hbone.app.naming import Naming
from hbone.app.options import (
    app_dial,
    keep_alive,
    local_workloads,
    open_listener,
    pool_policy,
    stand_in,
    tunnel_parts,
)
from hbone.config.listen import Listen, UnixListen
from hbone.config.model import Forward, NodeSettings
from hbone.config.refs import AccountRef
from hbone.discovery.inbound import InboundContext
from hbone.discovery.listeners import NOWHERE, OwnListeners
from hbone.discovery.model import Workload
from hbone.discovery.request import OutboundContext, Unknown
from hbone.discovery.select import Selector
from hbone.discovery.store import Change, Store
from hbone.errors import ConnectionCut, HboneError, NoRoute
from hbone.identity.bundle import TrustBundle
from hbone.net import entry
from hbone.net.balance import Balance
from hbone.net.emptying import wait_empty
from hbone.net.listener import Accepted, Listener
from hbone.net.poller import poller_of, release
from hbone.net.sockets import bound_address, original_destination, peer_of, remove_socket
from hbone.net.tally import Load
from hbone.net.tasks import Tasks
from hbone.proxy.arrivals import InboundOptions, InboundParts
from hbone.proxy.calls import Call, OutboundParts, answer_deadlines
from hbone.proxy.halfclose import HalfCloses
from hbone.proxy.inbound import GOAWAY_GRACE_S, Inbound
from hbone.proxy.judge import Authorize
from hbone.proxy.keepalive import KeepAlives
from hbone.proxy.outbound import Outbound
from hbone.proxy.outcome import Counters, NoCounters, Outcomes
from hbone.proxy.passthrough import InboundPassthrough, PlainParts
from hbone.proxy.pool import Pool
from hbone.proxy.registry import CountedRegistry, Registry
from hbone.proxy.tunnelparts import TunnelParts
from hbone.proxy.tunnelwatch import TunnelWatch, Unwatched
from hbone.telemetry.access import AccessLog
from hbone.telemetry.views import ConnectionView, ListenerView, TunnelView
from hbone.times import Clock, Instant
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a data plane is given."""

    store: Store
    identities: TlsIdentities
    access: AccessLog
    clock: Clock
    counters: Counters = field(default_factory=NoCounters)
    watch: TunnelWatch = field(default_factory=Unwatched)
    authorize: Authorize | None = None
    naming: Naming | None = None
    balance: Balance | None = None


class DataPlane:
    """Listeners and what is behind them. `bind` first (raises UsageError), then `start`, at last `drain`."""

    def __init__(self, settings: NodeSettings, around: Surroundings) -> None:
        self.settings = settings
        self.around = around
        balance = around.balance
        limit = settings.limits.max_connections
        self.registry = Registry(limit) if balance is None else CountedRegistry(limit, balance.holds_connections)
        self._loop = asyncio.get_running_loop()
        self._poller = poller_of(self._loop)
        self._tasks = Tasks("data plane")
        self._listeners: dict[str, Listener] = {}
        self._bound: list[tuple[str, socket.socket, Accepted]] = []
        self._unix: list[str] = []  # paths of ours
        self.local = local_workloads(settings, around.store, around.naming)
        parts = replace(tunnel_parts(settings, around.clock, self._poller), watch=around.watch)
        self.links = parts.link
        half_close_s = settings.timeouts.half_close_timeout_s
        self._half_closes = HalfCloses(self._loop, half_close_s) if half_close_s is not None else None
        probes = keep_alive(settings)
        self._keep_alives = KeepAlives(self._loop, probes) if probes is not None else None
        self._answers = answer_deadlines(self._loop, settings.timeouts.connect_response_timeout_s)
        self.outcomes = Outcomes(around.access, around.counters, around.clock)
        self.pool = Pool(parts, around.identities, pool_policy(settings), self._tasks)
        self._asking = 0  # programs that have not yet said where to
        self._plain = PlainParts(
            poller=self._poller,
            dial=app_dial(settings),
            outcomes=self.outcomes,
            registry=self.registry,
            closing=parts.link.closing,
            half_closes=self._half_closes,
        )
        self.plaintext = InboundPassthrough(self._plain, self.local, NOWHERE, around.authorize)
        self.inbound = Inbound(self._inbound_parts(parts))
        if balance is not None:
            self.inbound.on_count = balance.holds_tunnels
        self.outbound = Outbound(self._outbound_parts())
        around.identities.on_renewed(self.pool.identity_renewed)
        around.identities.on_renewed(self.inbound.identity_renewed)

    # --- building -------------------------------------------------------------------------------------------

    def _inbound_parts(self, tunnels: TunnelParts) -> InboundParts:
        settings = self.settings
        return InboundParts(
            tunnels=tunnels,
            identities=self.around.identities,
            local=self.local,
            outcomes=self.outcomes,
            registry=self.registry,
            tasks=self._tasks,
            options=InboundOptions(
                dial=replace(app_dial(settings), keep_alive=None),
                max_handshakes=settings.limits.max_half_open_handshakes,
                max_tunnels=settings.limits.max_inbound_tunnels,
                response_baggage=settings.response_baggage,
                context=InboundContext(listeners=NOWHERE),
                authorize=self.around.authorize,
            ),
            half_closes=self._half_closes,
            keep_alives=self._keep_alives,
        )

    def _outbound_parts(self) -> OutboundParts:
        rng = random.SystemRandom()
        return OutboundParts(
            poller=self._poller,
            directory=self.around.store,
            selector=Selector(rng),
            pool=self.pool,
            plain=self._plain,
            outcomes=self.outcomes,
            registry=self.registry,
            tasks=self._tasks,
            rng=random.Random(rng.getrandbits(128)),  # noqa: S311 -- for trace ids, which are no secret
            closing=self.links.closing,
            answers=self._answers,
            half_closes=self._half_closes,
            family=socket.AF_UNSPEC if self.settings.ipv6_enabled else socket.AF_INET,
            context=OutboundContext(listeners=NOWHERE, cluster_domain=self.settings.cluster_domain),
        )

    # --- listeners ------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Take all ports, or none: raises UsageError with the remedy."""
        try:
            self._bind_all()
        except BaseException:
            self.unbind()
            raise
        own = OwnListeners(frozenset(at for _, sock, _ in self._bound if (at := bound_address(sock)) is not None))
        self.plaintext.listeners = own
        self.inbound.parts = replace(
            self.inbound.parts,
            options=replace(self.inbound.parts.options, context=InboundContext(listeners=own)),
        )
        self.outbound.parts = replace(self.outbound.parts, context=replace(self.outbound.parts.context, listeners=own))

    def _bind_all(self) -> None:
        listeners = self.settings.listeners
        named: list[tuple[str, Listen | None, Accepted]] = [
            ("inbound", listeners.inbound, self.inbound.accept),
            ("inbound_plaintext", listeners.inbound_plaintext, self.plaintext.accept),
            ("outbound", listeners.outbound, self._accept_captured),
            ("socks", listeners.socks, self._accept_program),
        ]
        for place, forward in enumerate(self.settings.forwards):
            named.append((f"forward {place + 1}", forward.listen, self._acceptor(forward)))
        for name, listen, accepted in named:
            if listen is not None:
                self._bound.append((name, open_listener(listen, setting_of(name)), self._spread(name, accepted)))
                if isinstance(listen, UnixListen):
                    self._unix.append(listen.path)

    def _spread(self, name: str, accepted: Accepted) -> Accepted:
        """Over all workers, where there are more than this process."""
        if self.around.balance is None:
            return accepted
        return self.around.balance.over(accepted, Load.TUNNELS if name == "inbound" else Load.CONNECTIONS)

    def start(self) -> None:
        """Begin to accept on what is bound."""
        probes = keep_alive(self.settings)
        for name, sock, accepted in self._bound:
            keep = None if name == "inbound" else probes
            listener = self._listeners[name] = Listener(self._poller, sock, accepted, name=name, keep_alive=keep)
            listener.start()
        if self.around.balance is not None:
            self.around.balance.start(self._poller)
        self._bound.clear()

    def address(self, name: str) -> SocketAddress:
        """Where a TCP listener really listens; raises KeyError for one that is not open."""
        address = self._listeners[name].address
        assert isinstance(address, SocketAddress)  # noqa: S101 -- callers ask for TCP listeners
        return address

    # --- ways in --------------------------------------------------------------------------------------------

    def _accept_captured(self, sock: socket.socket) -> None:
        """Redirected here on its way out: it knows where it wanted to go."""
        downstream = _peer(sock)
        target = original_destination(sock) or SocketAddress.of(sock.getsockname())
        source = self.local.outbound_source(downstream.ip)
        if source is None:
            self._refuse_stranger(sock, downstream, target)
        else:
            self.outbound.connect(sock, Call(source=source, downstream=downstream, target=target))

    def _acceptor(self, forward: Forward) -> Accepted:
        """For one explicit listener: always the same target."""
        account = forward.account

        def accepted(sock: socket.socket) -> None:
            downstream = _peer(sock)
            source = self.local.outbound_source(downstream.ip) if account is None else self.account_workload(account)
            if source is None:
                self._refuse_stranger(sock, downstream, forward.to)
            else:
                # whoever names one target expects it in the mesh: nothing goes there in clear for want of an entry
                call = Call(source=source, downstream=downstream, target=forward.to, unknown=Unknown.REFUSE)
                self.outbound.connect(sock, call)

        return accepted

    def _accept_program(self, sock: socket.socket) -> None:
        """SOCKS5 or HTTP CONNECT: first it says where to."""
        refusal = self.registry.refusal(self._asking)
        if refusal is None:
            self._asking += 1
            self._tasks.start(self._serve_program(sock), name="program")
        else:
            self.outbound.refuse(sock, str(_peer(sock)), "-", refusal)

    async def _serve_program(self, sock: socket.socket) -> None:
        downstream = _peer(sock)
        deadline = Instant(self._loop.time() + self.settings.timeouts.handshake_timeout_s)
        try:
            wish = await entry.negotiate(self._poller, sock, deadline)
        except HboneError as error:
            self.outbound.refuse(sock, str(downstream), "-", error, entry.TOLD)
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self._asking -= 1
        source = self.local.outbound_source(downstream.ip)
        if source is None:
            self.outbound.refuse(sock, str(downstream), str(wish.target), _stranger(downstream), wish.entry)
            return
        call = Call(source=source, downstream=downstream, target=wish.target, entry=wish.entry)
        self.outbound.connect(sock, call)

    def _refuse_stranger(self, sock: socket.socket, downstream: SocketAddress, target: Authority) -> None:
        self.outbound.refuse(sock, str(downstream), str(target), _stranger(downstream))

    def account_workload(self, account: AccountRef) -> Workload:
        """A workload of an account to speak as: the mesh's first, else one that stands for it."""
        for workload in self.around.store.workloads():
            if (workload.namespace, workload.service_account) == (account.namespace, account.service_account):
                return workload
        return stand_in(self.settings, account, None)

    # --- changes --------------------------------------------------------------------------------------------

    def mesh_changed(self, change: Change) -> None:
        """Tunnels to addresses that changed hands take no more streams."""
        for released in change.released:
            self.pool.retire_peer(released.ip)

    def trust_changed(self, bundle: TrustBundle) -> int:
        """Tunnels of peers that were revoked, or whose trust domain is gone, are cut; how many."""
        return self.pool.judge_again(bundle) + self.inbound.judge_again(bundle)

    # --- the end --------------------------------------------------------------------------------------------

    def unbind(self) -> None:
        """Stop accepting, and give the ports back. Harmless when repeated."""
        if self.around.balance is not None:
            self.around.balance.close()
        for listener in self._listeners.values():
            listener.close()
        for _, sock, _ in self._bound:
            sock.close()
        self._bound.clear()
        for path in self._unix:
            remove_socket(path)
        self._unix.clear()

    async def drain(self, deadline_s: float) -> int:
        """Stop accepting, let what is open finish until the deadline, cut the rest; how many were cut."""
        self.unbind()
        self.inbound.drain()
        self.pool.drain()
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.sleep(min(GOAWAY_GRACE_S, deadline_s / 4))
                self.inbound.finish_drain()
                await wait_empty(self.registry)
                await wait_empty(self.links.open)  # what the last streams wrote may still be in their tunnels
                await self.links.closing.wait_empty()
        except TimeoutError:
            pass
        cut = self.registry.cut_all(ConnectionCut("connection closed due to connection drain"))
        await self._close()
        return cut

    async def _close(self) -> None:
        await asyncio.sleep(0)  # the resets above go out with this turn's flush
        self.inbound.close()
        self.pool.close()
        await self._tasks.close()
        self.links.closing.close()
        self._answers.close()
        if self._keep_alives is not None:
            self._keep_alives.close()
        if self._half_closes is not None:
            self._half_closes.close()
        release(self._poller)

    # --- views ----------------------------------------------------------------------------------------------

    def connections(self) -> tuple[ConnectionView, ...]:
        return self.registry.views()

    def tunnels(self) -> tuple[TunnelView, ...]:
        return tuple(tunnel.view() for tunnel in self.pool.tunnels()) + self.inbound.tunnels()

    def listeners(self) -> tuple[ListenerView, ...]:
        return tuple(ListenerView(name=name, address=str(one.address)) for name, one in self._listeners.items())


def setting_of(listener: str) -> str:
    """The setting that says where a listener is."""
    kind, _, place = listener.partition(" ")
    return f"forwards[{int(place) - 1}].listen" if kind == "forward" else f"listeners.{kind}"


def _peer(sock: socket.socket) -> SocketAddress:
    try:
        return peer_of(sock)
    except OSError:  # it has gone already: the relay will notice
        return SocketAddress.of(("0.0.0.0", 0))


def _stranger(downstream: SocketAddress) -> NoRoute:
    return NoRoute(
        f"no workload of this node connects from {downstream.ip}",
        why="so there is no identity to speak with",
        fix="add a WorkloadEntry with this address, or say whom all programs here speak as: `hbone up --as NS/SA`, "
        "`workload` of a node",
    )
