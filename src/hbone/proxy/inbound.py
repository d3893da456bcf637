"""Tunnels that other proxies open to the workloads here, and the connections in them.

    accept → TLS (the verified identity is the source) → HTTP/2 → each CONNECT: target → judge → dial → 200 → relay

The order of checks and their statuses are those of ztunnel: malformed 400, not served here 400, denied 401, not
reachable 503; and 200 only when the application's connection is up.
"""

import socket
from dataclasses import dataclass, field, replace
from functools import partial

from hbone.addr import SocketAddress
from hbone.discovery.inbound import Deliver, InboundContext, Served, plan_inbound
from hbone.discovery.outcomes import Refuse
from hbone.errors import ConnectionCut, HboneError, InvalidTarget, NoRoute, PeerViolation, TunnelFailure
from hbone.identity.spiffe import SpiffeId
from hbone.net.dial import Dial, DialOptions
from hbone.net.h2link import H2Link
from hbone.net.relay import StreamRelay
from hbone.net.sockets import local_of, peer_of
from hbone.net.tasks import Tasks
from hbone.net.tls import TlsStream
from hbone.protocol.codes import ErrorCode, StreamViolation
from hbone.protocol.connect import ConnectRequest, parse_request, response_headers
from hbone.protocol.events import Headers
from hbone.protocol.proxyv2 import proxy_header
from hbone.protocol.settings import Role
from hbone.protocol.streams import Stream
from hbone.proxy.identities import Identities
from hbone.proxy.labels import baggage_of
from hbone.proxy.outcome import Outcomes, Parties, connection_view, party_of
from hbone.proxy.registry import Registry
from hbone.proxy.served import LocalWorkloads
from hbone.proxy.tunnel import TunnelParts, next_tunnel_id
from hbone.telemetry.views import ConnectionView, TunnelView
from hbone.times import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundOptions:
    """`dial`: how applications are connected to; `max_handshakes` those in progress at once."""

    dial: DialOptions = field(default_factory=DialOptions)
    max_handshakes: int = 1024
    max_tunnels: int = 65536
    response_baggage: bool = True
    context: InboundContext = field(default_factory=InboundContext)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundParts:
    """What the inbound side works with."""

    tunnels: TunnelParts
    identities: Identities
    local: LocalWorkloads
    outcomes: Outcomes
    registry: Registry
    tasks: Tasks
    options: InboundOptions


class Inbound:
    """The HBONE server of a node. `accept` is a listener's `Accepted`."""

    def __init__(self, parts: InboundParts) -> None:
        self.parts = parts
        self._handshakes = 0
        self._tunnels: set[InboundTunnel] = set()
        self._draining = False

    def accept(self, sock: socket.socket) -> None:
        """Begin with a new connection; its failures end in its own access line."""
        options = self.parts.options
        try:
            peer, local = peer_of(sock), local_of(sock)
        except OSError:
            sock.close()  # gone before we looked
            return
        parties = Parties("inbound", str(peer), str(local))
        if self._handshakes >= options.max_handshakes or len(self._tunnels) >= options.max_tunnels:
            sock.close()
            limit = "max_handshakes" if self._handshakes >= options.max_handshakes else "max_tunnels"
            self.parts.outcomes.refused(parties, TunnelFailure("too many tunnels", why=f"the limit {limit} is reached"))
            return
        self._handshakes += 1
        self.parts.tasks.start(self._serve(sock, peer, local, parties), name="inbound handshake")

    async def _serve(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress, parties: Parties) -> None:
        try:
            tunnel = await self._shake_hands(sock, (peer, local), parties)
        except HboneError as error:
            sock.close()
            self.parts.outcomes.refused(parties, error)
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self._handshakes -= 1
        self._tunnels.add(tunnel)
        tunnel.link.start(tunnel)
        if self._draining:
            tunnel.link.announce_going_away()

    async def _shake_hands(
        self, sock: socket.socket, ends: tuple[SocketAddress, SocketAddress], parties: Parties
    ) -> "InboundTunnel":
        parts = self.parts
        peer, local = ends
        served = parts.local.served_at(local)
        if served is None:
            raise NoRoute(
                f"no workload of this node has the address {local.ip}",
                why="so there is no identity to show",
                fix="add a WorkloadEntry with this address",
            )
        parties.dst = party_of(served.workload, None)
        credentials = await parts.identities.fetch(served.workload.identity)
        deadline = Instant(parts.tunnels.loop.time() + parts.tunnels.handshake_timeout_s)
        tls = await TlsStream.accept(sock, credentials.contexts, deadline=deadline)
        return InboundTunnel(self, parts.tunnels.new_link(tls, Role.SERVER), served, peer, local)

    def gone(self, tunnel: "InboundTunnel") -> None:
        self._tunnels.discard(tunnel)

    def drain(self) -> None:
        """Ask every peer to open its next streams elsewhere; what is open goes on."""
        self._draining = True
        for tunnel in tuple(self._tunnels):
            tunnel.link.announce_going_away()

    def finish_drain(self) -> None:
        """Take no more streams; tunnels close when their last one ends."""
        for tunnel in tuple(self._tunnels):
            tunnel.draining = True
            tunnel.link.go_away()

    def close(self) -> None:
        for tunnel in tuple(self._tunnels):
            tunnel.link.lost(TunnelFailure("the tunnel was closed", why="this proxy shut down"))

    def tunnels(self) -> tuple[TunnelView, ...]:
        return tuple(tunnel.view() for tunnel in self._tunnels)


