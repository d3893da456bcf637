"""Workloads and services in ztunnel's local form, field by field; see `hbone.discovery.localfile`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final, TypeVar

from hbone.addr import InvalidAddress, IpAddress, Prefix, parse_host, parse_ip
from hbone.discovery.model import (
    DEFAULT_CLUSTER,
    DEFAULT_SERVICE_ACCOUNT,
    DEFAULT_TRUST_DOMAIN,
    HBONE_PORT,
    NO_LOCALITY,
    STANDARD_LOAD_BALANCING,
    ApplicationTunnel,
    GatewayAddress,
    Health,
    HealthPolicy,
    Interner,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    Locality,
    MeshState,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    NetworkPrefix,
    PortMap,
    Protocol,
    Scope,
    Service,
    TunnelProtocol,
    Visibility,
    WeightedWaypoint,
    Workload,
    WorkloadType,
)
from hbone.documents.fields import Section, shown
from hbone.documents.values import Object, Path, Tagged, Value
from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Enum)

_MAX_UINT32: Final = 2**32 - 1


def _choices(kind: type[_E]) -> Mapping[str, _E]:
    return {member.value: member for member in kind}


_PROTOCOLS: Final = _choices(Protocol)
_NETWORK_MODES: Final = _choices(NetworkMode)
_WORKLOAD_TYPES: Final = _choices(WorkloadType)
_HEALTH: Final = _choices(Health)
_TUNNELS: Final = _choices(TunnelProtocol)
_VISIBILITIES: Final = _choices(Visibility)
_MODES: Final = _choices(LoadBalancerMode)
_SCOPES: Final = _choices(Scope)
_HEALTH_POLICIES: Final = _choices(HealthPolicy)
_FAMILIES: Final = {member.value: member for member in IpFamilies if member is not IpFamilies.AUTOMATIC}


class LocalReading:
    """What one file says, taken workload by workload, then service by service."""

    def __init__(self) -> None:
        self._interner = Interner()
        self._workloads: dict[str, Workload] = {}
        self._services: dict[str, Service] = {}
        self._owners: dict[tuple[str, IpAddress], str] = {}

    def state(self) -> MeshState:
        """All that was taken."""
        return MeshState(workloads=tuple(self._workloads.values()), services=tuple(self._services.values()))

    # workloads

    def add_workload(self, section: Section) -> None:
        workload = self._workload(section)
        if workload is None:
            return
        if workload.uid in self._workloads:
            section.problem("uid", f"{shown(workload.uid)} is there twice", "give each workload its own uid")
            return
        if workload.network_mode is NetworkMode.STANDARD:
            for ip in workload.addresses:
                owner = self._owners.setdefault((workload.network, ip), workload.uid)
                if owner != workload.uid:
                    section.problem(
                        "workloadIps",
                        f"the address {workload.network}/{ip} belongs to {owner} already",
                        "give each its own, or write networkMode: HostNetwork",
                    )
        self._workloads[workload.uid] = workload

    def _workload(self, section: Section) -> Workload | None:
        uid = section.required_text("uid", "Kubernetes//Pod/shop/cart-0")
        namespace = section.required_text("namespace", "shop")
        share = self._interner
        section.know(_WORKLOAD_KEYS)
        found: dict[str, Any] = {}
        for key in section.value:
            if isinstance(key, str) and (row := _ROWS.get(key)) is not None:
                field, read = row
                found[field] = read(section, key, share)
        try:
            workload = Workload(
                uid=uid or "",
                name=section.text("name"),
                namespace=share.value(namespace or "default"),
                **found,
            )
        except InvalidSpiffeId as error:
            section.problem("serviceAccount", f"no identity: {error.what}", error.fix)
            return None
        finally:
            section.finish()
        return workload if uid is not None and namespace is not None else None

    # services

    def add_service(self, section: Section) -> None:
        """Its endpoints must have been taken before."""
        namespace = section.required_text("namespace", "shop")
        hostname = section.required_text("hostname", "cart.shop.svc.cluster.local")
        endpoints = self._endpoints(section)
        service = Service(
            name=section.text("name"),
            namespace=namespace or "",
            hostname=hostname or "",
            vips=tuple(vip for path, text in section.texts("vips") if (vip := _network_address(section, path, text))),
            cidr_vips=tuple(p for inner in section.sections("cidrVips") if (p := _network_prefix(inner)) is not None),
            ports=self._interner.ports(_ports(section, ("ports",), section.raw("ports"), low=0)),
            subject_alt_names=_alt_names(section),
            waypoint=_gateway(section.section("waypoint")),
            weighted_waypoints=tuple(
                w for inner in section.sections("weightedWaypoints") if (w := _weighted(inner)) is not None
            ),
            load_balancing=_load_balancing(section.section("loadBalancer")),
            ip_families=_choice(section, "ipFamilies", _FAMILIES, IpFamilies.AUTOMATIC),
            canonical=section.flag("canonical"),
            visibility=_choice(section, "visibility", _VISIBILITIES, Visibility.PUBLIC),
        )
        section.finish()
        if namespace is None or hostname is None:
            return
        if service.key in self._services:
            section.problem("hostname", f"the service {service.key} is there twice", "keep one of them")
        self._services[service.key] = service
        for uid, ports in endpoints.items():
            workload = self._workloads[uid]
            memberships = {**workload.services, service.key: ports}
            self._workloads[uid] = replace(workload, services=self._interner.services(memberships))

    def _endpoints(self, section: Section) -> dict[str, PortMap]:
        """A service's own list of endpoints: workload uid → port map. A list, or a mapping by any key."""
        raw = section.raw("endpoints")
        if isinstance(raw, Object):
            inner = section.section("endpoints")
            keys = [key for key in raw if isinstance(key, str)]
            sections = [s for key in keys if inner is not None and (s := inner.section(key)) is not None]
        else:
            sections = section.sections("endpoints")
        found: dict[str, PortMap] = {}
        for endpoint in sections:
            uid = endpoint.required_text("workloadUid", "Kubernetes//Pod/shop/cart-0")
            ports = _ports(endpoint, ("port",), endpoint.raw("port"), low=1)
            _choice(endpoint, "status", _HEALTH, Health.HEALTHY)  # the workload's own status holds
            endpoint.finish()
            if uid is not None and uid not in self._workloads:
                endpoint.problem("workloadUid", f"there is no workload {shown(uid)}", "add it to workloads")
            elif uid is not None:
                found[uid] = ports
        return found


