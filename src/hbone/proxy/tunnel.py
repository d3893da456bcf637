"""One tunnel that we opened: an HTTP/2 connection over mTLS, ready when the peer has accepted us."""

import asyncio
from collections.abc import Callable
from itertools import count

from hbone.errors import HboneError, TunnelFailure
from hbone.net.h2link import H2Link
from hbone.protocol.codes import ErrorCode, StreamViolation
from hbone.protocol.events import Headers
from hbone.protocol.outbox import OutboxOverflow
from hbone.protocol.streams import Stream
from hbone.proxy.pooling import PoolKey
from hbone.telemetry.views import TunnelView
from hbone.times import Instant

_ids = count(1)


def next_tunnel_id() -> int:
    """Unique in the process, for people who look at tunnels."""
    return next(_ids)


class Tunnel:
    """Client side. `changed` is called when streams or slots came free, `gone` once when it is closed."""

    __slots__ = (
        "_changed",
        "_full_at",
        "_gone",
        "_opened",
        "ending",
        "failure",
        "generation",
        "id",
        "idle_since",
        "key",
        "link",
        "ready",
        "retired",
    )

    def __init__(
        self,
        key: PoolKey,
        generation: int,
        link: H2Link,
        changed: Callable[["Tunnel"], None],
        gone: Callable[["Tunnel"], None],
    ) -> None:
        self.id = next_tunnel_id()
        self.key = key
        self.generation = generation
        self.link = link
        self.idle_since: Instant | None = link.now()
        self.ending: asyncio.TimerHandle | None = None  # of its pool: when its certificates end
        self.failure: HboneError | None = None  # why it ended, if not as it should
        self.retired = False  # takes no new streams, whatever the peer would allow
        self._full_at: int | None = None  # with so many streams open the peer refused another
        self._opened: Instant = link.now()
        self._changed = changed
        self._gone = gone
        self.ready: asyncio.Future[None] | None = None  # of whoever opens it: done when the peer has accepted us

    @property
    def streams(self) -> int:
        return len(self.link.connection.streams)

    @property
    def free_streams(self) -> int:
        link = self.link
        if self.retired or link.closed or link.doomed:
            return 0
        if self._full_at is not None and len(link.connection.streams) >= self._full_at:
            return 0
        return link.connection.free_streams

    @property
    def leaving(self) -> bool:
        connection = self.link.connection
        return self.retired or self.link.closed or connection.going_away or connection.peer_going_away

    def refused_stream(self) -> None:
        """The peer said REFUSED_STREAM though its SETTINGS allow more: believe it, until a stream has ended."""
        self._full_at = self.streams
        if not self._full_at:  # what takes no stream at all is no tunnel
            self.retired = True

    def view(self, local: str = "") -> TunnelView:
        now = self.link.now()
        return TunnelView(
            id=self.id,
            direction="outbound",
            local=local,
            peer=str(self.key.peer),
            local_identity=str(self.key.source),
            peer_identity=str(self.link.tls.peer),
            streams=self.streams,
            max_streams=self.streams + self.free_streams,
            age_s=now - self._opened,
            idle_s=None if self.idle_since is None else now - self.idle_since,
            draining=self.leaving,
            tls_version=self.link.tls.tls_version,
            cipher=self.link.tls.cipher,
            group=self.link.tls.group,
        )

    def open_stream(self, headers: Headers | bytes, owner: object) -> Stream:
        """Send the CONNECT; raises TunnelFailure (nothing was sent then) when the tunnel takes none after all."""
        try:
            stream = self.link.connection.open_stream(headers, owner)
        except OutboxOverflow as error:
            self.link.doom(error)
            raise
        self._full_at = None
        self.idle_since = None
        return stream

    # --- LinkHandler ----------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)

    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        del headers, end_stream
        self.link.reset(stream, ErrorCode.REFUSED_STREAM)  # a server cannot open streams

    def on_refused(self, error: StreamViolation) -> None:
        """Requests come to servers only."""

    def on_going_away(self, last_stream_id: int) -> None:
        del last_stream_id
        self._changed(self)

    def on_slot_free(self) -> None:
        self._changed(self)

    def on_closed(self, error: HboneError | None) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(
                error
                or TunnelFailure(
                    f"{self.key.peer} closed the connection right after the handshake",
                    why="it probably did not accept our certificate",
                    fix="look into its access log",
                )
            )
        self.failure = error
        self._gone(self)
