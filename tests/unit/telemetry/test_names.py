"""The tables of metrics, labels and access fields."""

import pytest

from hbone import errors
from hbone.telemetry.names import ACCESS_FIELDS, FLAGS, LABEL_HELP, METRICS, TRAFFIC_LABELS, Kind


def test_every_metric_has_a_name_of_its_own_and_help() -> None:
    names = [metric.name for metric in METRICS]
    assert sorted(names) == sorted(set(names))
    assert all(metric.help for metric in METRICS)


def test_no_counter_carries_the_suffix_that_its_samples_get() -> None:
    assert not [metric.name for metric in METRICS if metric.name.endswith("_total")]


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric.unit], ids=lambda metric: metric.name)
def test_a_metric_with_a_unit_ends_with_it(metric: object) -> None:
    assert getattr(metric, "name", "").endswith("_" + getattr(metric, "unit", ""))


def test_the_traffic_labels_have_the_order_that_dashboards_know() -> None:
    assert TRAFFIC_LABELS[:2] == ("reporter", "source_workload")
    assert TRAFFIC_LABELS[9] == "destination_service"
    assert TRAFFIC_LABELS[-7:-4] == ("request_protocol", "response_flags", "connection_security_policy")
    assert len(TRAFFIC_LABELS) == len(set(TRAFFIC_LABELS)) == 27


def test_the_access_fields_have_the_order_that_log_parsers_know() -> None:
    assert [field.name for field in ACCESS_FIELDS] == [
        "src.addr",
        "src.workload",
        "src.namespace",
        "src.identity",
        "src.cluster",
        "dst.addr",
        "dst.hbone_addr",
        "dst.service",
        "dst.workload",
        "dst.namespace",
        "dst.identity",
        "dst.cluster",
        "direction",
        "bytes_sent",
        "bytes_recv",
        "duration",
        "error",
    ]


def test_every_flag_of_an_error_is_explained() -> None:
    used = {
        kind.flag for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HboneError)
    }
    assert used <= set(FLAGS)


def test_every_label_of_our_own_metrics_is_explained() -> None:
    own = {label for metric in METRICS if metric.name.startswith("hbone_") for label in metric.labels}
    assert own <= set(LABEL_HELP)
    assert {metric.kind for metric in METRICS} == set(Kind)