def _choice(section: Section, key: str, choices: Mapping[str, _T], default: _T) -> _T:
    """One of the words; also written as a tag without a value, `!HBONE`."""
    value = section.raw(key)
    if isinstance(value, Tagged) and (value.value is None or value.value == ""):
        return section.word((key,), value.tag, choices, default)
    return section.choice(key, choices, default)


def _ips(section: Section) -> tuple[IpAddress, ...]:
    found: dict[IpAddress, None] = {}
    for path, text in section.texts("workloadIps"):
        ip = section.parsed(path, text, parse_ip)
        if ip is not None:
            found[ip] = None
    return tuple(found)


def _memberships(section: Section) -> dict[str, PortMap]:
    value = section.raw("services")
    if value is None:
        return {}
    if not isinstance(value, Object):
        section.wrong_type("services", value, 'a mapping, for example {"shop/cart.shop.svc.cluster.local": {80: 8080}}')
        return {}
    found: dict[str, PortMap] = {}
    for key, ports in value.items():
        if isinstance(key, str) and _is_service_key(key):
            found[key] = _ports(section, ("services", key), ports, low=1)
        else:
            section.problem(
                ("services", key), f"{shown(key)} names no service", "write namespace/hostname, as in shop/cart.example"
            )
    return found


def _is_service_key(key: str) -> bool:
    namespace, slash, hostname = key.partition("/")
    return bool(namespace and slash and hostname) and "/" not in hostname


def _ports(section: Section, path: Path, value: Value, *, low: int) -> dict[int, int]:
    """Service port → target port. `low` is 0 where a target may be left to the endpoints."""
    if value is None:
        return {}
    if not isinstance(value, Object):
        section.wrong_type(path, value, "a mapping of ports, for example {80: 8080}")
        return {}
    found: dict[int, int] = {}
    for key, target in value.items():
        number = section.number((*path, key), key)
        if number is None:
            continue
        if target == 0 and low == 0 and not isinstance(target, bool):
            found[number] = 0
        elif (port := section.port((*path, key), target)) is not None:
            found[number] = port
    return found


def _locality(section: Section | None) -> Locality:
    if section is None:
        return NO_LOCALITY
    locality = Locality(region=section.text("region"), zone=section.text("zone"), subzone=section.text("subzone"))
    section.finish()
    return locality


def _tunnel(section: Section | None) -> ApplicationTunnel | None:
    if section is None:
        return None
    protocol = _choice(section, "protocol", _TUNNELS, TunnelProtocol.NONE)
    port = section.integer("port", 0, 0, 65535)
    section.finish()
    return ApplicationTunnel(protocol=protocol, port=port or None)


def _gateway(section: Section | None) -> GatewayAddress | None:
    if section is None:
        return None
    text = section.required_text("destination", "n1/10.9.0.5, or infra/waypoint.example")
    port = section.integer("hboneMtlsPort", HBONE_PORT, 1, 65535)
    section.finish()
    if text is None:
        return None
    before, slash, after = text.partition("/")
    if not slash:
        section.problem("destination", f"{shown(text)} has no '/'", "write network/address or namespace/hostname")
        return None
    try:
        return GatewayAddress(destination=NetworkAddress(before, parse_ip(after)), port=port)
    except InvalidAddress:
        host = section.parsed(("destination",), after, parse_host)
    return None if host is None else GatewayAddress(destination=NamespacedHostname(before, host), port=port)


