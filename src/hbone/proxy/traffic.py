"""Connections as the mesh's metrics count them: the labels of ambient's dashboards, a series for each distinct set; and
tunnels, by direction."""

from collections.abc import Callable, Iterable
from typing import Final

from hbone.discovery.model import Service, Workload
from hbone.errors import HboneError
from hbone.proxy.outcome import FLAG_NONE, Parties, Side
from hbone.telemetry.access import Direction
from hbone.telemetry.metrics import Metrics, Traffic, Value
from hbone.telemetry.names import (
    HANDSHAKE_SECONDS,
    HANDSHAKES,
    LIMIT_REACHED,
    SOCKETS_OPEN,
    STREAMS_OPEN,
    TUNNEL_FAILURES,
    TUNNELS_OPEN,
    TUNNELS_OPENED,
    UNKNOWN,
)
from hbone.telemetry.views import TunnelView

SERIES_KEPT: Final = 16_384  # look-ups remembered; the number of series is bounded where they are kept

_REPORTERS: Final = {"inbound": "destination", "outbound": "source"}
_NO_SERVICE: Final = (UNKNOWN, UNKNOWN, UNKNOWN)
_Key = tuple[str, Side, Side, Service | None, bool, str]


class TrafficCounters:
    """`hbone.proxy.outcome.Counters` on top of the process's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._traffic = metrics.traffic
        sockets = metrics.gauge(SOCKETS_OPEN)
        self._sockets: dict[str, Value] = {way: sockets.labels(name) for way, name in _REPORTERS.items()}
        self._series: dict[_Key, Traffic] = {}
        self._limits = metrics.counter(LIMIT_REACHED)

    def opened(self, parties: Parties) -> None:
        self._sockets[parties.direction].value += 1
        self._series_of(parties, FLAG_NONE).opened += 1

    def closed(self, parties: Parties, flag: str, received: int, sent: int) -> None:
        self._sockets[parties.direction].value -= 1
        bytes_series = self._series_of(parties, FLAG_NONE)
        bytes_series.received_bytes += received
        bytes_series.sent_bytes += sent
        ended = bytes_series if flag == FLAG_NONE else self._series_of(parties, flag)
        ended.closed += 1
        if flag != FLAG_NONE:
            ended.failed += 1

    def limited(self, limit: str) -> None:
        self._limits.labels(limit).value += 1

    def _series_of(self, parties: Parties, flag: str) -> Traffic:
        key = (parties.direction, parties.src, parties.dst, parties.service, parties.mutual_tls, flag)
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= SERIES_KEPT:
                self._series.clear()
            series = self._series[key] = self._traffic.series(labels_of(parties, flag))
        return series


class TunnelCounters:
    """`hbone.proxy.tunnelwatch.TunnelWatch` on top of the process's metrics. A result is `ok`, or the error's class."""

    def __init__(self, metrics: Metrics) -> None:
        self._opened = metrics.counter(TUNNELS_OPENED)
        self._failures = metrics.counter(TUNNEL_FAILURES)
        self._handshakes = metrics.counter(HANDSHAKES)
        self._seconds = metrics.histogram(HANDSHAKE_SECONDS)

    def shook_hands(self, direction: Direction, took_s: float, error: HboneError | None) -> None:
        self._handshakes.labels(direction, "ok" if error is None else type(error).__name__).value += 1
        self._seconds.labels(direction).observe(took_s)

    def opened(self, direction: Direction) -> None:
        self._opened.labels(direction).value += 1

    def failed(self, direction: Direction, error: HboneError) -> None:
        self._failures.labels(direction, type(error).__name__).value += 1


def describe_tunnels(metrics: Metrics, tunnels: Callable[[], Iterable[TunnelView]]) -> None:
    """The gauges of open tunnels and streams, counted when they are asked for."""

    def count(measure: Callable[[TunnelView], int]) -> list[tuple[tuple[str, ...], float]]:
        found = dict.fromkeys(_REPORTERS, 0)
        for tunnel in tunnels():
            found[tunnel.direction] += measure(tunnel)
        return [((direction,), number) for direction, number in found.items()]

    metrics.gauge(TUNNELS_OPEN).read_from(lambda: count(lambda _: 1))
    metrics.gauge(STREAMS_OPEN).read_from(lambda: count(lambda tunnel: tunnel.streams))


def labels_of(parties: Parties, flag: str) -> tuple[str, ...]:
    """The values of TRAFFIC_LABELS, in their order; `unknown` for what is not known."""
    src, dst = parties.src, parties.dst
    expected = str(dst.record.identity) if dst.record is not None else None
    return (
        _REPORTERS[parties.direction],
        *_side(src.record, src.identity),
        *_service(parties.service),
        *_side(dst.record, dst.identity or expected),
        "tcp",
        flag,
        "mutual_tls" if parties.mutual_tls else UNKNOWN,
        *_place(src.record),
        *_place(dst.record),
    )


def _side(record: Workload | None, principal: str | None) -> tuple[str, ...]:
    """Workload, canonical service and revision, namespace, principal, app, version, cluster."""
    shown = principal or UNKNOWN
    if record is None:
        return (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, shown, UNKNOWN, UNKNOWN, UNKNOWN)
    name, revision = record.canonical_name or UNKNOWN, record.canonical_revision or UNKNOWN
    workload = record.workload_name or record.name
    return (workload, name, revision, record.namespace, shown, name, revision, record.cluster_id or UNKNOWN)


def _service(service: Service | None) -> tuple[str, str, str]:
    return _NO_SERVICE if service is None else (service.hostname, service.namespace, service.name)


def _place(record: Workload | None) -> tuple[str, str]:
    if record is None:
        return UNKNOWN, UNKNOWN
    return record.locality.region or UNKNOWN, record.locality.zone or UNKNOWN
