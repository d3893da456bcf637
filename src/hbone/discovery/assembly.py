"""From what the manifests declare to workloads and services: everything that takes more than one document."""

from collections.abc import Mapping
from dataclasses import field
from sys import intern
from typing import Final

from hbone.discovery.enrolment import (
    GATEWAY_NAME,
    USE_WAYPOINT,
    Marks,
    canonical_name,
    canonical_revision,
    speaks,
    takes_services,
    takes_workloads,
    wanted_waypoint,
    workload_name,
)
from hbone.discovery.indexes import address_number
from hbone.discovery.joining import Completeness, Draft, join_endpoints
from hbone.discovery.model import (
    DEFAULT_CLUSTER,
    DEFAULT_SERVICE_ACCOUNT,
    DEFAULT_TRUST_DOMAIN,
    HBONE_PORT,
    NO_LOCALITY,
    STANDARD_LOAD_BALANCING,
    GatewayAddress,
    Interner,
    LoadBalancing,
    MeshState,
    NamespacedHostname,
    NetworkAddress,
    NetworkPrefix,
    PortMap,
    Service,
    Workload,
    WorkloadType,
)
from hbone.discovery.services import ServiceSpec, annotated_distribution
from hbone.documents.objects import Meta
from hbone.identity.spiffe import parse_trust_domain
from hbone.values import dataclass

_NONE: Final[Mapping[str, str]] = {}

NODE_LABEL: Final = "kubernetes.io/hostname"
"""The label of an entry that names the node it runs on: Kubernetes' own for what is tied to one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What manifests leave open: the names of this mesh. Raises InvalidSpiffeId for what is no trust domain."""

    cluster_id: str = DEFAULT_CLUSTER
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    network: str = ""
    domain: str = "cluster.local"

    def __post_init__(self) -> None:
        parse_trust_domain(self.trust_domain)


@dataclass(slots=True)
class Gathered:
    """What the documents declare, each read by itself."""

    entries: list[Draft] = field(default_factory=list[Draft])
    groups: dict[str, Draft] = field(default_factory=dict[str, Draft])
    services: list[ServiceSpec] = field(default_factory=list[ServiceSpec])
    namespaces: dict[str, Meta] = field(default_factory=dict[str, Meta])
    completeness: Completeness = Completeness.WHOLE

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        meta = self.namespaces.get(namespace)
        return meta.labels if meta is not None else _NONE


@dataclass(frozen=True, slots=True)
class Joined:
    """The state, what members of each group ("namespace/name") are, and where each workload (by uid) and service
    (by key) is written, as file:line."""

    state: MeshState
    groups: Mapping[str, Workload]
    origins: Mapping[str, str]


def assemble(gathered: Gathered, defaults: Defaults) -> Joined:
    """Joins the declarations; what is wrong between them is added to their problems."""
    return _Assembly(gathered, defaults).run()


