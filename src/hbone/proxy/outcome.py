"""How a connection ended: one access line and the counters, exactly once, at each end of a tunnel."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from hbone.discovery.model import Service, Workload
from hbone.errors import HboneError, PeerViolation
from hbone.identity.spiffe import SpiffeId
from hbone.telemetry.access import AccessLog, AccessRecord, Direction, Party
from hbone.telemetry.views import ConnectionView
from hbone.times import Clock, Instant

FLAG_NONE: Final = "-"


class Side(Party):
    """One side's workload, for the log and for the metrics; kept and shared: `party_of` makes them."""

    __slots__ = ("record",)

    def __init__(self, record: Workload | None, identity: SpiffeId | None) -> None:
        proven = str(identity) if identity is not None else None
        if record is None:
            super().__init__(None, None, proven, None)
        else:
            super().__init__(record.name, record.namespace, proven, record.cluster_id)
        self.record = record


NOBODY: Final = Side(None, None)


@lru_cache(maxsize=65536)
def party_of(workload: Workload | None, identity: SpiffeId | None) -> Side:
    """One side's workload as it is shown; `identity` only where mutual TLS proved it."""
    return Side(workload, identity)


class Parties:
    """What is known of a connection's two sides; grows while it is set up.

    `src_addr` and `dst_addr` are the TCP peers (`ip:port`), `hbone_addr` the CONNECT's authority, `service` what was
    asked for by name or VIP. `mutual_tls`: both identities were proven.
    """

    __slots__ = ("direction", "dst", "dst_addr", "hbone_addr", "mutual_tls", "service", "src", "src_addr")

    def __init__(  # noqa: PLR0917 -- made for each connection: by position that costs half
        self,
        direction: Direction,
        src_addr: str,
        dst_addr: str,
        src: Side = NOBODY,
        dst: Side = NOBODY,
        hbone_addr: str | None = None,
        service: Service | None = None,
        mutual_tls: bool = False,
    ) -> None:
        self.direction: Direction = direction
        self.src_addr = src_addr
        self.dst_addr = dst_addr
        self.src = src
        self.dst = dst
        self.hbone_addr = hbone_addr
        self.service = service
        self.mutual_tls = mutual_tls

    @property
    def service_host(self) -> str | None:
        return self.service.hostname if self.service is not None else None


class Counters(Protocol):
    """What the metrics want to know of a connection."""

    def opened(self, parties: Parties) -> None: ...
    def closed(self, parties: Parties, flag: str, received: int, sent: int) -> None:
        """`received`: client to server, `sent`: server to client, in bytes."""

    def limited(self, limit: str) -> None:
        """Something was refused because of the limit that this setting names."""


class Outcomes:
    """Where all connections of a node end."""

    def __init__(self, access: AccessLog, counters: Counters, clock: Clock) -> None:
        self._access = access
        self._counters = counters
        self._clock = clock
        self._now: Callable[[], Instant] = clock.now

    def now(self) -> Instant:
        return self._now()

    def opened(self, parties: Parties) -> Instant:
        """A connection is admitted; keep the returned time for `ended`."""
        self._counters.opened(parties)
        return self._now()

    def ended(
        self, parties: Parties, started: Instant, error: HboneError | None, *, to_server: int, to_client: int
    ) -> None:
        """An admitted connection is over, after carrying so many bytes each way."""
        inbound = parties.direction == "inbound"
        record = AccessRecord(
            parties.src_addr,
            parties.src,
            parties.dst_addr,
            parties.dst,
            parties.direction,
            to_client if inbound else to_server,
            to_server if inbound else to_client,
            int((self._now() - started) * 1000),
            parties.hbone_addr,
            parties.service_host,
            None if error is None else str(error),
        )
        self._access.complete(self._clock.wall(), record)
        self._counters.closed(parties, FLAG_NONE if error is None else error.flag, to_server, to_client)
        if error is not None and not isinstance(error, PeerViolation):  # which is one for all of a tunnel's streams
            self._count_limit(error)

    def refused(self, parties: Parties, error: HboneError) -> None:
        """A connection that came to nothing before it was admitted: a line, no traffic counters."""
        self._access.failed(self._clock.wall(), parties.src_addr, parties.dst_addr, parties.direction, str(error))
        self._count_limit(error)

    def _count_limit(self, error: HboneError) -> None:
        """An error that came of a limit has its setting's name."""
        limit = getattr(error, "limit", None)
        if isinstance(limit, str):
            self._counters.limited(limit)


class NoCounters:
    """For a node without metrics."""

    def opened(self, parties: Parties) -> None: ...
    def closed(self, parties: Parties, flag: str, received: int, sent: int) -> None: ...
    def limited(self, limit: str) -> None: ...


def connection_view(
    parties: Parties, started: Instant | None, now: Instant, sent_received: tuple[int, int], tunnel: int | None
) -> ConnectionView:
    """A live connection as it is shown; `sent_received` in bytes, seen from the workload here."""
    return ConnectionView(
        direction=parties.direction,
        source=parties.src_addr,
        destination=parties.hbone_addr or parties.dst_addr,
        upstream=parties.dst_addr,
        source_workload=parties.src.workload,
        destination_workload=parties.dst.workload,
        service=parties.service_host,
        source_identity=parties.src.identity,
        destination_identity=parties.dst.identity,
        security="mutual_tls" if parties.mutual_tls else "plaintext",
        age_s=0.0 if started is None else now - started,
        bytes_sent=sent_received[0],
        bytes_recv=sent_received[1],
        tunnel=tunnel,
    )
