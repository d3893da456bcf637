"""One outbound connection: from the plan to the last byte.

While nothing has been sent, a failed attempt is followed by the next endpoint. The program's first bytes follow the
CONNECT at once, before its answer (measured: 8 % more new connections per second); they are kept until the answer, so
that a request which the peer provably did not act on (REFUSED_STREAM, RFC 9113 §8.7) can be repeated elsewhere. What
a peer may have acted on is never repeated.
"""

import socket
from functools import partial
from typing import Final

from hbone.addr import IpAddress, text_of
from hbone.discovery.outcomes import Cause, Passthrough, Refuse, Resolve, ThroughTunnel, ThroughWaypoint
from hbone.discovery.plan import plan_outbound
from hbone.discovery.request import OutboundContext
from hbone.errors import ConnectionCut, ConnectRefused, HboneError, NoAnswer, NoRoute, TunnelFailure
from hbone.net.h2link import H2Link
from hbone.net.relay import SMALL_READ, StreamRelay
from hbone.net.sockets import is_own_address
from hbone.protocol.baggage import fresh_traceparent
from hbone.protocol.codes import ErrorCode, code_name
from hbone.protocol.connect import response_status
from hbone.protocol.events import Headers
from hbone.protocol.streams import Stream
from hbone.proxy.calls import Call, OutboundParts
from hbone.proxy.entry import turn_away
from hbone.proxy.outcome import Parties, connection_view, party_of
from hbone.proxy.passthrough import PlainConnection
from hbone.proxy.resolve import look_up
from hbone.proxy.tunnel import Tunnel
from hbone.proxy.ways import Way
from hbone.telemetry.views import ConnectionView
from hbone.times import Instant

EARLY_BYTES: Final = 65_535  # sent before the answer, and kept for a repetition: a stream's first window
MAX_ENDPOINTS: Final = 8  # tried for one connection: behind a service with a thousand dead ones nobody waits for all
MAX_REFUSALS: Final = 8  # attempts on further tunnels after REFUSED_STREAM; a peer that takes none has to be given up


