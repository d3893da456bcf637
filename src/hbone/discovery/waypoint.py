"""Waypoints: which one stands before a destination, where it is, and whether the source is one itself.

A waypoint that cannot be found is a refusal. Nothing ever goes around it: policies may be enforced nowhere else.
"""

from hbone.addr import IpAddress
from hbone.discovery.directory import Directory
from hbone.discovery.model import GatewayAddress, NamespacedHostname, Service, Workload
from hbone.discovery.outcomes import Cause, Refuse
from hbone.discovery.request import Request, other_network
from hbone.discovery.select import Candidate, Purpose, Selector, Wanted
from hbone.values import dataclass


@dataclass(frozen=True, slots=True)
class Waypoint:
    """An instance to go through, the service it was chosen from, and the address to prefer when it has several."""

    chosen: Candidate
    service: Service | None
    prefer: IpAddress | None


@dataclass(frozen=True, slots=True)
class _Reference:
    """What a gateway address leads to: a service, or one workload."""

    service: Service | None
    workload: Workload | None


def _look_up(directory: Directory, gateway: GatewayAddress) -> _Reference:
    target = gateway.destination
    if isinstance(target, NamespacedHostname):
        service = directory.service(target.namespace, target.hostname)
        if service is not None:
            return _Reference(service, None)
        hosts = directory.workloads_with_host(target.hostname)
        return _Reference(None, next((w for w in hosts if w.namespace == target.namespace), None))
    found = directory.at(target.network, target.ip)
    if found.service is not None and (gateway.port in found.service.ports or found.workload is None):
        return _Reference(found.service, None)
    return _Reference(None, found.workload)


def waypoint_of(service: Service, selector: Selector) -> GatewayAddress | None:
    """The waypoint for the next connection to a service: one of the weighted ones in proportion, or the one."""
    weighted = service.weighted_waypoints
    if weighted:
        index = selector.sample(tuple(waypoint.weight for waypoint in weighted))
        if index is not None:
            return weighted[index].destination
    return service.waypoint


def find_waypoint(request: Request, gateway: GatewayAddress) -> Waypoint | Refuse:
    """The instance of a waypoint whose turn it is."""
    reference = _look_up(request.directory, gateway)
    target = gateway.destination
    prefer = request.dialled if isinstance(target, NamespacedHostname) else target.ip
    if reference.service is not None:
        chosen = request.choose(Wanted(reference.service, gateway.port, Purpose.WAYPOINT))
        return chosen if isinstance(chosen, Refuse) else Waypoint(chosen, reference.service, prefer)
    workload = reference.workload
    if workload is None:
        return Refuse(
            cause=Cause.UNKNOWN_WAYPOINT,
            what=f"unknown waypoint: waypoint {target} not found",
            why="the destination must be reached through it",
            fix="start the waypoint, or take it away from the destination",
        )
    if workload.network != request.source.network:
        return other_network(workload)
    if workload.uid in request.context.tried:
        return Refuse(
            cause=Cause.NO_UPSTREAM, what=f"no healthy upstream: waypoint {target}", why="it could not be reached"
        )
    return Waypoint(Candidate(workload, gateway.port), None, prefer)


def source_is(request: Request, gateway: GatewayAddress) -> bool:
    """Whether the connection comes from that very waypoint: its identity, from one of its addresses."""
    reference = _look_up(request.directory, gateway)
    if reference.workload is not None:
        return _comes_from(request, reference.workload)
    service = reference.service
    return service is not None and any(_comes_from(request, e.workload) for e in request.directory.endpoints(service))


def _comes_from(request: Request, workload: Workload) -> bool:
    return workload.identity == request.source.identity and request.context.downstream in workload.addresses


def source_is_waypoint_of(request: Request, service: Service) -> bool:
    gateways = [weighted.destination for weighted in service.weighted_waypoints]
    if service.waypoint is not None:
        gateways.append(service.waypoint)
    return any(source_is(request, gateway) for gateway in gateways)


def serves_as(directory: Directory, workload: Workload, local_ip: IpAddress, gateway: GatewayAddress) -> bool:
    """Whether a gateway address means `workload`, which was reached at `local_ip`."""
    reference = _look_up(directory, gateway)
    if reference.workload is not None:
        return reference.workload.uid == workload.uid or local_ip in reference.workload.addresses
    return reference.service is not None and reference.service.key in workload.services