class InboundTunnel:
    """Server side of one tunnel: makes a stream of each CONNECT."""

    __slots__ = ("_inbound", "_opened", "draining", "id", "link", "local", "peer", "served", "source")

    def __init__(
        self, inbound: Inbound, link: H2Link, served: Served, peer: SocketAddress, local: SocketAddress
    ) -> None:
        self._inbound = inbound
        self._opened: Instant = inbound.parts.tunnels.link.clock.now()
        self.id = next_tunnel_id()
        self.link = link
        self.served = served
        self.source: SpiffeId = link.tls.peer
        self.peer = peer
        self.local = local
        self.draining = False

    def on_ready(self) -> None:
        """The client's SETTINGS."""

    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        connection = InboundStream(self._inbound.parts, self, stream)
        stream.owner = connection
        connection.begin(headers)
        if end_stream:
            connection.on_end()

    def on_refused(self, error: StreamViolation) -> None:
        """A request that never became a stream: HTTP/2 itself has answered it."""
        parties = Parties("inbound", str(self.peer), str(self.local), party_of(None, self.source))
        self._inbound.parts.outcomes.refused(parties, error)

    def on_going_away(self, last_stream_id: int) -> None:
        del last_stream_id
        self.on_slot_free()

    def on_slot_free(self) -> None:
        if (self.draining or self.link.connection.peer_going_away) and not self.link.connection.streams:
            self.link.go_away()

    def on_closed(self, error: HboneError | None) -> None:
        self._inbound.gone(self)
        if isinstance(error, PeerViolation):
            parties = Parties("inbound", str(self.peer), str(self.local), party_of(None, self.source))
            self._inbound.parts.outcomes.refused(parties, error)

    def view(self) -> TunnelView:
        connection = self.link.connection
        return TunnelView(
            id=self.id,
            direction="inbound",
            local=str(self.local),
            peer=str(self.peer),
            local_identity=str(self.served.workload.identity),
            peer_identity=str(self.source),
            streams=len(connection.streams),
            max_streams=connection.settings.max_concurrent_streams or 0,
            age_s=self._inbound.parts.tunnels.link.clock.now() - self._opened,
            draining=self.draining,
            tls_version=self.link.tls.tls_version,
            cipher=self.link.tls.cipher,
            group=self.link.tls.group,
        )


