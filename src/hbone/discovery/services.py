"""What a Service and a ServiceEntry say, brought to one form."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from hbone.addr import InvalidAddress, IpAddress, Prefix, parse_host, parse_ip
from hbone.discovery.entries import EntrySpec, read_entry
from hbone.discovery.model import (
    STANDARD_LOAD_BALANCING,
    HealthPolicy,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    Scope,
    Visibility,
)
from hbone.documents.fields import Section, shown
from hbone.documents.objects import Meta
from hbone.documents.values import Path
from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId
from hbone.values import dataclass

TRAFFIC_DISTRIBUTION: Final = "networking.istio.io/traffic-distribution"
EXPORT_TO: Final = "networking.istio.io/exportTo"

_SAME_ZONE: Final = LoadBalancing(
    mode=LoadBalancerMode.FAILOVER, routing_preferences=(Scope.NETWORK, Scope.REGION, Scope.ZONE)
)
_SAME_NODE: Final = LoadBalancing(
    mode=LoadBalancerMode.FAILOVER,
    routing_preferences=(Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.SUBZONE, Scope.NODE),
)
DISTRIBUTIONS: Final[Mapping[str, LoadBalancing]] = {
    "preferclose": _SAME_ZONE,
    "prefersamezone": _SAME_ZONE,
    "prefersamenode": _SAME_NODE,
}
_ONLY_NODE: Final = LoadBalancing(mode=LoadBalancerMode.STRICT, routing_preferences=(Scope.NODE,))
_AS_DIALLED: Final = LoadBalancing(mode=LoadBalancerMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)

_ENTRY_PROTOCOLS: Final = frozenset(
    ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "MYSQL", "REDIS", "HTTP_PROXY")
)
# Fields of a Service that only a cluster acts upon.
_CLUSTER_FIELDS: Final = (
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinity",
    "sessionAffinityConfig",
)


class Resolution(Enum):
    """How a ServiceEntry's endpoints are found."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """`target`: a number, the name of a port of each endpoint, or None for the same number."""

    number: int
    name: str
    target: int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One Service or ServiceEntry. `hosts` come with their paths; `selector` empty: selects nothing."""

    meta: Meta
    place: Section
    hosts: tuple[tuple[Path, str], ...]
    ports: tuple[PortSpec, ...]
    vips: tuple[IpAddress, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    selector: Mapping[str, str]
    endpoints: tuple[EntrySpec, ...] = ()
    resolution: Resolution = Resolution.STATIC
    external: bool = False
    names: tuple[str, ...] = ()
    load_balancing: LoadBalancing | None = None
    ip_families: IpFamilies = IpFamilies.AUTOMATIC
    visibility: Visibility = Visibility.PUBLIC

    @property
    def is_entry(self) -> bool:
        return self.meta.kind == "ServiceEntry"


def read_service(meta: Meta, domain: str) -> ServiceSpec | None:
    """A Kubernetes Service; None, with problems, when it cannot be one of the mesh."""
    spec = meta.root.section("spec")
    if spec is None:
        meta.root.missing("spec", "write spec: {ports: […], selector: {…}}")
        return None
    spec.ignore(*_CLUSTER_FIELDS)
    kind = spec.choice("type", {"ClusterIP": "", "NodePort": "", "LoadBalancer": "", "ExternalName": "x"}, "")
    spec.ignore("externalName")
    if kind:
        spec.problem("type", "an ExternalName is an alias in DNS", "write a ServiceEntry with resolution: DNS instead")
    ports = _service_ports(spec)
    selector = spec.labels("selector")
    vips = _cluster_ips(spec)
    service = ServiceSpec(
        meta=meta,
        place=spec,
        hosts=((("metadata", "name"), f"{meta.name}.{meta.namespace}.svc.{domain}"),),
        ports=ports,
        vips=vips,
        selector=selector,
        load_balancing=_service_balancing(meta, spec),
        ip_families=_ip_families(spec),
        visibility=_annotated_visibility(meta),
    )
    spec.finish()
    return None if kind else service


def _service_ports(spec: Section) -> tuple[PortSpec, ...]:
    found: list[PortSpec] = []
    for section in spec.sections("ports"):
        section.ignore("nodePort", "appProtocol")
        number = _number(section, "port")
        name = section.text("name")
        protocol = section.choice("protocol", {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}, "TCP")
        target = _target(section)
        section.finish()
        if number is not None and protocol == "TCP":  # nothing else is carried
            _add_port(section, found, PortSpec(number=number, name=name, target=target))
    return tuple(found)


def _number(section: Section, key: str) -> int | None:
    if section.raw(key) is None:
        section.missing(key, f"write {key}: 80")
        return None
    return section.port((key,), section.raw(key))


def _target(section: Section) -> int | str | None:
    value = section.raw("targetPort")
    if value is None or (isinstance(value, str) and value and not value.isdigit()):
        return value
    if isinstance(value, str) and value.isdigit():
        section.problem("targetPort", f"{shown(value)} is text", f"write it without quotes: {value}")
        return None
    return section.port(("targetPort",), value)


def _add_port(section: Section, found: list[PortSpec], port: PortSpec) -> None:
    """Adds a port, unless its number or name is there already."""
    if any(port.number == other.number for other in found):
        section.problem("number" if "number" in section else "port", f"port {port.number} is there twice", "keep one")
    elif port.name and any(port.name == other.name for other in found):
        section.problem("name", f"two ports are called {port.name}", "give each port its own name")
    else:
        found.append(port)


def _cluster_ips(spec: Section) -> tuple[IpAddress, ...]:
    given: list[tuple[Path, str]] = []
    single = spec.text("clusterIP")
    if single:
        given.append((("clusterIP",), single))
    given.extend(spec.texts("clusterIPs"))
    found: dict[IpAddress, None] = {}
    for path, text in given:
        if text != "None":
            ip = spec.parsed(path, text, parse_ip)
            if ip is not None:
                found[ip] = None
    return tuple(found)


def _service_balancing(meta: Meta, spec: Section) -> LoadBalancing | None:
    """None where nothing is said: the Namespace may."""
    local = spec.choice("internalTrafficPolicy", {"Cluster": "", "Local": "x"}, "")
    distribution = spec.raw("trafficDistribution")
    not_ready = spec.flag("publishNotReadyAddresses")
    chosen: LoadBalancing | None = None
    if local:
        chosen = _ONLY_NODE
    elif distribution is not None:
        words = {"PreferClose": _SAME_ZONE, "PreferSameZone": _SAME_ZONE, "PreferSameNode": _SAME_NODE}
        chosen = spec.word(("trafficDistribution",), distribution, words, _SAME_ZONE)
    else:
        chosen = annotated_distribution(meta)
    if not not_ready:
        return chosen
    base = chosen or STANDARD_LOAD_BALANCING
    return LoadBalancing(
        mode=base.mode, routing_preferences=base.routing_preferences, health_policy=HealthPolicy.ALLOW_ALL
    )


def annotated_distribution(meta: Meta) -> LoadBalancing | None:
    """What the traffic-distribution annotation of a Service, ServiceEntry or Namespace asks for."""
    text = meta.annotations.get(TRAFFIC_DISTRIBUTION)
    if text is None:
        return None
    if text.lower() in DISTRIBUTIONS:
        return DISTRIBUTIONS[text.lower()]
    if text.lower() not in {"any", ""}:
        meta.root.problem(
            ("metadata", "annotations", TRAFFIC_DISTRIBUTION),
            f"{shown(text)} is not a traffic distribution",
            "write PreferSameZone, PreferSameNode or Any",
        )
    return None


def _ip_families(spec: Section) -> IpFamilies:
    found = {
        spec.word(path, value, {"IPv4": IpFamilies.IPV4, "IPv6": IpFamilies.IPV6}, IpFamilies.IPV4)
        for path, value in spec.values("ipFamilies")
    }
    if not found:
        return IpFamilies.AUTOMATIC
    return found.pop() if len(found) == 1 else IpFamilies.DUAL


def _annotated_visibility(meta: Meta) -> Visibility:
    text = meta.annotations.get(EXPORT_TO, "*")
    return _visibility(meta.root, ("metadata", "annotations", EXPORT_TO), [part.strip() for part in text.split(",")])


def _visibility(section: Section, path: Path, names: list[str]) -> Visibility:
    if not names or "*" in names:
        return Visibility.PUBLIC
    if names != ["."]:
        section.problem(
            path, f"{shown(', '.join(names))} cannot be kept to", "write '*' (everybody) or '.' (this namespace)"
        )
    return Visibility.NAMESPACE


def read_service_entry(meta: Meta, trust_domain: str) -> ServiceSpec | None:
    """An Istio ServiceEntry; None, with problems, when it has no spec."""
    spec = meta.root.section("spec")
    if spec is None:
        meta.root.missing("spec", "write spec: {hosts: […], ports: […], resolution: STATIC, endpoints: […]}")
        return None
    resolution = spec.choice(
        "resolution",
        {
            "NONE": Resolution.NONE,
            "STATIC": Resolution.STATIC,
            "DNS": Resolution.DNS,
            "DNS_ROUND_ROBIN": Resolution.DNS,
        },
        Resolution.NONE,
    )
    external = spec.choice("location", {"MESH_EXTERNAL": "x", "MESH_INTERNAL": ""}, "x")
    vips, prefixes = _addresses(spec)
    selected = spec.section("workloadSelector")
    selector = selected.labels("labels") if selected is not None else {}
    if selected is not None:
        selected.finish()
    entries = [read_entry(section, meta.namespace, trust_domain) for section in spec.sections("endpoints")]
    service = ServiceSpec(
        meta=meta,
        place=spec,
        hosts=_hosts(spec, resolution),
        ports=_entry_ports(spec),
        vips=vips,
        prefixes=prefixes,
        selector=selector,
        endpoints=tuple(entry for entry in entries if entry is not None),
        resolution=resolution,
        external=bool(external),
        names=_alt_names(spec),
        load_balancing=_AS_DIALLED if resolution is Resolution.NONE else annotated_distribution(meta),
        visibility=_visibility(spec, ("exportTo",), [text for _, text in spec.texts("exportTo")]),
    )
    _check_endpoints(spec, service)
    spec.finish()
    return service


def _hosts(spec: Section, resolution: Resolution) -> tuple[tuple[Path, str], ...]:
    found: dict[str, Path] = {}
    given = spec.texts("hosts")
    if not given and not isinstance(spec.raw("hosts"), list | str | dict | int):
        spec.missing("hosts", "write hosts: [db.example.com]")
    elif not given and spec.raw("hosts") == []:
        spec.problem("hosts", "is empty", "write hosts: [db.example.com]")
    for path, text in given:
        wildcard = text.startswith("*.")
        try:
            host = ("*." if wildcard else "") + parse_host(text.removeprefix("*."))
        except InvalidAddress as error:
            spec.problem(path, error.what, error.fix)
            continue
        if wildcard and resolution is Resolution.DNS:
            spec.problem(
                path, f"the wildcard {host} has no addresses in DNS", "use resolution: NONE, or write the hosts"
            )
        elif host in found:
            spec.problem(path, f"the host {host} is there twice", "keep one")
        else:
            found[host] = path
    return tuple((path, host) for host, path in found.items())


def _entry_ports(spec: Section) -> tuple[PortSpec, ...]:
    found: list[PortSpec] = []
    for section in spec.sections("ports"):
        number = _number(section, "number")
        name = section.text("name")
        protocol = section.text("protocol", "TCP")
        if protocol.upper() not in _ENTRY_PROTOCOLS:
            known = ", ".join(sorted(_ENTRY_PROTOCOLS))
            section.problem("protocol", f"{shown(protocol)} is not carried", f"write one of: {known}")
        target = section.port(("targetPort",), section.raw("targetPort")) if section.raw("targetPort") else None
        section.finish()
        if number is not None:
            _add_port(section, found, PortSpec(number=number, name=name, target=target))
    if not found and not spec.raw("ports"):
        spec.missing("ports", "write ports: [{number: 80, name: http, protocol: HTTP}]")
    return tuple(found)


def _addresses(spec: Section) -> tuple[tuple[IpAddress, ...], tuple[Prefix, ...]]:
    vips: dict[IpAddress, None] = {}
    prefixes: dict[Prefix, None] = {}
    for path, text in spec.texts("addresses"):
        if "/" not in text:
            ip = spec.parsed(path, text, parse_ip)
            if ip is not None:
                vips[ip] = None
            continue
        prefix = spec.parsed(path, text, Prefix.parse)
        if prefix is not None and prefix.network.num_addresses == 1:
            vips[prefix.network.network_address] = None
        elif prefix is not None:
            prefixes[prefix] = None
    return tuple(vips), tuple(prefixes)


def _alt_names(spec: Section) -> tuple[str, ...]:
    found: list[str] = []
    for path, text in spec.texts("subjectAltNames"):
        if text.startswith(SCHEME):
            try:
                SpiffeId.parse(text)
            except InvalidSpiffeId as error:
                spec.problem(path, error.what, error.fix)
                continue
        found.append(text)
    return tuple(found)


def _check_endpoints(spec: Section, service: ServiceSpec) -> None:
    """Contradictions between resolution, endpoints and selector."""
    if "endpoints" in spec and service.selector:
        spec.problem("workloadSelector", "is there together with endpoints", "keep one of them")
    if service.resolution is Resolution.STATIC:
        for entry in service.endpoints:
            if entry.hostname:
                entry.place.problem(
                    "address", f"{entry.hostname} is a host name", "use resolution: DNS, or write its address"
                )
    if service.resolution is Resolution.NONE and ("endpoints" in spec or service.selector):
        spec.problem(
            "resolution",
            "NONE connects to the address that was asked for; endpoints are never used",
            "write resolution: STATIC (addresses) or DNS (host names)",
        )
