"""What the mesh is made of: workloads, services, and the addresses and names that lead to them.

The fields and their defaults are those of Istio's `istio.workload` messages. A mesh may hold hundreds of
thousands of workloads, so values are slotted, whatever is empty is one shared object, and `Interner` lets a
loader keep one copy of what many workloads have in common. Mappings are plain dicts that nobody changes after
they were handed in: values can be compared, pickled and shared.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from functools import lru_cache
from sys import intern
from typing import Final, TypeVar, cast

from hbone.addr import IpAddress, Prefix
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.values import dataclass

HBONE_PORT: Final = 15008
DEFAULT_TRUST_DOMAIN: Final = "cluster.local"
DEFAULT_CLUSTER: Final = "Kubernetes"
DEFAULT_SERVICE_ACCOUNT: Final = "default"

PortMap = Mapping[int, int]
"""Service port → target port; target 0: a named port, each endpoint has its own number (or none)."""

_NO_PORTS: Final[PortMap] = {}
_NO_SERVICES: Final[Mapping[str, PortMap]] = {}
_NO_LABELS: Final[Mapping[str, str]] = {}


def no_ports() -> PortMap:
    return _NO_PORTS


def no_services() -> Mapping[str, PortMap]:
    return _NO_SERVICES


def no_labels() -> Mapping[str, str]:
    return _NO_LABELS


class Protocol(Enum):
    """What a workload's own address speaks."""

    TCP = "TCP"
    HBONE = "HBONE"


class NetworkMode(Enum):
    """Host-network workloads share their address with the machine: it never identifies them."""

    STANDARD = "Standard"
    HOST_NETWORK = "HostNetwork"


class Health(Enum):
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


class WorkloadType(Enum):
    """The word between `k8s.` and `.name` in baggage."""

    DEPLOYMENT = "deployment"
    CRONJOB = "cronjob"
    POD = "pod"
    JOB = "job"


class Scope(Enum):
    """What two workloads may have in common, for routing preferences."""

    NETWORK = "Network"
    REGION = "Region"
    ZONE = "Zone"
    SUBZONE = "Subzone"
    NODE = "Node"
    CLUSTER = "Cluster"


class LoadBalancerMode(Enum):
    STANDARD = "Standard"
    STRICT = "Strict"
    FAILOVER = "Failover"
    PASSTHROUGH = "Passthrough"


class HealthPolicy(Enum):
    ONLY_HEALTHY = "OnlyHealthy"
    ALLOW_ALL = "AllowAll"


class IpFamilies(Enum):
    AUTOMATIC = "Automatic"
    DUAL = "Dual"
    IPV4 = "IPv4"
    IPV6 = "IPv6"

    def allows(self, ip: IpAddress) -> bool:
        return self is IpFamilies.AUTOMATIC or self is IpFamilies.DUAL or self.value == f"IPv{ip.version}"


class Visibility(Enum):
    """Who a service exists for: everybody, or the clients in its own namespace."""

    PUBLIC = "Public"
    NAMESPACE = "Namespace"


class TunnelProtocol(Enum):
    """What a workload behind our tunnel expects: the bare bytes, or a PROXY v2 header before them."""

    NONE = "NONE"
    PROXY = "PROXY"


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """An IP address on a named network; the empty name is a network too."""

    network: str
    ip: IpAddress

    def __str__(self) -> str:
        return f"{self.network}/{self.ip}"