class OutboundStream(StreamRelay):
    """A program's connection, through a tunnel unless it turns out to be a plain one."""

    __slots__ = (
        "_answered",
        "_attempts",
        "_call",
        "_context",
        "_early",
        "_failure",
        "_parties",
        "_parts",
        "_refusals",
        "_started",
        "_traceparent",
        "_tunnel",
        "_waits",
        "_way",
    )

    def __init__(self, parts: OutboundParts, sock: socket.socket, call: Call, context: OutboundContext) -> None:
        super().__init__(parts.poller, _NO_LINK, _NO_STREAM)
        self._parts = parts
        self.sock = sock
        self.fd = sock.fileno()
        self._call = call
        self._context = context
        self._parties = Parties("outbound", str(call.downstream), str(call.target), party_of(call.source, None))
        self._way: Way | None = None
        self._waits = False  # in the pool's queue
        self._failure: HboneError | None = None  # of the attempt before
        self._early: bytearray | None = bytearray()  # None once answered
        self._answered = False
        self._attempts = 0
        self._refusals = 0
        self._tunnel: Tunnel | None = None
        self._traceparent = fresh_traceparent(parts.rng)
        self._started: Instant | None = None

    # --- plan -----------------------------------------------------------------------------------------------

    @property
    def facts(self) -> None:
        """Policy is enforced where a connection arrives, not where it leaves."""
        return

    def begin(self) -> None:
        parts, call = self._parts, self._call
        parts.registry.add(self)
        if self._attempts == 0:
            way = parts.ways.settled(parts.directory.version, call.source, self._context, self._parties.dst_addr)
            if way is not None:
                self._attempts = 1
                self._carry(way)
                return
        self._attempt()

    def _attempt(self) -> None:
        """The next thing to try."""
        parts, call = self._parts, self._call
        self._attempts += 1
        plan = plan_outbound(parts.directory, call.source, call.target, parts.selector, self._context)
        match plan:
            case ThroughTunnel() | ThroughWaypoint():
                way = parts.ways.of(plan, call.source, call.downstream.ip)
                if self._attempts == 1 and not self._context.addresses:
                    target = self._parties.dst_addr
                    parts.ways.settle(parts.directory.version, call.source, self._context, target, way)
                self._carry(way)
            case Passthrough():
                self._pass_through(plan)
            case Resolve():
                self._resolve(plan)
            case Refuse():
                self._give_up(self._failure if plan.cause is Cause.NO_UPSTREAM and self._failure else plan.error())

    def _resolve(self, plan: Resolve) -> None:
        parts = self._parts
        then = partial(self._resolved, plan)
        looking = look_up(plan.host, parts.family, parts.plain.dial.timeout_s, then)  # part of connecting
        parts.tasks.start(looking, name=f"look up {plan.host}")

    def _resolved(self, plan: Resolve, addresses: tuple[IpAddress, ...]) -> None:
        if not self.closed:
            self._context = self._context.resolved(plan, addresses)
            self._attempts -= 1  # still the same one
            self._attempt()

    def _pass_through(self, plan: Passthrough) -> None:
        """Hand the socket over: no tunnel for this one."""
        upstream = plan.upstream
        if self._context.listeners.take(upstream.ip, upstream.port) and is_own_address(upstream.ip):
            why = f"{upstream} is a listener of this proxy"  # whoever called that would be passed on to it again
            self._give_up(
                NoRoute("attempted recursive call to ourselves", why=why, fix="connect to the service itself")
            )
            return
        self._closed = True
        self._parties.dst = party_of(plan.destination, None)
        self._parties.dst_addr = text_of(plan.upstream)
        self._parties.service = plan.service
        assert self.sock is not None  # noqa: S101 -- an outbound stream begins with one
        retry = partial(self._retry_plain, plan)
        connection = PlainConnection(self._parts.plain, self.sock, self._parties, self._call.entry, retry)
        connection.register()
        self._parts.registry.remove(self)
        connection.dial(plan.upstream)

    def _retry_plain(self, plan: Passthrough, error: HboneError) -> bool:
        """Whether another endpoint is tried after a failed connect."""
        context = self._context.without(plan)
        if context is self._context or self._attempts >= MAX_ENDPOINTS:
            return False
        assert self.sock is not None  # noqa: S101 -- as above
        again = OutboundStream(self._parts, self.sock, self._call, context)
        again._failure = error
        again._attempts = self._attempts
        again.begin()
        return True

    # --- tunnel ---------------------------------------------------------------------------------------------

    def _carry(self, way: Way) -> None:
        self._way = way
        parties = self._parties
        parties.dst = way.destination
        parties.dst_addr = way.peer
        parties.hbone_addr = way.authority
        parties.service = way.plan.service
        tunnel = self._parts.pool.take(way.key)
        if tunnel is not None:
            self._open(way, tunnel)
        else:
            self._waits = True
            self._parts.pool.wait(way.key, self._on_tunnel)

    def _on_tunnel(self, tunnel: Tunnel | None, error: HboneError | None) -> None:
        self._waits = False
        if self._closed:
            return
        if tunnel is not None and self._way is not None:
            self._open(self._way, tunnel)
        else:
            self._next_endpoint(error or TunnelFailure("no tunnel"))

    def _next_endpoint(self, error: HboneError) -> None:
        """Nothing was sent yet: another endpoint may do."""
        self._failure = error
        if self._way is not None and self._attempts < MAX_ENDPOINTS:
            context = self._context.without(self._way.plan)
            if context is not self._context:
                self._context = context
                self._attempt()
                return
        self._give_up(error)

    def _open(self, way: Way, tunnel: Tunnel) -> None:
        parties = self._parties
        try:
            self.stream = tunnel.open_stream(way.head.block(parties.src_addr, self._traceparent), self)
        except TunnelFailure as error:
            self._refused_unread(error)
            return
        self.link = tunnel.link
        self._tunnel = tunnel
        self._parts.answers.start(self)
        parties.mutual_tls = True
        parties.src = way.source_side
        parties.dst = way.destination_side(tunnel.link.tls.peer)
        if self._started is None:
            self._started = self._parts.outcomes.opened(parties)
        if self._early or self._up_done:
            self._send_again()
        if self._call.entry.optimistic and not self._up_done:
            self._on_early_readable()
            if not self._closed and not self._up_done:
                self._reading = True
                self._poller.add_reader(self.fd, self._on_early_readable)
        self.link.request_flush()

    # --- before the answer ----------------------------------------------------------------------------------

    def _on_early_readable(self) -> None:
        """The program's first bytes: into the tunnel, and kept until the answer."""
        link, early = self.link, self._early
        if early is None or self._closed:
            return
        want = min(link.connection.sendable(self.stream), SMALL_READ, EARLY_BYTES - len(early))
        space = link.outbox.reserve(want) if want > 0 and not link.blocked else b""
        if not space:
            self._read_off()  # the rest follows the answer
            return
        try:
            n = self.sock.recv_into(space)  # type: ignore[union-attr] # it began with one
        except (BlockingIOError, InterruptedError):
            link.outbox.abandon()
            return
        except OSError as error:
            link.outbox.abandon()
            self._local_failed(error)
            return
        if n == 0:
            link.outbox.abandon()
            self._local_ended()
            return
        early += space[:n]
        link.outbox.commit(self.stream.id, n)
        link.connection.sent(self.stream, n)
        self.bytes_up += n
        link.request_flush()

    def _send_again(self) -> None:
        """What a peer refused unread goes to the next one."""
        early, link = self._early, self.link
        assert early is not None  # noqa: S101 -- only before the answer
        for start in range(0, len(early), SMALL_READ):
            part = early[start : start + SMALL_READ]
            space = link.outbox.reserve(len(part))
            if len(space) < len(part) or link.connection.sendable(self.stream) < len(part):
                why = "the next tunnel takes fewer bytes before its answer"
                self.cut(ConnectionCut("the request could not be repeated", why=why))
                return
            space[:] = part
            link.outbox.commit(self.stream.id, len(part))
            link.connection.sent(self.stream, len(part))
        if self._up_done:
            link.end(self.stream)

    def resume(self) -> None:
        if self._answered:
            super().resume()

    # --- the answer -----------------------------------------------------------------------------------------

    def on_headers(self, headers: Headers) -> None:
        if self._answered or self._closed:
            return
        status = response_status(headers)
        if status != 200:
            self._refused_by_peer(status)
            return
        self._answered = True
        self._early = None
        self._parts.answers.stop(self)
        assert self.sock is not None  # noqa: S101 -- an outbound stream begins with one
        self._call.entry.connected(self.sock)
        if not self._up_done:
            self._reading = True
            self._poller.add_reader(self.fd, self._on_readable)  # in place of the early one, without a system call

    def _refused_by_peer(self, status: int) -> None:
        peer = self._way.peer if self._way is not None else "the peer"
        error = ConnectRefused(
            f"http status: {status}",
            why=_STATUS_WORDS.get(status, f"{peer} refused the CONNECT"),
            fix="its access log has the reason",
            answer=status,
        )
        self.link.reset(self.stream, ErrorCode.CANCEL)
        self._give_up(error)

    def on_reset(self, code: int) -> None:
        if self._answered or self._closed:
            super().on_reset(code)
            return
        error = ConnectionCut("the far side cut the stream", why=f"RST_STREAM {code_name(code)}", code=code, by="peer")
        if code == ErrorCode.REFUSED_STREAM:
            if self._tunnel is not None:
                self._tunnel.refused_stream()
            self._refused_unread(error)
        else:
            self._give_up(error)

    def _refused_unread(self, error: HboneError) -> None:
        """This tunnel has no room for us: the same endpoint, by another one."""
        self._read_off()
        self._parts.answers.stop(self)
        self.link = _NO_LINK
        self._tunnel = None
        self._refusals += 1
        if self._way is None or self._refusals > MAX_REFUSALS:
            self._give_up(error)
        else:
            self._carry(self._way)

    def on_link_lost(self, error: HboneError) -> None:
        if self._answered or self._closed:
            super().on_link_lost(error)
        else:
            self._give_up(error)

    def unanswered(self, error: NoAnswer) -> None:
        if not self._answered and not self._closed:
            self.link.reset(self.stream, ErrorCode.CANCEL)
            self._give_up(error)

    # --- ends -----------------------------------------------------------------------------------------------

    def _give_up(self, error: HboneError) -> None:
        """There is no connection: the program is told."""
        if self._closed:
            return
        self._unwatch()
        if self.sock is not None:
            turn_away(self.sock, self._call.entry, error, self._parts.closing)
        self._finish(error)

    def cut(self, error: HboneError, code: int = ErrorCode.CANCEL) -> None:
        if self._answered or self._closed:
            super().cut(error, code)
            return
        if self._waits and self._way is not None:
            self._parts.pool.forget_waiter(self._way.key, self._on_tunnel)
        self.link.reset(self.stream, code)
        self._give_up(error)

    def half_closed(self) -> None:
        if self._parts.half_closes is not None:
            self._parts.half_closes.begin(self)

    @property
    def carried_bytes(self) -> int:
        return self.bytes_up + self.bytes_down

    def ended(self, error: HboneError | None) -> None:
        parts = self._parts
        self._early = None
        parts.registry.remove(self)
        if not self._answered:
            parts.answers.stop(self)
        if parts.half_closes is not None:
            parts.half_closes.over(self)
        if self._started is None:
            parts.outcomes.refused(self._parties, error or NoRoute("the connection ended before it began"))
        else:
            parts.outcomes.ended(
                self._parties, self._started, error, to_server=self.bytes_up, to_client=self.bytes_down
            )

    def view(self) -> ConnectionView:
        now, carried = self._parts.outcomes.now(), (self.bytes_up, self.bytes_down)
        tunnel = self._tunnel.id if self._tunnel is not None else None
        return connection_view(self._parties, self._started, now, carried, tunnel)


class _NoLink(H2Link):
    """Stands for the tunnel until there is one: closed, so there is no stream to cut."""

    __slots__ = ()

    def __init__(self) -> None:
        self.closed = True
        self.blocked = False


_NO_STREAM: Final = Stream(0)
_NO_LINK: Final = _NoLink()
_STATUS_WORDS: Final = {
    400: "the peer does not serve this destination",
    401: "a policy at the destination denies this connection",
    403: "a policy at the destination denies this connection",
    503: "the peer could not reach the destination",
}