class InboundStream(StreamRelay):
    """One CONNECT: from its headers to the last byte."""

    __slots__ = ("_dial", "_parties", "_parts", "_request", "_started", "_tunnel")

    def __init__(self, parts: InboundParts, tunnel: InboundTunnel, stream: Stream) -> None:
        super().__init__(parts.tunnels.loop, tunnel.link, stream, self._ended)
        self._parts = parts
        self._tunnel = tunnel
        self._request: ConnectRequest | None = None
        self._dial: Dial | None = None
        self._started: Instant | None = None
        self._parties = Parties("inbound", str(tunnel.peer), str(tunnel.local))

    def begin(self, headers: Headers) -> None:
        """Decide what becomes of the request; everything up to the dial happens at once."""
        parts, tunnel = self._parts, self._tunnel
        source = parts.local.source_at(tunnel.peer.ip)
        self._parties.src = party_of(source, tunnel.source)
        parts.registry.add(self)
        try:
            request = self._request = parse_request(headers)
            deliver = self._target(request)
        except HboneError as error:
            self._answer_failure(error)
            return
        self._parties.dst = party_of(deliver.destination, deliver.destination.identity)
        self._parties.hbone_addr = str(request.authority)
        self._parties.service = deliver.service.hostname if deliver.service is not None else None
        self._parties.mutual_tls = True
        self._started = parts.outcomes.opened(self._parties)
        self._dial = Dial(parts.tunnels.loop, deliver.upstream, parts.options.dial, partial(self._dialled, deliver))
        self._dial.start()

    def _target(self, request: ConnectRequest) -> Deliver:
        """Where to deliver; raises InvalidTarget (400) or NoRoute (503)."""
        parts, tunnel = self._parts, self._tunnel
        context = parts.options.context
        host = request.forwarded.host if request.forwarded is not None else None
        if host is not None:
            context = replace(context, forwarded_host=host)
        plan = plan_inbound(parts.local.directory, (tunnel.served,), tunnel.local, request.authority, context)
        if isinstance(plan, Refuse):
            kind = InvalidTarget if plan.status == 400 else NoRoute
            raise kind(plan.what, why=plan.why, fix=plan.fix, authority=request.authority)
        return plan

    def _dialled(self, deliver: Deliver, sock: socket.socket | None, error: HboneError | None) -> None:
        self._dial = None
        if sock is None:
            self._answer_failure(error or NoRoute(f"no connection to {deliver.upstream}"))
            return
        baggage = baggage_of(deliver.destination) if self._parts.options.response_baggage else None
        self.link.connection.send_headers(self.stream, response_headers(200, baggage), end_stream=False)
        self.link.request_flush()
        if deliver.proxy_header is not None:
            # a fresh socket's buffer takes the header whole
            sock.send(proxy_header(self._tunnel.peer, deliver.proxy_header, self._tunnel.source))
        self.attach(sock)

    def _answer_failure(self, error: HboneError) -> None:
        """A status and the end; what the client still sends is not wanted (RFC 9113 §8.1)."""
        connection = self.link.connection
        if not self.link.closed:
            connection.send_headers(self.stream, response_headers(error.status, None), end_stream=True)
            if self.stream.id in connection.streams:
                connection.reset(self.stream, ErrorCode.NO_ERROR)
            self.link.request_flush()
            self.link.stream_over()
        self._finish(error)

    def cut(self, error: HboneError, code: int = ErrorCode.CANCEL) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        super().cut(error, code)

    def on_reset(self, code: int) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
            self._finish(ConnectionCut("the client gave up before the connection was made", code=code))
            return
        super().on_reset(code)

    def on_link_lost(self, error: HboneError) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        super().on_link_lost(error)

    def _ended(self, error: HboneError | None) -> None:
        self._parts.registry.remove(self)
        if self._started is None:
            self._parts.outcomes.refused(self._parties, error or NoRoute("the connection ended before it began"))
            return
        self._parts.outcomes.ended(
            self._parties, self._started, error, to_server=self.bytes_down, to_client=self.bytes_up
        )

    def view(self) -> ConnectionView:
        return connection_view(
            self._parties, self._started, self._parts.outcomes.now(), (self.bytes_up, self.bytes_down), self._tunnel.id
        )
