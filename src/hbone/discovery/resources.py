"""Workloads and services as the control plane's protobuf messages (`istio.workload.Address`), both ways.

What is not understood is not guessed: a resource with a malformed address, an unknown enum number or no identity is
rejected with a reason that the sender is told (`hbone.discovery.xds`). Upstream's defaults are applied on the way in
and left out on the way out. Ports out of range are rejected, where ztunnel cuts them to 16 bits.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from hbone.addr import InvalidAddress, IpAddress, Prefix, plain_ip
from hbone.discovery import model
from hbone.discovery.catalogue import Resource
from hbone.errors import PeerViolation
from hbone.identity.spiffe import InvalidSpiffeId
from hbone.proto import workload_pb2 as pb

HBONE_PORT_EXTENSION: Final = "hbone/port"
"""Name of the `Workload.extensions` entry that tells another HBONE port than 15008, which no field of the message
does; its value is a `google.protobuf.UInt32Value`. Others ignore it: to them the port is 15008."""

_UINT32_TYPE = "type.googleapis.com/google.protobuf.UInt32Value"
_MAX_PORT = 65535

_Value = TypeVar("_Value", bound=Enum)
_Number = TypeVar("_Number", bound=int)
_Named = TypeVar("_Named")

# Each table is read in both directions; a number that is missing rejects the resource.
PROTOCOLS: Final = {pb.NONE: model.Protocol.TCP, pb.HBONE: model.Protocol.HBONE}
WORKLOAD_TYPES: Final = {
    pb.DEPLOYMENT: model.WorkloadType.DEPLOYMENT,
    pb.CRONJOB: model.WorkloadType.CRONJOB,
    pb.POD: model.WorkloadType.POD,
    pb.JOB: model.WorkloadType.JOB,
}
HEALTH: Final = {pb.HEALTHY: model.Health.HEALTHY, pb.UNHEALTHY: model.Health.UNHEALTHY}
NETWORK_MODES: Final = {
    pb.STANDARD: model.NetworkMode.STANDARD,
    pb.HOST_NETWORK: model.NetworkMode.HOST_NETWORK,
}
IP_FAMILIES: Final = {
    pb.AUTOMATIC: model.IpFamilies.AUTOMATIC,
    pb.IPV4_ONLY: model.IpFamilies.IPV4,
    pb.IPV6_ONLY: model.IpFamilies.IPV6,
    pb.DUAL: model.IpFamilies.DUAL,
}
SCOPES: Final = {
    pb.LoadBalancing.REGION: model.Scope.REGION,
    pb.LoadBalancing.ZONE: model.Scope.ZONE,
    pb.LoadBalancing.SUBZONE: model.Scope.SUBZONE,
    pb.LoadBalancing.NODE: model.Scope.NODE,
    pb.LoadBalancing.CLUSTER: model.Scope.CLUSTER,
    pb.LoadBalancing.NETWORK: model.Scope.NETWORK,
}
MODES: Final = {
    pb.LoadBalancing.UNSPECIFIED_MODE: model.LoadBalancerMode.STANDARD,
    pb.LoadBalancing.STRICT: model.LoadBalancerMode.STRICT,
    pb.LoadBalancing.FAILOVER: model.LoadBalancerMode.FAILOVER,
    pb.LoadBalancing.PASSTHROUGH: model.LoadBalancerMode.PASSTHROUGH,
}
HEALTH_POLICIES: Final = {
    pb.LoadBalancing.ONLY_HEALTHY: model.HealthPolicy.ONLY_HEALTHY,
    pb.LoadBalancing.ALLOW_ALL: model.HealthPolicy.ALLOW_ALL,
}
TUNNELS: Final = {
    pb.ApplicationTunnel.NONE: model.TunnelProtocol.NONE,
    pb.ApplicationTunnel.PROXY: model.TunnelProtocol.PROXY,
}


class InvalidResource(PeerViolation):
    """A resource that cannot be taken; `what` is the reason that goes into the NACK."""


# in


class AddressDecoder:
    """Serialized `istio.workload.Address` → Workload or Service; equal parts of many resources are shared."""

    def __init__(self) -> None:
        self._interner = model.Interner()

    def decode(self, name: str, body: bytes) -> model.Workload | model.Service:
        """The resource called `name`; raises InvalidResource."""
        try:
            address = pb.Address.FromString(body)
        except DecodeError as error:
            raise InvalidResource("is not protobuf") from error
        kind = address.WhichOneof("type")
        try:
            if kind == "workload":
                workload = self._workload(address.workload)
                return _named(name, workload.uid, workload)
            if kind == "service":
                service = self._service(address.service)
                return _named(name, service.key, service)
        except (InvalidAddress, InvalidSpiffeId) as error:
            raise InvalidResource(error.what) from error
        raise InvalidResource("is neither workload nor service")

    def _workload(self, message: pb.Workload) -> model.Workload:
        share = self._interner.value
        if not message.uid:
            raise InvalidResource("has no uid")
        return model.Workload(
            uid=message.uid,
            name=message.name,
            namespace=share(message.namespace),
            addresses=tuple(_ip(raw) for raw in message.addresses),
            hostname=message.hostname,
            network=share(message.network),
            protocol=_enum(PROTOCOLS, message.tunnel_protocol, "tunnel protocol"),
            trust_domain=share(message.trust_domain or model.DEFAULT_TRUST_DOMAIN),
            service_account=share(message.service_account or model.DEFAULT_SERVICE_ACCOUNT),
            waypoint=_gateway(message.waypoint) if message.HasField("waypoint") else None,
            network_gateway=_gateway(message.network_gateway) if message.HasField("network_gateway") else None,
            node=share(message.node),
            canonical_name=share(message.canonical_name),
            canonical_revision=share(message.canonical_revision),
            workload_type=_enum(WORKLOAD_TYPES, message.workload_type, "workload type"),
            workload_name=share(message.workload_name),
            native_tunnel=message.native_tunnel,
            application_tunnel=_tunnel(message),
            services=self._services(message.services),
            authorization_policies=share(tuple(message.authorization_policies)),
            health=_enum(HEALTH, message.status, "status"),
            cluster_id=share(message.cluster_id or model.DEFAULT_CLUSTER),
            locality=share(_locality(message)),
            network_mode=_enum(NETWORK_MODES, message.network_mode, "network mode"),
            capacity=message.capacity.value if message.HasField("capacity") else 1,
            hbone_port=_hbone_port(message),
        )

    def _services(self, services: Mapping[str, pb.PortList]) -> Mapping[str, model.PortMap]:
        for key in services:
            if "/" not in key:
                raise InvalidResource(f"belongs to a service {key!r} without namespace")
        return self._interner.services({key: _ports(ports.ports) for key, ports in services.items()})

    def _service(self, message: pb.Service) -> model.Service:
        if not message.hostname:
            raise InvalidResource("has no hostname")
        vips, ranges = _vips(message.addresses)
        hidden = message.visibility == pb.Service.NAMESPACE  # upstream: a number that is unknown here is public
        return model.Service(
            name=message.name,
            namespace=self._interner.value(message.namespace),
            hostname=message.hostname,
            vips=vips,
            cidr_vips=ranges,
            ports=self._interner.ports(_ports(message.ports)),
            subject_alt_names=tuple(message.subject_alt_names),
            waypoint=_gateway(message.waypoint) if message.HasField("waypoint") else None,
            weighted_waypoints=tuple(
                model.WeightedWaypoint(destination=_gateway(one.destination), weight=one.weight)
                for one in message.weighted_waypoints
            ),
            load_balancing=_load_balancing(message),
            ip_families=_enum(IP_FAMILIES, message.ip_families, "IP families"),
            canonical=message.canonical,
            visibility=model.Visibility.NAMESPACE if hidden else model.Visibility.PUBLIC,
        )


def _named(name: str, own_name: str, value: _Named) -> _Named:
    """A resource is removed by its name, so it must be the one it will be stored under."""
    if name != own_name:
        raise InvalidResource(f"is named {name!r} but is {own_name!r}")
    return value


def _ip(raw: bytes) -> IpAddress:
    if len(raw) == 4:
        return IPv4Address(raw)
    if len(raw) == 16:
        return plain_ip(IPv6Address(raw))
    raise InvalidResource(f"failed to parse address, had {len(raw)} bytes")


def _port(number: int) -> int:
    if number > _MAX_PORT:
        raise InvalidResource(f"has port {number}")
    return number


def _ports(ports: Iterable[pb.Port]) -> dict[int, int]:
    return {_port(port.service_port): _port(port.target_port) for port in ports}


def _enum(table: Mapping[_Number, _Value], number: _Number, what: str) -> _Value:
    value = table.get(number)
    if value is None:
        raise InvalidResource(f"unknown enum: invalid {what} {number}")
    return value


def _gateway(message: pb.GatewayAddress) -> model.GatewayAddress:
    destination: model.NetworkAddress | model.NamespacedHostname
    match message.WhichOneof("destination"):
        case "hostname":
            destination = model.NamespacedHostname(message.hostname.namespace, message.hostname.hostname)
        case "address":
            destination = model.NetworkAddress(message.address.network, _ip(message.address.address))
        case _:
            raise InvalidResource("nonempty gateway address is missing address")
    return model.GatewayAddress(destination=destination, port=_port(message.hbone_mtls_port) or model.HBONE_PORT)


def _tunnel(message: pb.Workload) -> model.ApplicationTunnel | None:
    if not message.HasField("application_tunnel"):
        return None
    tunnel = message.application_tunnel
    protocol = _enum(TUNNELS, tunnel.protocol, "application tunnel")
    return model.ApplicationTunnel(protocol=protocol, port=_port(tunnel.port) or None)


def _locality(message: pb.Workload) -> model.Locality:
    if not message.HasField("locality"):
        return model.NO_LOCALITY
    place = message.locality
    return model.Locality(region=place.region, zone=place.zone, subzone=place.subzone)


def _hbone_port(message: pb.Workload) -> int:
    for extension in message.extensions:
        if extension.name == HBONE_PORT_EXTENSION:
            value = pb.Workload().capacity  # any UInt32Value
            try:
                readable = extension.config.Unpack(value)
            except DecodeError:
                readable = False
            if not readable or not 0 < value.value <= _MAX_PORT:
                raise InvalidResource(f"extension {HBONE_PORT_EXTENSION} holds no port")
            return value.value
    return model.HBONE_PORT


def _vips(
    addresses: Iterable[pb.NetworkAddress],
) -> tuple[tuple[model.NetworkAddress, ...], tuple[model.NetworkPrefix, ...]]:
    vips: list[model.NetworkAddress] = []
    ranges: list[model.NetworkPrefix] = []
    for one in addresses:
        ip = _ip(one.address)
        if not one.HasField("length") or one.length == ip.max_prefixlen:
            vips.append(model.NetworkAddress(one.network, ip))
        elif one.length < ip.max_prefixlen:
            network = ip_network((ip, one.length), strict=False)
            ranges.append(model.NetworkPrefix(one.network, Prefix(network)))
        else:
            raise InvalidResource(f"has an address range of {one.length} bits")
    return tuple(vips), tuple(ranges)


def _load_balancing(message: pb.Service) -> model.LoadBalancing:
    if not message.HasField("load_balancing"):
        return model.STANDARD_LOAD_BALANCING
    balancing = message.load_balancing
    return model.LoadBalancing(
        mode=_enum(MODES, balancing.mode, "mode"),
        routing_preferences=tuple(_enum(SCOPES, scope, "target") for scope in balancing.routing_preference),
        health_policy=_enum(HEALTH_POLICIES, balancing.health_policy, "health policy"),
    )


# out


def workload_resource(workload: model.Workload) -> Resource:
    """As published: named by uid, also found by "network/ip" unless the address is the machine's."""
    address = pb.Address()
    message = address.workload  # field by field: the constructor takes three times as long
    message.uid = workload.uid
    message.name = workload.name
    message.namespace = workload.namespace
    message.addresses.extend([ip.packed for ip in workload.addresses])
    message.hostname = workload.hostname
    message.network = workload.network
    message.tunnel_protocol = _number(PROTOCOLS, workload.protocol)
    message.trust_domain = _unless(model.DEFAULT_TRUST_DOMAIN, workload.trust_domain)
    message.service_account = _unless(model.DEFAULT_SERVICE_ACCOUNT, workload.service_account)
    message.node = workload.node
    message.canonical_name = workload.canonical_name
    message.canonical_revision = workload.canonical_revision
    message.workload_type = _number(WORKLOAD_TYPES, workload.workload_type)
    message.workload_name = workload.workload_name
    message.native_tunnel = workload.native_tunnel
    if workload.authorization_policies:
        message.authorization_policies.extend(workload.authorization_policies)
    if workload.health is not model.Health.HEALTHY:
        message.status = _number(HEALTH, workload.health)
    message.cluster_id = _unless(model.DEFAULT_CLUSTER, workload.cluster_id)
    if workload.network_mode is not model.NetworkMode.STANDARD:
        message.network_mode = _number(NETWORK_MODES, workload.network_mode)
    for key, ports in workload.services.items():
        message.services[key].ports.extend(_port_messages(ports))
    _write_optional(message, workload)
    own = workload.network_mode is model.NetworkMode.STANDARD
    aliases = tuple(f"{workload.network}/{ip!s}" for ip in workload.addresses) if own else ()
    return Resource(name=workload.uid, body=_bytes(address), aliases=aliases)


