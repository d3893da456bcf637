"""What labels say about a workload."""

import pytest

from hbone.discovery.enrolment import (
    Marks,
    Speaks,
    WaypointName,
    canonical_name,
    canonical_revision,
    speaks,
    takes_services,
    takes_workloads,
    wanted_waypoint,
    workload_name,
)
from hbone.discovery.model import Protocol

HBONE, TCP, NATIVE = Speaks(Protocol.HBONE), Speaks(Protocol.TCP), Speaks(Protocol.HBONE, native=True)
MODE = "istio.io/dataplane-mode"
TUNNEL = "networking.istio.io/tunnel"
REDIRECTION = "ambient.istio.io/redirection"


@pytest.mark.parametrize(
    ("labels", "annotations", "namespace", "account", "expected"),
    [
        ({}, {}, {}, True, HBONE),  # an identity means mutual TLS
        ({}, {}, {}, False, TCP),
        ({}, {REDIRECTION: "enabled"}, {}, False, HBONE),
        ({}, {REDIRECTION: "pending"}, {}, False, TCP),
        ({TUNNEL: "none"}, {REDIRECTION: "enabled"}, {}, False, HBONE),
        ({TUNNEL: "http"}, {}, {}, False, NATIVE),
        ({TUNNEL: "spdy, http"}, {}, {}, False, NATIVE),
        ({TUNNEL: "none"}, {}, {MODE: "ambient"}, True, TCP),
        ({MODE: "ambient"}, {}, {}, False, HBONE),
        ({MODE: "none"}, {}, {MODE: "ambient"}, True, TCP),
        ({}, {}, {MODE: "ambient"}, False, HBONE),
        ({}, {}, {MODE: "none"}, True, TCP),
        ({MODE: "ambient"}, {}, {MODE: "none"}, False, HBONE),
        ({MODE: "other"}, {}, {}, True, HBONE),
    ],
)
def test_the_first_mark_that_applies_decides_what_a_workload_speaks(
    labels: dict[str, str], annotations: dict[str, str], namespace: dict[str, str], account: bool, expected: Speaks
) -> None:
    marks = Marks(labels=labels, annotations=annotations, namespace=namespace, has_account=account)
    assert speaks(marks) == expected


def test_names_come_from_the_first_label_that_is_there() -> None:
    assert canonical_name({"app": "a", "app.kubernetes.io/name": "b"}, "c") == "b"
    assert canonical_name({"service.istio.io/canonical-name": "d", "app": "a"}, "c") == "d"
    assert canonical_name({"app": ""}, "c") == "c"
    assert canonical_revision({"version": "v1", "app.kubernetes.io/version": "v2"}) == "v2"
    assert canonical_revision({}) == "latest"
    assert workload_name("vm-1", {}, {}) == "vm-1"
    assert workload_name("vm-1", {"service.istio.io/workload-name": "cart"}, {}) == "cart"
    assert workload_name("vm-1", {}, {"istio.io/autoRegistrationGroup": "group"}) == "group"


USE, IN = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"


@pytest.mark.parametrize(
    ("own", "namespace", "expected"),
    [
        ({}, {}, None),
        ({USE: "wp"}, {}, WaypointName("shop", "wp", inherited=False)),
        ({USE: "wp", IN: "infra"}, {}, WaypointName("infra", "wp", inherited=False)),
        ({}, {USE: "wp"}, WaypointName("shop", "wp", inherited=True)),
        ({USE: "none"}, {USE: "wp"}, None),
        ({USE: "own"}, {USE: "wp"}, WaypointName("shop", "own", inherited=False)),
        ({}, {USE: "wp", IN: "infra"}, WaypointName("infra", "wp", inherited=True)),
    ],
)
def test_an_objects_own_waypoint_label_beats_its_namespaces(
    own: dict[str, str], namespace: dict[str, str], expected: WaypointName | None
) -> None:
    assert wanted_waypoint("shop", own, namespace) == expected


@pytest.mark.parametrize(
    ("value", "services", "workloads"),
    [
        (None, True, False),
        ("service", True, False),
        ("workload", False, True),
        ("all", True, True),
        ("none", False, False),
    ],
)
def test_a_waypoint_takes_traffic_to_services_workloads_or_both(
    value: str | None, services: bool, workloads: bool
) -> None:
    labels = {"istio.io/waypoint-for": value} if value else {}
    assert (takes_services(labels), takes_workloads(labels)) == (services, workloads)
