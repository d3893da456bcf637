"""Counters, gauges and histograms, and their exposition as OpenMetrics text.

An event of a connection is one addition to an attribute (`series.opened += 1`, 30 ns); finding the series is one
dict look-up that callers do once per connection. prometheus_client was measured at 440 ns a cached child and 1.4 µs
an uncached one, so it is not used here. Values belong to one thread.

Label sets are bounded: past `max_series` a new set is counted under labels that all say "other", and that is counted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from math import isfinite, isnan
from typing import Final, Protocol

from hbone.telemetry.names import (
    CONNECTIONS_CLOSED,
    CONNECTIONS_FAILED,
    CONNECTIONS_OPENED,
    RECEIVED_BYTES,
    SENT_BYTES,
    SERIES_OVERFLOW,
    TRAFFIC_LABELS,
    Kind,
    Metric,
)

MAX_SERIES: Final = 10_000
OTHER: Final = "other"
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CHUNK_LINES: Final = 500

Labels = tuple[str, ...]


class Value:
    """One series of a counter or gauge: add to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Buckets:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Traffic:
    """The five traffic metrics of one label set; `failed` where `response_flags` is not "-"."""

    __slots__ = ("closed", "failed", "opened", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.failed = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class Family(Protocol):
    """Something that has lines to expose."""

    def lines(self) -> Iterator[str]: ...


class Counter:
    """A counter or gauge with all its series."""

    def __init__(self, metric: Metric, overflow: Value, max_series: int) -> None:
        self.metric = metric
        self._series: dict[Labels, Value] = {}
        self._overflow = overflow
        self._max_series = max_series
        self._read: Callable[[], Iterable[tuple[Labels, float]]] | None = None
        if not metric.labels:
            self._series[()] = Value()

    def labels(self, *values: str) -> Value:
        """The series of these label values, in the order of the metric's labels; keep it where events are many."""
        found = self._series.get(values)
        return found if found is not None else self._new(values)

    def read_from(self, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Ask `read` for (labels, value) at exposition instead of keeping series."""
        self._read = read

    def clear(self, *values: str) -> None:
        """Forget a series: what it was about is gone."""
        self._series.pop(values, None)

    def lines(self) -> Iterator[str]:
        metric = self.metric
        yield from _head(metric)
        suffix = "_total" if metric.kind is Kind.COUNTER else ""
        if self._read is not None:
            for values, value in self._read():
                yield f"{metric.name}{suffix}{_braces(metric.labels, values)} {_number(value)}\n"
            return
        for values, series in tuple(self._series.items()):
            yield f"{metric.name}{suffix}{_braces(metric.labels, values)} {_number(series.value)}\n"

    def _new(self, values: Labels) -> Value:
        _check(self.metric, values)
        if len(self._series) >= self._max_series:
            self._overflow.value += 1
            values = (OTHER,) * len(values)
        return self._series.setdefault(values, Value())


class Histogram:
    """A histogram with all its series. Its labels are few and constant."""

    def __init__(self, metric: Metric, bounds: tuple[float, ...] = BUCKETS_S) -> None:
        self.metric = metric
        self._bounds = bounds
        self._series: dict[Labels, Buckets] = {}

    def labels(self, *values: str) -> Buckets:
        found = self._series.get(values)
        if found is None:
            _check(self.metric, values)
            found = self._series[values] = Buckets(self._bounds)
        return found

    def lines(self) -> Iterator[str]:
        metric = self.metric
        yield from _head(metric)
        names = (*metric.labels, "le")
        for values, series in tuple(self._series.items()):
            total = 0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), series.counts, strict=True):
                total += count
                yield f"{metric.name}_bucket{_braces(names, (*values, bound))} {total}\n"
            plain = _braces(metric.labels, values)
            yield f"{metric.name}_count{plain} {total}\n{metric.name}_sum{plain} {_number(series.sum)}\n"


class TrafficFamilies:
    """The `istio_tcp_*` metrics, which share their labels: one look-up finds the series of all five."""

    def __init__(self, overflow: Value, max_series: int) -> None:
        self._series: dict[Labels, Traffic] = {}
        self._overflow = overflow
        self._max_series = max_series

    def series(self, values: Labels) -> Traffic:
        """The series of these values of TRAFFIC_LABELS."""
        found = self._series.get(values)
        return found if found is not None else self._new(values)

    def lines(self) -> Iterator[str]:
        series = [(_braces(TRAFFIC_LABELS, values), traffic) for values, traffic in tuple(self._series.items())]
        for metric, attribute in _TRAFFIC:
            yield from _head(metric)
            for labels, traffic in series:
                count: int = getattr(traffic, attribute)
                # A label set with a failure flag was never opened under that flag, and the other way round.
                if count:
                    yield f"{metric.name}_total{labels} {count}\n"

    def _new(self, values: Labels) -> Traffic:
        _check(CONNECTIONS_OPENED, values)
        if len(self._series) >= self._max_series:
            self._overflow.value += 1
            values = (OTHER,) * len(values)
        return self._series.setdefault(values, Traffic())


_TRAFFIC: Final = (
    (CONNECTIONS_OPENED, "opened"),
    (CONNECTIONS_CLOSED, "closed"),
    (CONNECTIONS_FAILED, "failed"),
    (RECEIVED_BYTES, "received_bytes"),
    (SENT_BYTES, "sent_bytes"),
)


class Metrics:
    """All metrics of one process."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._overflow = Value()
        overflow = Counter(SERIES_OVERFLOW, self._overflow, max_series)
        overflow.read_from(lambda: (((), self._overflow.value),))
        self.traffic = TrafficFamilies(self._overflow, max_series)
        self._families: dict[str, Counter | Histogram] = {SERIES_OVERFLOW.name: overflow}

    def counter(self, metric: Metric) -> Counter:
        """The counter or gauge of `metric`, made when first asked for."""
        found = self._families.get(metric.name)
        if found is None:
            found = self._families[metric.name] = Counter(metric, self._overflow, self._max_series)
        assert isinstance(found, Counter)  # noqa: S101  # a metric has one kind
        return found

    gauge = counter

    def histogram(self, metric: Metric) -> Histogram:
        """The histogram of `metric`, made when first asked for."""
        found = self._families.get(metric.name)
        if found is None:
            found = self._families[metric.name] = Histogram(metric)
        assert isinstance(found, Histogram)  # noqa: S101  # a metric has one kind
        return found

    def chunks(self) -> Iterator[str]:
        """The exposition in pieces, so that a server with many series can let the loop run between them."""
        lines = self._lines()
        while chunk := "".join(islice(lines, CHUNK_LINES)):
            yield chunk

    def text(self) -> str:
        """The whole exposition (OpenMetrics 1.0)."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from self.traffic.lines()
        for family in tuple(self._families.values()):
            yield from family.lines()
        yield "# EOF\n"


def _check(metric: Metric, values: Labels) -> None:
    if len(values) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {values}")


def _head(metric: Metric) -> Iterator[str]:
    yield f"# TYPE {metric.name} {metric.kind.value}\n"
    if metric.unit:
        yield f"# UNIT {metric.name} {metric.unit}\n"
    yield f"# HELP {metric.name} {metric.help}.\n"


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


@lru_cache(maxsize=16384)
def _escaped(value: str) -> str:
    """A label value (OpenMetrics §3.2); bytes that were no UTF-8 are written out."""
    clean = value.encode("utf-8", "backslashreplace").decode()
    return clean.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if not isfinite(value):  # OpenMetrics §4.3: one of them must not cost the others their exposition
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
