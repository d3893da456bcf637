"""Where an outbound connection goes: the steps of ztunnel, as one function from facts to a plan.

A plan names one upstream. When connecting to it fails before any byte was sent, ask again with
`context.without(plan)`; what was tried is left out, and when nothing is left the answer is a refusal. `Resolve` asks
the caller to look a host name up and to come back with `context.resolved(plan, addresses)`.

A destination is resolved once: what was found at an address is both what a waypoint is looked up for and what
connections are balanced over. Where a service and a workload share an address, the service is meant if it has a
waypoint (nobody gets around it by way of a shared address) or balances connections to the port; else the workload is,
so that nothing goes in clear to a workload that speaks HBONE.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from hbone.addr import Authority, HostPort, IpAddress, SocketAddress
from hbone.discovery.directory import Directory, Found
from hbone.discovery.model import LoadBalancerMode, Protocol, Service, Workload
from hbone.discovery.names import named
from hbone.discovery.outcomes import (
    Cause,
    OutboundPlan,
    Passthrough,
    Refuse,
    Resolve,
    ThroughTunnel,
    ThroughWaypoint,
)
from hbone.discovery.request import OutboundContext, Request, Unknown, other_network, pick, unresolved
from hbone.discovery.select import Candidate, Selector, Wanted
from hbone.discovery.waypoint import Waypoint, find_waypoint, source_is, source_is_waypoint_of, waypoint_of
from hbone.identity.spiffe import SpiffeId

__all__ = [
    "Cause",
    "OutboundContext",
    "OutboundPlan",
    "Passthrough",
    "Refuse",
    "Resolve",
    "ThroughTunnel",
    "ThroughWaypoint",
    "Unknown",
    "plan_outbound",
]

PLANS_KEPT: Final = 16_384
_DEFAULT_CONTEXT: Final = OutboundContext()


def plan_outbound(
    directory: Directory,
    source: Workload,
    destination: Authority,
    selector: Selector,
    context: OutboundContext = _DEFAULT_CONTEXT,
) -> OutboundPlan:
    """What to do with a connection from `source` to the address or host name that a program asked for."""
    if isinstance(destination, SocketAddress):
        # the ports first: `is_loopback` takes a microsecond
        if context.listeners.take(destination.ip, destination.port) and destination.ip.is_loopback:
            return Refuse(
                cause=Cause.ILLEGAL_CALL,
                what="attempted recursive call to ourselves",
                why=f"{destination} is a listener of this proxy",
                fix="connect to the service itself",
            )
        found = directory.at(source.network, destination.ip, source.namespace)
    else:
        found = named(directory, destination.host, source.namespace, context.cluster_domain)
    request = Request(directory, source, destination, selector, context)
    match _meant(found, destination.port):
        case Service() as service:
            return _to_service(request, service)
        case Workload() as workload:
            return _to_workload(request, workload)
        case None:
            return _to_unknown(request)


def _meant(found: Found, port: int) -> Service | Workload | None:
    service = found.service
    if service is None or found.workload is None or service.has_waypoint:
        return service or found.workload
    balances = port in service.ports and service.load_balancing.mode is not LoadBalancerMode.PASSTHROUGH
    return service if balances else found.workload


def _to_unknown(request: Request) -> OutboundPlan:
    destination = request.destination
    if not isinstance(destination, SocketAddress):
        return Refuse(
            cause=Cause.UNKNOWN_HOST,
            what=f"no service or workload for hostname: {destination.host}",
            fix="check the name with `hbone get services`, or connect by address",
        )
    if request.context.unknown is Unknown.REFUSE:
        return Refuse(
            cause=Cause.UNKNOWN_ADDRESS,
            what=f"no service or workload for address: {destination.ip}",
            fix="add a WorkloadEntry or ServiceEntry for it, or allow passthrough",
        )
    return Passthrough(upstream=destination, destination=None, service=None)


def _to_service(request: Request, service: Service) -> OutboundPlan:
    if service.has_waypoint and not source_is_waypoint_of(request, service):
        gateway = waypoint_of(service, request.selector)
        if gateway is not None:
            found = find_waypoint(request, gateway)
            return found if isinstance(found, Refuse) else _through(request, found, service, None)
    if service.load_balancing.mode is LoadBalancerMode.PASSTHROUGH:
        return _as_asked(request, service)
    chosen = request.choose(Wanted(service, request.destination.port))
    return chosen if isinstance(chosen, Refuse) else _direct(request, chosen, service)


def _to_workload(request: Request, workload: Workload) -> OutboundPlan:
    if workload.network != request.source.network:
        return other_network(workload)
    gateway = workload.waypoint
    if gateway is not None and not source_is(request, gateway):
        found = find_waypoint(request, gateway)
        return found if isinstance(found, Refuse) else _through(request, found, None, workload)
    if workload.uid in request.context.tried:
        return Refuse(
            cause=Cause.NO_UPSTREAM,
            what=f"no healthy upstream: {request.destination}",
            why=f"{workload.uid} could not be reached",
        )
    return _direct(request, Candidate(workload, request.destination.port), None)


def _as_asked(request: Request, service: Service) -> OutboundPlan:
    """In clear to where the program wanted to go."""
    destination = request.destination
    if isinstance(destination, SocketAddress):
        return Passthrough(upstream=destination, destination=None, service=service)
    answer = request.context.addresses.get(destination.host)
    if answer is None:
        return Resolve(host=destination.host, destination=None, service=service)
    ip = pick(answer, None)
    if ip is None:
        return unresolved(destination.host)
    return Passthrough(upstream=SocketAddress(ip, destination.port), destination=None, service=service)


def _direct(request: Request, chosen: Candidate, service: Service | None) -> OutboundPlan:
    """To a workload with nothing between."""
    workload = chosen.workload
    ip = request.address(workload, service, request.dialled)
    if isinstance(ip, Resolve | Refuse):
        return ip
    if workload.protocol is Protocol.TCP:
        return Passthrough(upstream=SocketAddress(ip, chosen.port), destination=workload, service=service)
    return _tunnel(workload, service, ip, chosen.port)


@lru_cache(maxsize=PLANS_KEPT)
def _tunnel(workload: Workload, service: Service | None, ip: IpAddress, port: int) -> ThroughTunnel:
    """The same plan for the same facts: what others make of it once, they find again by it."""
    return ThroughTunnel(
        peer=SocketAddress(ip, workload.hbone_port),
        authority=SocketAddress(ip, port),
        expected=_expected(workload, service),
        destination=workload,
        service=service,
    )


def _through(
    request: Request, waypoint: Waypoint, service: Service | None, destination: Workload | None
) -> OutboundPlan:
    """To a waypoint, asking it for what the program asked for."""
    instance = waypoint.chosen.workload
    ip = request.address(instance, waypoint.service, waypoint.prefer)
    if isinstance(ip, Resolve | Refuse):
        return ip
    authority = _authority(request, service, destination, ip)
    ends = _Ends(instance, waypoint.service, destination, service)
    return _waypoint_tunnel(ends, SocketAddress(ip, waypoint.chosen.port), authority)


class _Ends(NamedTuple):
    """The waypoint and the service that it is one of; the destination and the service that it is asked for."""

    waypoint: Workload
    waypoint_service: Service | None
    destination: Workload | None
    service: Service | None


@lru_cache(maxsize=PLANS_KEPT)
def _waypoint_tunnel(ends: _Ends, peer: SocketAddress, authority: Authority) -> ThroughWaypoint:
    """As `_tunnel`."""
    return ThroughWaypoint(
        peer=peer,
        authority=authority,
        expected=_expected(ends.waypoint, ends.waypoint_service),
        waypoint=ends.waypoint,
        destination=ends.destination,
        service=ends.service,
    )


def _authority(request: Request, service: Service | None, destination: Workload | None, near: IpAddress) -> Authority:
    """What was asked for, as an address where there is one: not every waypoint takes names.

    Between several addresses the family of `near`, the waypoint's, is preferred.
    """
    asked = request.destination
    if isinstance(asked, SocketAddress):
        return asked
    if service is not None:
        ip = service.vip(request.source.network, near.version)
        return SocketAddress(ip, asked.port) if ip is not None else HostPort(service.hostname, asked.port)
    if destination is not None and destination.addresses:
        same = (ip for ip in destination.addresses if ip.version == near.version)
        return SocketAddress(next(same, destination.addresses[0]), asked.port)
    return asked


def _expected(workload: Workload, service: Service | None) -> frozenset[SpiffeId]:
    own = frozenset({workload.identity})
    return own if service is None else own | service.identities
