"""What labels and annotations say: does a workload speak HBONE, what is it called, which waypoint is before it."""

from collections.abc import Mapping
from typing import Final

from hbone.discovery.model import Protocol
from hbone.values import dataclass

REDIRECTION: Final = "ambient.istio.io/redirection"
TUNNEL: Final = "networking.istio.io/tunnel"
DATAPLANE_MODE: Final = "istio.io/dataplane-mode"
USE_WAYPOINT: Final = "istio.io/use-waypoint"
USE_WAYPOINT_NAMESPACE: Final = "istio.io/use-waypoint-namespace"
WAYPOINT_FOR: Final = "istio.io/waypoint-for"
GATEWAY_NAME: Final = "gateway.networking.k8s.io/gateway-name"
WORKLOAD_NAME: Final = "service.istio.io/workload-name"
AUTO_REGISTRATION_GROUP: Final = "istio.io/autoRegistrationGroup"

_CANONICAL_NAMES: Final = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CANONICAL_REVISIONS: Final = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The labels that decide about one workload. `namespace` is empty for what is outside of the mesh."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    namespace: Mapping[str, str]
    has_account: bool


@dataclass(frozen=True, slots=True)
class Speaks:
    """`native`: the application does HBONE by itself."""

    protocol: Protocol
    native: bool = False


def speaks(marks: Marks) -> Speaks:
    """Which protocol leads to a workload. The first that applies:

    1. annotation `ambient.istio.io/redirection: enabled` → HBONE;
    2. label `networking.istio.io/tunnel` with `http` among its values → HBONE, by the application itself; `none` → TCP;
    3. label `istio.io/dataplane-mode: ambient` of the object → HBONE, `none` → TCP;
    4. the same label of its Namespace;
    5. a `serviceAccount` → HBONE, none → TCP.

    The last is our own rule: nobody names an identity for a program that cannot show it, and a workload that has
    one must not be spoken to in clear because a label was forgotten.
    """
    if marks.annotations.get(REDIRECTION) == "enabled":
        return Speaks(Protocol.HBONE)
    if named := marks.labels.get(TUNNEL):
        tunnel = {word.strip() for word in named.split(",")}
        if "http" in tunnel:
            return Speaks(Protocol.HBONE, native=True)
        if "none" in tunnel:
            return Speaks(Protocol.TCP)
    for labels in (marks.labels, marks.namespace):
        match labels.get(DATAPLANE_MODE):
            case "ambient":
                return Speaks(Protocol.HBONE)
            case "none":
                return Speaks(Protocol.TCP)
            case _:
                continue
    return Speaks(Protocol.HBONE if marks.has_account else Protocol.TCP)


def workload_name(name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """The name of what the workload is an instance of."""
    return labels.get(WORKLOAD_NAME) or annotations.get(AUTO_REGISTRATION_GROUP) or name


def canonical_name(labels: Mapping[str, str], fallback: str) -> str:
    return _first(labels, _CANONICAL_NAMES, fallback)


def canonical_revision(labels: Mapping[str, str]) -> str:
    return _first(labels, _CANONICAL_REVISIONS, "latest")


def _first(labels: Mapping[str, str], keys: tuple[str, ...], otherwise: str) -> str:
    for key in keys:
        if found := labels.get(key):
            return found
    return otherwise


@dataclass(frozen=True, slots=True)
class WaypointName:
    """A waypoint by name and namespace; `inherited` when the Namespace's label says so, not the object's own."""

    namespace: str
    name: str
    inherited: bool


def wanted_waypoint(namespace: str, own: Mapping[str, str], of_namespace: Mapping[str, str]) -> WaypointName | None:
    """The waypoint that an object asks for. Its own label beats the Namespace's; `none` means none."""
    for labels, inherited in ((own, False), (of_namespace, True)):
        name = labels.get(USE_WAYPOINT)
        if name:
            return (
                None if name == "none" else WaypointName(labels.get(USE_WAYPOINT_NAMESPACE, namespace), name, inherited)
            )
    return None


def takes_workloads(labels: Mapping[str, str]) -> bool:
    """Whether a waypoint takes traffic that is addressed to workloads, not to services."""
    return labels.get(WAYPOINT_FOR) in {"workload", "all"}


def takes_services(labels: Mapping[str, str]) -> bool:
    """Whether a waypoint takes traffic that is addressed to services: so unless it says otherwise."""
    return labels.get(WAYPOINT_FOR, "service") in {"service", "all"}
