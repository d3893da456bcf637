"""Where a CONNECT that reached us goes: which of our workloads is meant, and what to dial for it.

The TCP address that the tunnel was accepted on decides which workload is meant (it decided the certificate
too); the authority has to agree with it. An authority may differ only where the workload stands for something
else: as a waypoint, or with an application tunnel.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Final, TypeAlias

from hbone.addr import Authority, HostPort, IpAddress, SocketAddress, parse_ip
from hbone.discovery.directory import Directory
from hbone.discovery.listeners import USUAL, OwnListeners
from hbone.discovery.model import Service, TunnelProtocol, Workload
from hbone.discovery.outcomes import Cause, Refuse
from hbone.discovery.waypoint import serves_as
from hbone.values import dataclass

_LOOPBACK: Final = {4: parse_ip("127.0.0.1"), 6: parse_ip("::1")}
_NO_DIALS: Final[Mapping[int, SocketAddress]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A workload that this node receives connections for.

    `dials`: where its ports really are (mesh port 8080 → 127.0.0.1:3000). When there are any, no other port of
    the workload can be reached; when there are none, every port is dialled at the address that was connected to.
    """

    workload: Workload
    dials: Mapping[int, SocketAddress] = field(default_factory=lambda: _NO_DIALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundContext:
    """`listeners`: our own, which no tunnel may lead to. `forwarded_host`: the host that the CONNECT
    was forwarded for, used for labels alone. `localhost_tunnels`: applications that expect the PROXY
    protocol are dialled on loopback."""

    listeners: OwnListeners = USUAL
    forwarded_host: str | None = None
    localhost_tunnels: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Judge, then dial `upstream`.

    `judged` is the destination address that policies see: the workload's own, whatever is dialled for it.
    `proxy_header` is the destination to write into a PROXY v2 header before the bytes; None: no header. `service`:
    what was probably asked for, for labels alone.
    """

    upstream: SocketAddress
    judged: SocketAddress
    destination: Workload
    service: Service | None
    proxy_header: SocketAddress | None = None


InboundPlan: TypeAlias = Deliver | Refuse

_DEFAULT_CONTEXT: Final = InboundContext()


def served_at(served: tuple[Served, ...], local: SocketAddress) -> Served | None:
    """Whose connections arrive at a local address: the workload that has the address (and the HBONE port, when several
    have it), or the only one there is."""
    here = [one for one in served if local.ip in one.workload.addresses]
    exact = next((one for one in here if one.workload.hbone_port == local.port), None)
    if exact is not None or here:
        return exact or here[0]
    return served[0] if len(served) == 1 else None


def plan_inbound(
    directory: Directory,
    served: tuple[Served, ...],
    local: SocketAddress,
    authority: Authority,
    context: InboundContext = _DEFAULT_CONTEXT,
) -> InboundPlan:
    """What to do with a CONNECT for `authority` in a tunnel that was accepted at `local`."""
    one = served_at(served, local)
    if one is None:
        return Refuse(
            cause=Cause.NOT_SERVED,
            what=f"no workload is served at {local.ip}",
            fix="add a WorkloadEntry with this address, or connect to one that has one",
            status=400,
        )
    if isinstance(authority, SocketAddress):
        return _to_address(directory, one, local, authority, context)
    return _to_host(directory, one, local, authority, context)


def _to_address(
    directory: Directory, one: Served, local: SocketAddress, authority: SocketAddress, context: InboundContext
) -> InboundPlan:
    own = one.workload
    meant = (
        authority.ip == local.ip
        or authority.ip in own.addresses
        or own.application_tunnel is not None
        or _stands_before(directory, own, local.ip, authority.ip)
    )
    if not meant:
        return Refuse(
            cause=Cause.IP_MISMATCH,
            what=f"ip mismatch: {local.ip} != {authority.ip}",
            why=f"{own.uid} is served here, and it is no waypoint for {authority.ip}",
            fix="connect to the node proxy of that workload",
            status=400,
        )
    return _deliver(directory, one, local, _Target(authority.port, authority, None), context)


def _stands_before(directory: Directory, own: Workload, local_ip: IpAddress, ip: IpAddress) -> bool:
    """Whether `own` is the waypoint of what lives at `ip`."""
    found = directory.at(own.network, ip, own.namespace)
    return (
        found.workload is not None
        and found.workload.waypoint is not None
        and serves_as(directory, own, local_ip, found.workload.waypoint)
    ) or (found.service is not None and _fronts(directory, own, local_ip, found.service))


def _fronts(directory: Directory, own: Workload, local_ip: IpAddress, service: Service) -> bool:
    gateways = [weighted.destination for weighted in service.weighted_waypoints]
    if service.waypoint is not None:
        gateways.append(service.waypoint)
    return any(serves_as(directory, own, local_ip, gateway) for gateway in gateways)


def _to_host(
    directory: Directory, one: Served, local: SocketAddress, authority: HostPort, context: InboundContext
) -> InboundPlan:
    own = one.workload
    service = directory.service_named(authority.host, own.namespace)
    if service is None:
        if own.hostname and own.hostname.lower() == authority.host:
            return _deliver(directory, one, local, _Target(authority.port, authority, None), context)
        return Refuse(
            cause=Cause.UNKNOWN_HOST,
            what=f"no service or workload for hostname: {authority.host}",
            fix="check the name with `hbone get services`",
        )
    endpoint = own.services.get(service.key)
    if endpoint is None and own.application_tunnel is None and not _fronts(directory, own, local.ip, service):
        return Refuse(
            cause=Cause.NOT_SERVED,
            what=f"{own.uid} is no endpoint of {service.key}",
            why="it is served here, and it is no waypoint for that service",
            fix="connect to an endpoint of the service",
            status=400,
        )
    port = (endpoint or {}).get(authority.port) or service.ports.get(authority.port)
    if not port:
        return Refuse(
            cause=Cause.NO_PORT,
            what=f"requested service {authority.host}:{authority.port} found, but cannot resolve port",
            fix=f"use one of its ports: {', '.join(map(str, sorted(service.ports))) or 'it has none'}",
        )
    return _deliver(directory, one, local, _Target(port, authority, service), context)


@dataclass(frozen=True, slots=True)
class _Target:
    """The workload's port that is meant, the authority that said so, and the service if it named one."""

    port: int
    authority: Authority
    service: Service | None


def _deliver(
    directory: Directory, one: Served, local: SocketAddress, target: _Target, context: InboundContext
) -> InboundPlan:
    own = one.workload
    tunnel = own.application_tunnel
    port = tunnel.port if tunnel is not None and tunnel.port else target.port
    if port == local.port or context.listeners.take(local.ip, target.port):
        return _loop(SocketAddress(local.ip, target.port))
    judged = SocketAddress(local.ip, port)
    upstream = one.dials.get(port) if one.dials else judged
    if upstream is None:
        return Refuse(
            cause=Cause.NO_PORT,
            what=f"{own.uid} does not offer port {port}",
            fix=f"use one of its ports: {', '.join(map(str, sorted(one.dials)))}",
        )
    header: SocketAddress | None = None
    if tunnel is not None and tunnel.protocol is TunnelProtocol.PROXY:
        told = _header_target(own, target)
        if isinstance(told, Refuse):
            return told
        header = told
        if context.localhost_tunnels and not one.dials:
            upstream = SocketAddress(_LOOPBACK[local.ip.version], port)
    if context.listeners.take(upstream.ip, upstream.port):
        return _loop(upstream)
    service = target.service or asked_service(directory, own, port, context.forwarded_host)
    return Deliver(upstream=upstream, judged=judged, destination=own, service=service, proxy_header=header)


def _loop(called: SocketAddress) -> Refuse:
    return Refuse(
        cause=Cause.ILLEGAL_CALL,
        what="attempted recursive call to ourselves",
        why=f"{called} is a listener of this proxy",
        fix="connect to a port of the application",
    )


def _header_target(own: Workload, target: _Target) -> SocketAddress | Refuse:
    """The destination that a PROXY header tells: the authority's address, or an address of the service it named."""
    authority = target.authority
    if isinstance(authority, SocketAddress):
        return authority
    ip = target.service.vip(own.network, 4) if target.service is not None else None
    if ip is None:
        return Refuse(
            cause=Cause.NO_ADDRESS,
            what=f"requested service {authority.host} found, but has no IP addresses",
            why=f"the PROXY protocol needs one on network {own.network!r}",
            fix="give the service an address",
        )
    return SocketAddress(ip, authority.port)


def asked_service(directory: Directory, own: Workload, port: int, forwarded_host: str | None) -> Service | None:
    """The service that a connection to `port` of `own` was probably made for: the one whose host the peer named,
    else the first that leads to this port. A host that is not one of the workload's own services is ignored."""
    fitting: Service | None = None
    for key, ports in own.services.items():
        namespace, _, hostname = key.partition("/")
        service = directory.service(namespace, hostname)
        if service is None:
            continue
        if forwarded_host is not None and service.hostname.lower() == forwarded_host.lower():
            return service
        if fitting is None and (port in ports.values() or port in service.ports.values()):
            fitting = service
    return fitting
