"""What readers of the mesh's state may ask: `Directory`, which `hbone.discovery.store.Store` fulfils.

One question, one answer: `at` is the only way from an address to what lives there, and `named` the only way
from a host name, so that "is this a service?" and "where does it lead?" can never disagree.
"""

from collections.abc import Iterable
from typing import Protocol

from hbone.addr import IpAddress
from hbone.discovery.model import Endpoint, Service, Workload
from hbone.values import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """What lives at an address: a service, a workload, both, or neither."""

    service: Service | None = None
    workload: Workload | None = None

    def __bool__(self) -> bool:
        return self.service is not None or self.workload is not None


class Directory(Protocol):
    """The mesh, read-only. Everything is in memory: no question waits."""

    @property
    def version(self) -> int:
        """Grows with every change."""
        ...

    def at(self, network: str, ip: IpAddress, namespace: str | None = None) -> Found:
        """What lives at an address, seen by a client in `namespace` (None: unknown).

        An exact VIP beats an address range, and so does a workload: the range is then not reported.
        """
        ...

    def workload(self, uid: str) -> Workload | None: ...

    def workload_at(self, network: str, ip: IpAddress) -> Workload | None:
        """The workload that owns an address; host-network workloads own none."""
        ...

    def workloads_called(self, namespace: str, name: str) -> tuple[Workload, ...]:
        """All workloads of that name (several clusters may each have one)."""
        ...

    def workloads_with_host(self, hostname: str) -> tuple[Workload, ...]:
        """Workloads whose own host name this is."""
        ...

    def service(self, namespace: str, hostname: str) -> Service | None: ...

    def service_named(self, hostname: str, namespace: str | None = None) -> Service | None:
        """The service that a client in `namespace` means by exactly this host name."""
        ...

    def endpoints(self, service: Service) -> tuple[Endpoint, ...]:
        """All workloads that list the service, by uid, whatever their health.

        The very same tuple is returned until it changes: compare by identity to notice.
        """
        ...

    def workloads(self) -> tuple[Workload, ...]:
        """All, by namespace, name and uid."""
        ...

    def services(self) -> tuple[Service, ...]:
        """All, by namespace and host name."""
        ...


def own_workload(directory: Directory, namespace: str, name: str, service_account: str) -> Workload | None:
    """The workload that a dedicated node stands for: exactly this name and service account, never an address."""
    named = directory.workloads_called(namespace, name)
    return next((workload for workload in named if workload.service_account == service_account), None)


def best_service(candidates: Iterable[Service], namespace: str | None) -> Service | None:
    """Which of several services with one key a client in `namespace` means.

    Those it can see; its own namespace's first, then the canonical one (the last of several), then the oldest.
    """
    best: Service | None = None
    for service in candidates:
        if not service.visible_from(namespace):
            continue
        if service.namespace == namespace:
            return service
        if best is None or service.canonical:
            best = service
    return best
