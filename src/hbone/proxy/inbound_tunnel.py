"""The server side of one tunnel."""

import asyncio
from collections.abc import Callable

from hbone.errors import HboneError, PeerViolation
from hbone.identity.spiffe import SpiffeId
from hbone.net.h2link import H2Link
from hbone.protocol.codes import StreamViolation
from hbone.protocol.events import Headers
from hbone.protocol.outbox import OutboxOverflow
from hbone.protocol.streams import Stream
from hbone.proxy.arrivals import Arrival, InboundParts
from hbone.proxy.inbound_stream import InboundStream
from hbone.proxy.outcome import Parties, party_of
from hbone.telemetry.views import TunnelView
from hbone.times import Instant


class InboundTunnel:
    """Makes a stream of each CONNECT. `gone` is told when the tunnel is."""

    __slots__ = ("_arrival", "_gone", "_opened", "_parts", "draining", "ending", "link")

    def __init__(
        self, parts: InboundParts, gone: "Callable[[InboundTunnel], None]", link: H2Link, arrival: Arrival
    ) -> None:
        self._parts = parts
        self._gone = gone
        self._opened: Instant = link.now()
        self._arrival = arrival
        self.link = link
        self.draining = False
        self.ending: asyncio.TimerHandle | None = None  # when its certificates end

    @property
    def local_identity(self) -> SpiffeId:
        """Whom its client has reached."""
        return self._arrival.served.workload.identity

    def finish(self) -> None:
        """No more streams; close with the last one."""
        self.draining = True
        self.link.go_away()

    def on_ready(self) -> None:
        """The client's SETTINGS."""

    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        connection = InboundStream(self._parts, self.link, stream, self._arrival)
        stream.owner = connection
        connection.begin(headers)
        if end_stream and not connection.closed:
            connection.on_end()

    def on_refused(self, error: StreamViolation) -> None:
        """A request that never became a stream: HTTP/2 itself has answered it."""
        self._log_refused(error)

    def on_going_away(self, last_stream_id: int) -> None:
        del last_stream_id
        self.on_slot_free()

    def on_slot_free(self) -> None:
        if (self.draining or self.link.connection.peer_going_away) and not self.link.connection.streams:
            self.link.go_away()

    def on_closed(self, error: HboneError | None) -> None:
        self._gone(self)
        if error is not None:
            self._parts.tunnels.watch.failed("inbound", error)
        if isinstance(error, PeerViolation | OutboxOverflow):
            self._log_refused(error)

    def _log_refused(self, error: HboneError) -> None:
        arrival = self._arrival
        parties = Parties("inbound", str(arrival.peer), str(arrival.local), party_of(None, arrival.source))
        self._parts.outcomes.refused(parties, error)

    def view(self) -> TunnelView:
        connection, arrival = self.link.connection, self._arrival
        return TunnelView(
            id=arrival.id,
            direction="inbound",
            local=str(arrival.local),
            peer=str(arrival.peer),
            local_identity=str(self.local_identity),
            peer_identity=str(arrival.source),
            streams=len(connection.streams),
            max_streams=connection.settings.max_concurrent_streams or 0,
            age_s=self.link.now() - self._opened,
            draining=self.draining,
            tls_version=self.link.tls.tls_version,
            cipher=self.link.tls.cipher,
            group=self.link.tls.group,
        )
