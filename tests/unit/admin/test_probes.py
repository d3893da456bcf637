"""Readiness and metrics."""

import gzip

import pytest

from hbone.admin.probes import accepted, metrics_routes, readiness_routes
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import BUILD
from tests.unit.admin.sample import asked, body

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"


def test_a_process_that_waits_for_nothing_is_ready() -> None:
    answer = readiness_routes(lambda: ()).answer(asked("/healthz/ready"))
    assert (answer.status, body(answer)) == (200, b"ready\n")


def test_a_process_that_waits_says_for_what_in_order() -> None:
    answer = readiness_routes(lambda: {"state manager", "dns proxy"}).answer(asked("/healthz/ready"))
    assert (answer.status, body(answer)) == (500, b"not ready, pending: dns proxy, state manager\n")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/healthz/ready", "POST", 405), ("/healthz/ready", "HEAD", 405), ("/healthz", "GET", 404), ("/", "GET", 404)],
)
def test_readiness_has_one_path_and_one_method(path: str, method: str, status: int) -> None:
    assert readiness_routes(lambda: ()).answer(asked(path, method)).status == status


def test_a_probe_may_come_by_any_name() -> None:
    assert readiness_routes(lambda: ()).answer(asked("/healthz/ready", host="10.0.0.1:15021")).status == 200


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.gauge(BUILD).labels("hbone", "1.2.3").value = 1
    return metrics


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("application/openmetrics-text;q=0, text/plain", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
    ],
)
def test_metrics_are_openmetrics_and_called_so_to_who_knows_it(
    metrics: Metrics, path: str, accept: str, kind: str
) -> None:
    answer = metrics_routes(metrics).answer(asked(path, accept=accept))
    text = body(answer)
    assert (answer.status, answer.content_type) == (200, kind)
    assert b'istio_build{component="hbone",tag="1.2.3"} 1\n' in text
    assert text.endswith(b"# EOF\n")


@pytest.mark.parametrize(("encoding", "packed"), [("gzip, br", True), ("br;q=1.0, gzip;q=0", False), ("", False)])
def test_metrics_are_compressed_for_who_can_unpack_them(metrics: Metrics, encoding: str, packed: bool) -> None:
    answer = metrics_routes(metrics).answer(asked("/metrics", accept_encoding=encoding))
    assert (answer.headers.get("content-encoding") == "gzip") == packed
    text = gzip.decompress(body(answer)) if packed else body(answer)
    assert text.decode() == metrics.text()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("", set[str]()),
        ("gzip;q=0.0, BR ; q=0.5,,", {"br"}),
        ("a/b;version=1;q=0.000", set[str]()),
        ("a/b;level=1;q=0.001,c", {"a/b", "c"}),
    ],
)
def test_a_weight_of_zero_means_no(header: str, names: set[str]) -> None:
    assert accepted(header) == names
