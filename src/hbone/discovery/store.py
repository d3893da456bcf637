"""The mesh's state: what several sources say, merged and indexed; changes go in whole and come out as a difference.

Each source (the control plane, manifests, …) keeps a layer of its own: taking a workload out of the manifests
brings back what the control plane says about it. Where two speak of the same uid or service, the stronger source
holds; see `Source`. Endpoints are not stored with services but follow from the workloads: whatever comes
first, workload or service, and however often a service goes and comes back, its endpoints are right.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Generic, TypeVar

from hbone.addr import IpAddress
from hbone.discovery.directory import Found, best_service
from hbone.discovery.indexes import AddressIndex, EndpointIndex, HostIndex, PrefixIndex, group_add, group_remove
from hbone.discovery.model import (
    Endpoint,
    MeshState,
    NetworkAddress,
    NetworkMode,
    Protocol,
    Service,
    Workload,
)
from hbone.values import dataclass

_T = TypeVar("_T")


class Source(IntEnum):
    """Who says so; the greater one holds. What the operator wrote down on this machine cannot be taken over by
    what a program registered, nor by a control plane further away."""

    XDS = 1
    REGISTRATIONS = 2
    MANIFESTS = 3
    LOCAL_FILE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One change to one source. `removed` holds workload uids and service keys ("namespace/hostname") and is
    carried out first; unknown names are no error."""

    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed(Generic[_T]):
    """One workload or service before and after; None: it was not, or is no longer, there."""

    before: _T | None
    after: _T | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an update changed for readers of the store; false when nothing."""

    version: int
    workloads: tuple[Changed[Workload], ...] = ()
    services: tuple[Changed[Service], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services)

    @property
    def released(self) -> frozenset[NetworkAddress]:
        """Addresses where another identity, port or nobody is to be expected now: tunnels to them are stale."""
        return frozenset(
            NetworkAddress(c.before.network, ip)
            for c in self.workloads
            if c.before is not None
            for ip in c.before.addresses
            if not _same_peer(c.before, c.after, ip)
        )


def _same_peer(before: Workload, after: Workload | None, ip: IpAddress) -> bool:
    return (
        after is not None
        and ip in after.addresses
        and (after.network, after.protocol, after.identity, after.hbone_port)
        == (before.network, before.protocol, before.identity, before.hbone_port)
    )


class Store:
    """The state of the mesh; fulfils `hbone.discovery.directory.Directory`."""

    def __init__(self) -> None:
        self._version = 0
        self._workload_layers: dict[Source, dict[str, Workload]] = {}
        self._service_layers: dict[Source, dict[str, Service]] = {}
        self._workloads: dict[str, Workload] = {}
        self._services: dict[str, Service] = {}
        self._by_address: AddressIndex[Workload] = AddressIndex()
        self._by_vip: AddressIndex[Service] = AddressIndex()
        self._by_prefix = PrefixIndex()
        self._by_host = HostIndex()
        self._endpoints = EndpointIndex()
        self._names: dict[str, dict[str, tuple[Workload, ...]]] = {}
        self._hostnames: dict[str, tuple[Workload, ...]] = {}

    # reading

    @property
    def version(self) -> int:
        return self._version

    def at(self, network: str, ip: IpAddress, namespace: str | None = None) -> Found:
        services = self._by_vip.get(network, ip)
        service = best_service(services, namespace) if services else None
        workload = self.workload_at(network, ip)
        if service is None and workload is None:  # a range is less specific than a workload's own address
            service = self._by_prefix.best(network, ip, namespace)
        return Found(service, workload)

    def workload(self, uid: str) -> Workload | None:
        return self._workloads.get(uid)

    def workload_at(self, network: str, ip: IpAddress) -> Workload | None:
        here = self._by_address.get(network, ip)
        return here[0] if len(here) == 1 else max(enumerate(here), key=self._claim, default=(0, None))[1]

    def _claim(self, numbered: tuple[int, Workload]) -> tuple[int, bool, bool, int]:
        """How good a workload's claim to an address is: a stronger source's, a pod's, an HBONE speaker's, and
        then the newest, since a successor may be known before its predecessor is gone."""
        position, workload = numbered
        origin = max(source for source, layer in self._workload_layers.items() if workload.uid in layer)
        return origin, "//Pod/" in workload.uid, workload.protocol is Protocol.HBONE, position

    def workloads_called(self, namespace: str, name: str) -> tuple[Workload, ...]:
        return self._names.get(namespace, {}).get(name, ())

    def workloads_with_host(self, hostname: str) -> tuple[Workload, ...]:
        return self._hostnames.get(hostname.lower(), ())

    def service(self, namespace: str, hostname: str) -> Service | None:
        return self._by_host.get(namespace, hostname)

    def service_named(self, hostname: str, namespace: str | None = None) -> Service | None:
        return best_service(self._by_host.all(hostname), namespace)

    def endpoints(self, service: Service) -> tuple[Endpoint, ...]:
        return self._endpoints.of(service.key)

    @property
    def workload_count(self) -> int:
        return len(self._workloads)

    @property
    def service_count(self) -> int:
        return len(self._services)

    def workloads(self) -> tuple[Workload, ...]:
        return tuple(sorted(self._workloads.values(), key=lambda w: (w.namespace, w.name, w.uid)))

    def services(self) -> tuple[Service, ...]:
        return tuple(sorted(self._services.values(), key=lambda s: (s.namespace, s.hostname)))

    # changing

    def apply(self, update: Update, source: Source = Source.XDS) -> Change:
        """Carries out a whole update; nobody sees half of it, since nothing here waits."""
        workloads = self._workload_layers.setdefault(source, {})
        services = self._service_layers.setdefault(source, {})
        old_workloads: dict[str, Workload | None] = {}
        old_services: dict[str, Service | None] = {}
        for name in update.removed:
            if workloads.pop(name, None) is not None:
                old_workloads.setdefault(name, self._workloads.get(name))
            elif services.pop(name, None) is not None:
                old_services.setdefault(name, self._services.get(name))
        for workload in update.workloads:
            workloads[workload.uid] = workload
            old_workloads.setdefault(workload.uid, self._workloads.get(workload.uid))
        for service in update.services:
            services[service.key] = service
            old_services.setdefault(service.key, self._services.get(service.key))
        return self._settle(old_workloads, old_services)

    def replace_all(self, source: Source, state: MeshState) -> Change:
        """Makes `state` all that `source` says; what is the same as before is not a change."""
        workloads = {workload.uid: workload for workload in state.workloads}
        services = {service.key: service for service in state.services}
        old_workloads = self._workload_layers.get(source, {})
        old_services = self._service_layers.get(source, {})
        return self.apply(
            Update(
                workloads=tuple(w for uid, w in workloads.items() if old_workloads.get(uid) != w),
                services=tuple(s for key, s in services.items() if old_services.get(key) != s),
                removed=(
                    *(uid for uid in old_workloads if uid not in workloads),
                    *(key for key in old_services if key not in services),
                ),
            ),
            source,
        )

    def _settle(
        self, old_workloads: Mapping[str, Workload | None], old_services: Mapping[str, Service | None]
    ) -> Change:
        changed_workloads: list[Changed[Workload]] = []
        workload_layers = _strongest_first(self._workload_layers)
        for uid, before in old_workloads.items():
            after = _strongest(workload_layers, uid)
            if before is not after and before != after:
                self._reindex_workload(before, after)
                changed_workloads.append(Changed(before, after))
        changed_services: list[Changed[Service]] = []
        service_layers = _strongest_first(self._service_layers)
        for key, old in old_services.items():
            new = _strongest(service_layers, key)
            if old is not new and old != new:
                self._reindex_service(old, new)
                changed_services.append(Changed(old, new))
        if changed_workloads or changed_services:
            self._version += 1
        return Change(version=self._version, workloads=tuple(changed_workloads), services=tuple(changed_services))

    def _reindex_workload(self, before: Workload | None, after: Workload | None) -> None:
        self._by_address.change(before, after, _own_addresses)
        self._endpoints.change(before, after)
        if before is not None and (after is None or _names_of(before) != _names_of(after)):
            self._forget_names(before)
        if after is None:
            if before is not None:
                del self._workloads[before.uid]
            return
        self._workloads[after.uid] = after
        group_add(self._names.setdefault(after.namespace, {}), after.name, after)
        if after.hostname:
            group_add(self._hostnames, after.hostname.lower(), after)

    def _forget_names(self, workload: Workload) -> None:
        named = self._names[workload.namespace]
        group_remove(named, workload.name, workload)
        if not named:
            del self._names[workload.namespace]
        if workload.hostname:
            group_remove(self._hostnames, workload.hostname.lower(), workload)

    def _reindex_service(self, before: Service | None, after: Service | None) -> None:
        self._by_vip.change(before, after, _vips)
        self._by_prefix.change(before, after)
        self._by_host.change(before, after)
        if after is not None:
            self._services[after.key] = after
        elif before is not None:
            del self._services[before.key]


def _strongest_first(layers: Mapping[Source, Mapping[str, _T]]) -> list[Mapping[str, _T]]:
    return [layers[source] for source in sorted(layers, reverse=True)]


def _strongest(layers: Iterable[Mapping[str, _T]], key: str) -> _T | None:
    for layer in layers:
        value = layer.get(key)
        if value is not None:
            return value
    return None


def _own_addresses(workload: Workload) -> Iterable[tuple[str, IpAddress]]:
    if workload.network_mode is NetworkMode.HOST_NETWORK:
        return ()
    return [(workload.network, ip) for ip in workload.addresses]


def _vips(service: Service) -> Iterable[tuple[str, IpAddress]]:
    return [(vip.network, vip.ip) for vip in service.vips]


def _names_of(workload: Workload) -> tuple[str, str, str]:
    return workload.namespace, workload.name, workload.hostname