@dataclass(frozen=True, slots=True)
class NetworkPrefix:
    """An address range on a named network."""

    network: str
    prefix: Prefix

    def __str__(self) -> str:
        return f"{self.network}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class NamespacedHostname:
    """A service (or workload) by the namespace it lives in and its host name."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAddress:
    """Where a waypoint or network gateway is, and its HBONE port."""

    destination: NetworkAddress | NamespacedHostname
    port: int = HBONE_PORT

    def __str__(self) -> str:
        return f"{self.destination}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedWaypoint:
    """One of several waypoints, taken in proportion to `weight` (0: never)."""

    destination: GatewayAddress
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    region: str = ""
    zone: str = ""
    subzone: str = ""

    def __str__(self) -> str:
        return "/".join((self.region, self.zone, self.subzone)).rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationTunnel:
    """How to hand a tunnelled connection to this workload. `port` None: the port that was asked for."""

    protocol: TunnelProtocol = TunnelProtocol.NONE
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancing:
    mode: LoadBalancerMode = LoadBalancerMode.STANDARD
    routing_preferences: tuple[Scope, ...] = ()
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


NO_LOCALITY: Final = Locality()
STANDARD_LOAD_BALANCING: Final = LoadBalancing()


@lru_cache(maxsize=65536)
def workload_identity(trust_domain: str, namespace: str, service_account: str) -> SpiffeId:
    """As `SpiffeId.for_workload`, remembered: many workloads have one account."""
    return SpiffeId.for_workload(trust_domain, namespace, service_account)


@lru_cache(maxsize=4096)
def _identities(names: tuple[str, ...]) -> frozenset[SpiffeId]:
    found: set[SpiffeId] = set()
    for name in names:
        try:
            found.add(SpiffeId.parse(name))
        except InvalidSpiffeId:
            continue  # a DNS name, or garbage: it can match no SVID, so leaving it out never lets more in
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One running instance of an application. Raises InvalidSpiffeId when its identity cannot be written.

    `uid` is unique in the mesh (`cluster/group/kind/namespace/name`). `hostname` is resolved when there are no
    `addresses`. `services` tells which services it is an endpoint of, by "namespace/hostname". `capacity` is its
    weight among the endpoints of a service, 0 takes it out. `authorization_policies` names the policies that
    select it by label ("namespace/name"). `hbone_port` is where its node proxy listens. `labels` are known for
    workloads from manifests only.
    """

    uid: str
    name: str
    namespace: str
    addresses: tuple[IpAddress, ...] = ()
    hostname: str = ""
    network: str = ""
    protocol: Protocol = Protocol.TCP
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    waypoint: GatewayAddress | None = None
    network_gateway: GatewayAddress | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.DEPLOYMENT
    workload_name: str = ""
    native_tunnel: bool = False
    application_tunnel: ApplicationTunnel | None = None
    services: Mapping[str, PortMap] = field(default_factory=no_services)
    authorization_policies: tuple[str, ...] = ()
    health: Health = Health.HEALTHY
    cluster_id: str = DEFAULT_CLUSTER
    locality: Locality = NO_LOCALITY
    network_mode: NetworkMode = NetworkMode.STANDARD
    capacity: int = 1
    hbone_port: int = HBONE_PORT
    labels: Mapping[str, str] = field(default_factory=no_labels)

    def __post_init__(self) -> None:
        workload_identity(self.trust_domain, self.namespace, self.service_account)

    def __hash__(self) -> int:
        return hash(self.uid)

    @property
    def identity(self) -> SpiffeId:
        return workload_identity(self.trust_domain, self.namespace, self.service_account)

    @property
    def healthy(self) -> bool:
        return self.health is Health.HEALTHY


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A name with addresses (none: headless), behind which are the workloads that list it.

    `canonical`: the one meant when several namespaces define the same host and the client is in none of them.
    `subject_alt_names`: SPIFFE IDs that its endpoints may show besides their own.
    """

    name: str
    namespace: str
    hostname: str
    vips: tuple[NetworkAddress, ...] = ()
    cidr_vips: tuple[NetworkPrefix, ...] = ()
    ports: PortMap = field(default_factory=no_ports)
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    load_balancing: LoadBalancing = STANDARD_LOAD_BALANCING
    ip_families: IpFamilies = IpFamilies.AUTOMATIC
    canonical: bool = False
    visibility: Visibility = Visibility.PUBLIC

    def __hash__(self) -> int:
        return hash((self.namespace, self.hostname))

    @property
    def key(self) -> str:
        """ "namespace/hostname", its name in the mesh."""
        return f"{self.namespace}/{self.hostname}"

    @property
    def identities(self) -> frozenset[SpiffeId]:
        """The SPIFFE IDs among `subject_alt_names`."""
        return _identities(self.subject_alt_names)

    @property
    def has_waypoint(self) -> bool:
        return self.waypoint is not None or bool(self.weighted_waypoints)

    def visible_from(self, namespace: str | None) -> bool:
        """Whether clients in `namespace` (None: unknown, sees all) can reach it by this name."""
        return self.visibility is Visibility.PUBLIC or namespace is None or namespace == self.namespace

    def vip(self, network: str, version: int) -> IpAddress | None:
        """Its first address on `network`, of IP `version` when there is one."""
        here = [vip.ip for vip in self.vips if vip.network == network]
        return next((ip for ip in here if ip.version == version), here[0] if here else None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload behind a service; `ports` are its own numbers for the service's ports."""

    workload: Workload
    ports: PortMap


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshState:
    """Everything one source of configuration says about the mesh."""

    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()


_T = TypeVar("_T")


class Interner:
    """Keeps one copy of equal strings, tuples and mappings while a large state is loaded.

    `LIMIT` entries of each kind, then it starts afresh: sharing is a saving, not a promise.
    """

    LIMIT: Final = 100_000

    def __init__(self) -> None:
        self._values: dict[object, object] = {}
        self._mappings: dict[object, object] = {}

    def value(self, value: _T) -> _T:
        """The first hashable value equal to `value` (and of its type) that was seen."""
        if type(value) is str:
            return cast("_T", intern(cast("str", value)))  # a third of the time
        if len(self._values) >= self.LIMIT:
            self._values.clear()
        return self._values.setdefault((type(value), value), value)  # type: ignore[return-value]  # equal, same type

    def ports(self, ports: PortMap) -> PortMap:
        if not ports:
            return _NO_PORTS
        return self._mapping(tuple(ports.items()), ports)

    def services(self, services: Mapping[str, PortMap]) -> Mapping[str, PortMap]:
        if not services:
            return _NO_SERVICES
        shared = {self.value(key): self.ports(ports) for key, ports in services.items()}
        return self._mapping(tuple((key, id(ports)) for key, ports in shared.items()), shared)

    def labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        if not labels:
            return _NO_LABELS
        return self._mapping(tuple(labels.items()), labels)

    def _mapping(self, key: object, mapping: _T) -> _T:
        if len(self._mappings) >= self.LIMIT:
            self._mappings.clear()
        return self._mappings.setdefault(key, mapping)  # type: ignore[return-value]  # the key tells the kind apart