def service_resource(service: model.Service) -> Resource:
    """As published: named "namespace/hostname", also found by "network/VIP"."""
    balancing = service.load_balancing
    message = pb.Service(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        addresses=[pb.NetworkAddress(network=vip.network, address=vip.ip.packed) for vip in service.vips],
        ports=_port_messages(service.ports),
        subject_alt_names=service.subject_alt_names,
        waypoint=_gateway_message(service.waypoint) if service.waypoint is not None else None,
        weighted_waypoints=[
            pb.WeightedWaypoint(destination=_gateway_message(one.destination), weight=one.weight)
            for one in service.weighted_waypoints
        ],
        ip_families=_number(IP_FAMILIES, service.ip_families),
        canonical=service.canonical,
        visibility=pb.Service.NAMESPACE if service.visibility is model.Visibility.NAMESPACE else pb.Service.PUBLIC,
    )
    for one in service.cidr_vips:
        network = one.prefix.network
        message.addresses.add(network=one.network, address=network.network_address.packed, length=network.prefixlen)
    if balancing != model.STANDARD_LOAD_BALANCING:
        message.load_balancing.mode = _number(MODES, balancing.mode)
        message.load_balancing.routing_preference.extend(
            _number(SCOPES, scope) for scope in balancing.routing_preferences
        )
        message.load_balancing.health_policy = _number(HEALTH_POLICIES, balancing.health_policy)
    aliases = tuple(str(vip) for vip in service.vips)
    return Resource(name=service.key, body=_bytes(pb.Address(service=message)), aliases=aliases)


