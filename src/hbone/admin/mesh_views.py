"""The mesh's state as views. The views are made one by one, as they are asked for, from a copy of the state's index."""

from collections.abc import Callable, Iterator

from hbone.discovery.directory import Directory
from hbone.discovery.model import Endpoint, PortMap, Service, Workload
from hbone.telemetry.views import EndpointView, ServiceView, WorkloadView


def workload_views(directory: Directory, served_here: Callable[[Workload], bool]) -> Iterator[WorkloadView]:
    """All workloads, by namespace and name; `served_here` tells those that this process works for."""
    for workload in directory.workloads():
        yield workload_view(workload, served_here=served_here(workload))


def service_views(directory: Directory) -> Iterator[ServiceView]:
    """All services with their endpoints, by namespace and host name."""
    for service in directory.services():
        yield service_view(service, directory.endpoints(service))


def nowhere(_: Workload) -> bool:
    """`served_here` of a process that works for no workload: a control plane."""
    return False


def workload_view(workload: Workload, *, served_here: bool) -> WorkloadView:
    return WorkloadView(
        uid=workload.uid,
        name=workload.name,
        namespace=workload.namespace,
        service_account=workload.service_account,
        identity=str(workload.identity),
        addresses=tuple(map(str, workload.addresses)) or ((workload.hostname,) if workload.hostname else ()),
        protocol=workload.protocol.value,
        health=workload.health.value,
        node=workload.node,
        network=workload.network,
        cluster=workload.cluster_id,
        locality=str(workload.locality),
        services=tuple(workload.services),
        waypoint=_text(workload.waypoint),
        served_here=served_here,
    )


def service_view(service: Service, endpoints: tuple[Endpoint, ...]) -> ServiceView:
    waypoints = (service.waypoint, *(weighted.destination for weighted in service.weighted_waypoints))
    return ServiceView(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        vips=(*map(str, service.vips), *map(str, service.cidr_vips)),
        ports=_ports(service.ports),
        endpoints=tuple(map(_endpoint_view, endpoints)),
        subject_alt_names=service.subject_alt_names,
        waypoint=", ".join(str(waypoint) for waypoint in waypoints if waypoint is not None) or None,
    )


def _endpoint_view(endpoint: Endpoint) -> EndpointView:
    workload = endpoint.workload
    return EndpointView(
        uid=workload.uid,
        address=next(map(str, workload.addresses), workload.hostname or None),
        ports=_ports(endpoint.ports),
        health=workload.health.value,
    )


def _ports(ports: PortMap) -> tuple[str, ...]:
    return tuple(f"{port}:{target}" for port, target in ports.items())


def _text(value: object) -> str | None:
    return None if value is None else str(value)
