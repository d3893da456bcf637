"""One exposition out of several."""

from hbone.app.workers.totals import Totals, WholeMetrics, merged, parse
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import BUILD, HANDSHAKE_SECONDS, HANDSHAKES, SVID_EXPIRY, TUNNELS_OPEN, WORKLOADS


def worker(tunnels: int, handshakes: int, *, workloads: int = 7, expiry: float = 1000.5) -> Metrics:
    metrics = Metrics()
    metrics.gauge(BUILD).labels("hbone", "1.2").value = 1
    metrics.gauge(TUNNELS_OPEN).labels("inbound").value = tunnels
    metrics.counter(HANDSHAKES).labels("inbound", 'a "quoted" } value').value = handshakes
    metrics.gauge(WORKLOADS).labels().value = workloads
    metrics.gauge(SVID_EXPIRY).labels("spiffe://td/ns/a/sa/b").value = expiry
    metrics.histogram(HANDSHAKE_SECONDS).labels("inbound").observe(0.02)
    return metrics


def value(text: str, start: str) -> float:
    """The value of the one sample whose line begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.rpartition(" ")[2])


def test_parsing_and_writing_our_own_exposition_gives_the_same_lines() -> None:
    text = worker(3, 4).text()
    lines = [line for family in parse(text).values() for line in family.lines()]
    assert "".join(lines) + "# EOF\n" == text


def test_counters_gauges_and_histograms_are_summed_and_the_others_have_their_own_rule() -> None:
    whole = WholeMetrics()
    whole.totals.said(1, worker(3, 10, expiry=2000).text())
    whole.totals.said(2, worker(4, 20, expiry=1500).text())
    text = whole.text()
    assert value(text, 'hbone_tunnels_open{direction="inbound"}') == 7
    assert value(text, "hbone_tls_handshakes_total{") == 30
    assert value(text, 'hbone_tls_handshake_seconds_bucket{direction="inbound",le="0.025"}') == 2
    assert value(text, "hbone_tls_handshake_seconds_count") == 2
    assert value(text, "istio_build") == 1
    assert value(text, "hbone_workloads") == 7
    assert value(text, "hbone_svid_expiry_timestamp_seconds") == 1500
    assert text.count("# TYPE hbone_tls_handshakes counter") == 1
    assert text.endswith("# EOF\n")
    assert "".join(whole.chunks()) == text


def test_a_label_set_that_only_one_worker_has_is_there() -> None:
    metrics = Metrics()
    metrics.gauge(TUNNELS_OPEN).labels("outbound").value = 5
    total = merged([parse(worker(3, 4).text()), parse(metrics.text())])
    assert total[TUNNELS_OPEN.name].samples == {
        'hbone_tunnels_open{direction="inbound"}': 3,
        'hbone_tunnels_open{direction="outbound"}': 5,
    }


def test_counters_never_fall_when_a_worker_ends_and_gauges_do() -> None:
    totals = Totals()
    totals.said(1, worker(3, 10).text())
    totals.said(2, worker(4, 20).text())
    totals.ended(1)
    totals.said(1, worker(1, 2).text())  # its successor, from zero
    total = totals.with_own(Metrics().text())
    assert list(total[HANDSHAKES.name].samples.values()) == [32]
    assert list(total[TUNNELS_OPEN.name].samples.values()) == [5]
    assert total[HANDSHAKE_SECONDS.name].samples['hbone_tls_handshake_seconds_count{direction="inbound"}'] == 3
    totals.ended(1)
    totals.ended(1)
    assert list(totals.with_own(Metrics().text())[HANDSHAKES.name].samples.values()) == [32]