class _Assembly:
    def __init__(self, gathered: Gathered, defaults: Defaults) -> None:
        self._gathered = gathered
        self._defaults = defaults
        self._interner = Interner()
        self._waypoints = {(s.meta.namespace, s.meta.name): s for s in gathered.services if s.hosts}
        self._origins: dict[str, str] = {}

    def run(self) -> Joined:
        gathered = self._gathered
        drafts = join_endpoints(
            self._defaults.cluster_id,
            gathered.entries,
            gathered.services,
            gathered.completeness,
            tuple(gathered.groups.values()),
        )
        kept = self._at_one_address_each(drafts)
        workloads = tuple(self._workload(draft) for draft in kept)
        services = self._services()
        groups = {key: self._workload(draft) for key, draft in gathered.groups.items()}
        return Joined(MeshState(workloads=workloads, services=services), groups, self._origins)

    # workloads

    def _at_one_address_each(self, drafts: list[Draft]) -> list[Draft]:
        """Without the second workload at an address; inline endpoints of several ServiceEntries may be one."""
        owners: dict[tuple[str, int], Draft] = {}
        kept: list[Draft] = []
        for draft in drafts:
            address = draft.spec.address if draft.spec is not None else None
            if draft.spec is None or address is None:
                kept.append(draft)
                continue
            key = (draft.network or self._defaults.network, address_number(address))
            owner = owners.setdefault(key, draft)
            if owner is draft:
                kept.append(draft)
            elif self._same(owner, draft):
                owner.services.update(draft.services)
            else:
                where = f" on network {key[0]}" if key[0] else ""
                draft.spec.place.problem(
                    "address",
                    f"the address {address}{where} belongs to {owner.meta.kind} {owner.meta.namespace}/"
                    f"{owner.meta.name} already, at {owner.meta.place}",
                    "give each workload its own address (on one machine: 127.0.0.2, 127.0.0.3, …)",
                )
        return kept

    def _same(self, one: Draft, other: Draft) -> bool:
        """Whether two inline endpoints at one address are one workload in all that matters to its peers."""

        def peer(draft: Draft) -> tuple[object, ...]:
            port = draft.spec.hbone_port if draft.spec is not None else HBONE_PORT
            return draft.meta.namespace, draft.account, speaks(self._marks(draft)), port

        return one.meta.kind == other.meta.kind == "ServiceEntry" and peer(one) == peer(other)

    def _marks(self, draft: Draft) -> Marks:
        own = draft.spec.labels if draft.spec is not None and draft.meta.kind == "ServiceEntry" else _NONE
        return Marks(
            labels={**draft.labels, **own} if own else draft.labels,  # an entry's own are among them already
            annotations=draft.meta.annotations,
            namespace=_NONE if draft.external else self._gathered.namespace_labels(draft.meta.namespace),
            # who joins as of a group proves an account, even if the group leaves it at `default`
            has_account=bool(draft.account) or draft.meta.kind == "WorkloadGroup",
        )

    def _workload(self, draft: Draft) -> Workload:
        meta, spec, share = draft.meta, draft.spec, intern
        spoken = speaks(self._marks(draft))
        name = workload_name(meta.name, draft.labels, meta.annotations)
        self._origins[draft.uid] = meta.place
        return Workload(
            uid=draft.uid,
            name=meta.name,
            namespace=share(meta.namespace),
            addresses=() if spec is None or spec.address is None else (spec.address,),
            hostname=draft.hostname,
            network=share(draft.network or self._defaults.network),
            protocol=spoken.protocol,
            trust_domain=self._defaults.trust_domain,
            service_account=share(draft.account or DEFAULT_SERVICE_ACCOUNT),
            node=share(draft.labels.get(NODE_LABEL, "")),
            waypoint=self._workload_waypoint(draft),
            canonical_name=share(canonical_name(draft.labels, name)),
            canonical_revision=share(canonical_revision(draft.labels)),
            workload_type=WorkloadType.POD,
            workload_name=share(name),
            native_tunnel=spoken.native,
            services=self._interner.services(draft.services),
            cluster_id=self._defaults.cluster_id,
            locality=self._interner.value(spec.locality) if spec is not None else NO_LOCALITY,
            capacity=spec.capacity if spec is not None else 1,
            hbone_port=spec.hbone_port if spec is not None else HBONE_PORT,
            labels=self._interner.labels(draft.labels),
        )

    # waypoints

    def _workload_waypoint(self, draft: Draft) -> GatewayAddress | None:
        if draft.meta.kind not in {"WorkloadEntry", "WorkloadGroup"} or GATEWAY_NAME in draft.labels:
            return None  # endpoints are reached by their service; a waypoint's instance has no waypoint
        found = self._waypoint(draft.meta, draft.labels)
        if found is None or (found.inherited and not takes_workloads(found.service.meta.labels)):
            return None
        if any(f"{found.service.meta.namespace}/{host}" in draft.services for _, host in found.service.hosts):
            return None
        return found.address

    def _service_waypoint(self, service: ServiceSpec) -> GatewayAddress | None:
        found = self._waypoint(service.meta, service.meta.labels)
        if found is None or found.service is service or GATEWAY_NAME in service.meta.labels:
            return None
        if found.inherited and not takes_services(found.service.meta.labels):
            return None
        return found.address

    def _waypoint(self, meta: Meta, labels: Mapping[str, str]) -> "_FoundWaypoint | None":
        of_namespace = self._gathered.namespace_labels(meta.namespace)
        wanted = wanted_waypoint(meta.namespace, labels, of_namespace)
        if wanted is None:
            return None
        service = self._waypoints.get((wanted.namespace, wanted.name))
        if service is None:
            holder = self._gathered.namespaces[meta.namespace] if wanted.inherited else meta
            holder.root.problem(
                ("metadata", "labels", USE_WAYPOINT),
                f"there is no waypoint {wanted.name} in namespace {wanted.namespace}",
                "add the Service of that name, or write none",
            )
            return None
        destination = NamespacedHostname(service.meta.namespace, service.hosts[0][1])
        return _FoundWaypoint(GatewayAddress(destination=destination, port=HBONE_PORT), service, wanted.inherited)

    # services

    def _services(self) -> tuple[Service, ...]:
        owners: dict[str, ServiceSpec] = {}
        canonical: dict[str, ServiceSpec] = {}
        for spec in self._gathered.services:
            for path, host in spec.hosts:
                key = f"{spec.meta.namespace}/{host}"
                owner = owners.setdefault(key, spec)
                if owner is not spec:
                    place = spec.meta.root if path[0] == "metadata" else spec.place
                    holder = f"{owner.meta.kind} {owner.meta.name}"
                    place.problem(
                        path, f"the host {host} belongs to {holder} already, at {owner.meta.place}", "remove one"
                    )
                if host not in canonical or (canonical[host].is_entry and not spec.is_entry):
                    canonical[host] = spec
        return tuple(
            self._service(spec, host, canonical[host] is spec)
            for spec in self._gathered.services
            for _, host in spec.hosts
        )

    def _service(self, spec: ServiceSpec, host: str, canonical: bool) -> Service:
        network = self._defaults.network
        service = Service(
            name=spec.meta.name,
            namespace=spec.meta.namespace,
            hostname=host,
            vips=tuple(NetworkAddress(network, ip) for ip in spec.vips),
            cidr_vips=tuple(NetworkPrefix(network, prefix) for prefix in spec.prefixes),
            ports=_ports(spec),
            subject_alt_names=spec.names,
            waypoint=self._service_waypoint(spec),
            load_balancing=spec.load_balancing or self._namespace_balancing(spec),
            ip_families=spec.ip_families,
            canonical=canonical,
            visibility=spec.visibility,
        )
        self._origins[service.key] = spec.meta.place
        return service

    def _namespace_balancing(self, spec: ServiceSpec) -> LoadBalancing:
        namespace = self._gathered.namespaces.get(spec.meta.namespace)
        return (annotated_distribution(namespace) if namespace is not None else None) or STANDARD_LOAD_BALANCING


@dataclass(frozen=True, slots=True)
class _FoundWaypoint:
    address: GatewayAddress
    service: ServiceSpec
    inherited: bool


def _ports(spec: ServiceSpec) -> PortMap:
    """Service port → target port; 0 where each endpoint has its own."""
    return {port.number: 0 if isinstance(port.target, str) else port.target or port.number for port in spec.ports}
