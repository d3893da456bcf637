"""One CONNECT that came in a tunnel: from its headers to the last byte.

    target → judge → dial → 200 → relay

The order of checks and their statuses are those of ztunnel: malformed 400, not served here 400, denied 401, not
reachable 503; and 200 only when the application's connection is up.
"""

import socket
from functools import partial

from hbone.discovery.outcomes import Refuse
from hbone.errors import ConnectionCut, HboneError, InvalidTarget, NoRoute
from hbone.net.dial import Dial
from hbone.net.h2link import H2Link
from hbone.net.relay import StreamRelay
from hbone.protocol.codes import ErrorCode
from hbone.protocol.connect import ReceivedRequest, parse_request, response_headers
from hbone.protocol.events import Headers
from hbone.protocol.proxyv2 import proxy_header
from hbone.protocol.streams import Stream
from hbone.proxy.arrivals import Arrival, InboundParts
from hbone.proxy.deliveries import Delivery
from hbone.proxy.judge import Facts
from hbone.proxy.outcome import Parties, connection_view
from hbone.telemetry.views import ConnectionView
from hbone.times import Instant


class InboundStream(StreamRelay):
    """One CONNECT: from its headers to the last byte."""

    __slots__ = ("_arrival", "_dial", "_parties", "_parts", "_started", "facts")

    def __init__(self, parts: InboundParts, link: H2Link, stream: Stream, arrival: Arrival) -> None:
        super().__init__(parts.tunnels.poller, link, stream)
        self._parts = parts
        self._arrival = arrival
        self._dial: Dial | None = None
        self._started: Instant | None = None
        self._parties = Parties("inbound", arrival.deliveries.peer_text, arrival.deliveries.local_text)
        self.facts: Facts | None = None

    def begin(self, headers: Headers) -> None:
        """Decide what becomes of the request; everything up to the dial happens at once."""
        parts, arrival = self._parts, self._arrival
        self._parties.src = arrival.deliveries.source()
        refusal = parts.registry.refusal()
        parts.registry.add(self)
        try:
            if refusal is not None:
                raise refusal
            delivery = self._target(parse_request(headers))
        except HboneError as error:
            self._answer_failure(error)
            return
        deliver = delivery.deliver
        self._parties.dst = delivery.destination
        self._parties.hbone_addr = delivery.authority
        self._parties.service = deliver.service
        self._parties.mutual_tls = True
        self._started = parts.outcomes.opened(self._parties)
        denial = None
        if parts.options.authorize is not None:
            self.facts = delivery.facts
            denial = parts.options.authorize(delivery.facts)
        if denial is not None:
            self._answer_failure(denial)
            return
        self._dial = Dial(parts.tunnels.poller, deliver.upstream, parts.options.dial, partial(self._dialled, delivery))
        self._dial.start()

    def _target(self, request: ReceivedRequest) -> Delivery:
        """Where to deliver; raises InvalidTarget (400) or NoRoute (503)."""
        context = self._parts.options.context
        plan = self._arrival.deliveries.plan(request.authority, request.forwarded_host, context)
        if isinstance(plan, Refuse):
            kind = InvalidTarget if plan.status == 400 else NoRoute
            raise kind(plan.what, why=plan.why, fix=plan.fix, authority=request.authority)
        return plan

    def _dialled(self, delivery: Delivery, sock: socket.socket | None, error: HboneError | None) -> None:
        self._dial = None
        deliver = delivery.deliver
        if sock is None:
            self._answer_failure(error or NoRoute(f"no connection to {deliver.upstream}"))
            return
        baggage = delivery.baggage if self._parts.options.response_baggage else None
        self.link.answer(self.stream, response_headers(200, baggage), end_stream=False)
        if deliver.proxy_header is not None:
            try:  # a fresh socket's buffer takes the header whole
                sock.send(proxy_header(self._arrival.peer, deliver.proxy_header, self._arrival.source))
            except OSError:
                pass  # it is gone already: the first read tells how
        if self._parts.keep_alives is not None:
            self._parts.keep_alives.begin(self)
        self.attach(sock)

    def _answer_failure(self, error: HboneError) -> None:
        """A status and the end; what the client still sends is not wanted (RFC 9113 §8.1)."""
        self.link.answer(self.stream, response_headers(error.status, None), end_stream=True)
        self.link.reset(self.stream, ErrorCode.NO_ERROR)
        self._finish(error)

    def half_closed(self) -> None:
        if self._parts.half_closes is not None:
            self._parts.half_closes.begin(self)

    @property
    def carried_bytes(self) -> int:
        return self.bytes_up + self.bytes_down

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

    def ended(self, error: HboneError | None) -> None:
        self._parts.registry.remove(self)
        if self._parts.half_closes is not None:
            self._parts.half_closes.over(self)
        if self._parts.keep_alives is not None:
            self._parts.keep_alives.over(self)
        if self._started is None:
            self._parts.outcomes.refused(self._parties, error or NoRoute("the connection ended before it began"))
            return
        self._parts.outcomes.ended(
            self._parties, self._started, error, to_server=self.bytes_down, to_client=self.bytes_up
        )

    def view(self) -> ConnectionView:
        return connection_view(
            self._parties, self._started, self._parts.outcomes.now(), (self.bytes_up, self.bytes_down), self._arrival.id
        )