def _weighted(section: Section) -> WeightedWaypoint | None:
    destination = _gateway(section.section("destination"))
    weight = section.integer("weight", 0, 0, _MAX_UINT32)
    if section.raw("destination") is None:
        section.missing("destination", "write destination: {destination: infra/waypoint.example}")
    section.finish()
    return None if destination is None else WeightedWaypoint(destination=destination, weight=weight)


def _network_address(section: Section, path: Path, text: str) -> NetworkAddress | None:
    network, slash, ip_text = text.partition("/")
    if not slash:
        section.problem(path, f"{shown(text)} has no network", f"write network/address, or /{text} for no network")
        return None
    ip = section.parsed(path, ip_text, parse_ip)
    return None if ip is None else NetworkAddress(network, ip)


def _network_prefix(section: Section) -> NetworkPrefix | None:
    network = section.text("network")
    text = section.required_text("cidr", "10.3.0.0/24")
    section.finish()
    prefix = section.parsed(("cidr",), text, Prefix.parse) if text is not None else None
    return None if prefix is None else NetworkPrefix(network, prefix)


def _alt_names(section: Section) -> tuple[str, ...]:
    found: list[str] = []
    for path, text in section.texts("subjectAltNames"):
        if text.startswith(SCHEME):
            try:
                SpiffeId.parse(text)
            except InvalidSpiffeId as error:
                section.problem(path, error.what, error.fix)
        found.append(text)
    return tuple(found)


def _load_balancing(section: Section | None) -> LoadBalancing:
    if section is None:
        return STANDARD_LOAD_BALANCING
    balancing = LoadBalancing(
        mode=_choice(section, "mode", _MODES, LoadBalancerMode.STANDARD),
        routing_preferences=tuple(
            section.word(path, value.tag if isinstance(value, Tagged) else value, _SCOPES, Scope.NETWORK)
            for path, value in section.values("routingPreferences")
        ),
        health_policy=_choice(section, "healthPolicy", _HEALTH_POLICIES, HealthPolicy.ONLY_HEALTHY),
    )
    section.finish()
    return balancing


_Read = Callable[[Section, str, Interner], Any]


def _text(section: Section, key: str, _share: Interner) -> str:
    return section.text(key)


def _shared(section: Section, key: str, share: Interner) -> str:
    return share.value(section.text(key))


def _shared_or(default: str) -> _Read:
    return lambda section, key, share: share.value(section.text(key) or default)


def _word(choices: Mapping[str, _E], default: _E) -> _Read:
    return lambda section, key, _: _choice(section, key, choices, default)


def _number(default: int, low: int, high: int) -> _Read:
    return lambda section, key, _: section.integer(key, default, low, high)


_ROWS: Final[Mapping[str, tuple[str, _Read]]] = {
    "trustDomain": ("trust_domain", _shared_or(DEFAULT_TRUST_DOMAIN)),
    "serviceAccount": ("service_account", _shared_or(DEFAULT_SERVICE_ACCOUNT)),
    "workloadIps": ("addresses", lambda section, _key, _share: _ips(section)),
    "hostname": ("hostname", _text),
    "network": ("network", _shared),
    "protocol": ("protocol", _word(_PROTOCOLS, Protocol.TCP)),
    "waypoint": ("waypoint", lambda section, key, _: _gateway(section.section(key))),
    "networkGateway": ("network_gateway", lambda section, key, _: _gateway(section.section(key))),
    "node": ("node", _shared),
    "canonicalName": ("canonical_name", _shared),
    "canonicalRevision": ("canonical_revision", _shared),
    "workloadType": ("workload_type", _word(_WORKLOAD_TYPES, WorkloadType.DEPLOYMENT)),
    "workloadName": ("workload_name", _shared),
    "nativeTunnel": ("native_tunnel", lambda section, key, _: section.flag(key)),
    "applicationTunnel": ("application_tunnel", lambda section, key, _: _tunnel(section.section(key))),
    "services": ("services", lambda section, _key, share: share.services(_memberships(section))),
    "authorizationPolicies": (
        "authorization_policies",
        lambda section, key, share: share.value(tuple(text for _, text in section.texts(key))),
    ),
    "status": ("health", _word(_HEALTH, Health.HEALTHY)),
    "clusterId": ("cluster_id", _shared_or(DEFAULT_CLUSTER)),
    "locality": ("locality", lambda section, key, share: share.value(_locality(section.section(key)))),
    "networkMode": ("network_mode", _word(_NETWORK_MODES, NetworkMode.STANDARD)),
    "capacity": ("capacity", _number(1, 0, _MAX_UINT32)),
    "hbonePort": ("hbone_port", _number(HBONE_PORT, 1, 65535)),
    "labels": ("labels", lambda section, key, share: share.labels(section.labels(key))),
}
"""Key of a workload → field, and how it is read. Only keys that are there are read: most workloads have a third."""
_WORKLOAD_KEYS: Final = frozenset({"uid", "name", "namespace", *_ROWS})