def _write_optional(message: pb.Workload, workload: model.Workload) -> None:
    """Messages whose presence means something."""
    if workload.waypoint is not None:
        message.waypoint.CopyFrom(_gateway_message(workload.waypoint))
    if workload.network_gateway is not None:
        message.network_gateway.CopyFrom(_gateway_message(workload.network_gateway))
    if workload.capacity != 1:
        message.capacity.value = workload.capacity
    place = workload.locality
    if place != model.NO_LOCALITY:
        message.locality.region, message.locality.zone, message.locality.subzone = (
            place.region,
            place.zone,
            place.subzone,
        )
    if workload.application_tunnel is not None:
        message.application_tunnel.protocol = _number(TUNNELS, workload.application_tunnel.protocol)
        message.application_tunnel.port = workload.application_tunnel.port or 0
    if workload.hbone_port != model.HBONE_PORT:
        config = message.extensions.add(name=HBONE_PORT_EXTENSION).config
        config.type_url = _UINT32_TYPE
        value = pb.Workload().capacity
        value.value = workload.hbone_port
        config.value = value.SerializeToString()


def _gateway_message(gateway: model.GatewayAddress) -> pb.GatewayAddress:
    match gateway.destination:
        case model.NetworkAddress(network=network, ip=ip):
            address = pb.NetworkAddress(network=network, address=ip.packed)
            return pb.GatewayAddress(address=address, hbone_mtls_port=gateway.port)
        case model.NamespacedHostname(namespace=namespace, hostname=hostname):
            name = pb.NamespacedHostname(namespace=namespace, hostname=hostname)
            return pb.GatewayAddress(hostname=name, hbone_mtls_port=gateway.port)


def _port_messages(ports: model.PortMap) -> list[pb.Port]:
    return [pb.Port(service_port=service, target_port=target) for service, target in ports.items()]


def _number(table: Mapping[_Number, _Value], value: _Value) -> _Number:
    for number, one in table.items():  # a few at most, and the first as a rule
        if one is value:
            return number
    raise AssertionError(value)


def _unless(default: str, value: str) -> str:
    return "" if value == default else value


def _bytes(message: pb.Address) -> bytes:
    # deterministic: the order of maps must not make a new version out of the same contents
    return message.SerializeToString(deterministic=True)
