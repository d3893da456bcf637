"""The workloads of a node: one that is given (dedicated), or all that have an address here (shared)."""

from collections.abc import Callable, Mapping
from dataclasses import field

from hbone.addr import IpAddress, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.inbound import Served
from hbone.discovery.model import Workload
from hbone.identity.spiffe import DomainNames
from hbone.values import dataclass

Dials = Mapping[int, SocketAddress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """Where a workload's ports really are, by "namespace/name": mesh port → address to dial."""

    dials: Mapping[str, Dials] = field(default_factory=dict[str, Dials])

    def of(self, workload: Workload) -> Dials:
        return self.dials.get(f"{workload.namespace}/{workload.name}", {})


class DedicatedWorkload:
    """Everything that connects here, and every tunnel that arrives, is one workload's.

    `own` stands for it until the mesh knows it; `name` None: any workload of its account, the first by uid. `names`:
    what the mesh is called now, as it may be while it is being renamed.
    """

    def __init__(
        self,
        directory: Directory,
        own: Workload,
        name: str | None,
        exposed: Exposed,
        names: Callable[[], DomainNames] | None = None,
    ) -> None:
        self.directory = directory
        self._own = own
        self._name = name
        self._exposed = exposed
        self._names = names or (lambda: DomainNames(own.identity.trust_domain))
        self._version = -1
        self._served = Served(workload=own)

    def served_at(self, local: SocketAddress) -> Served | None:
        del local
        return self._current()

    def source_at(self, ip: IpAddress) -> Workload | None:
        return self.directory.workload_at(self._own.network, ip)

    def outbound_source(self, ip: IpAddress) -> Workload | None:
        del ip
        return self._current().workload

    def _current(self) -> Served:
        if self._version != self.directory.version:
            self._version = self.directory.version
            workload = self._find() or self._own
            self._served = Served(workload=workload, dials=self._exposed.of(workload))
        return self._served

    def _find(self) -> Workload | None:
        own = self._own
        if self._name is not None:
            named = self.directory.workloads_called(own.namespace, self._name)
            return next((one for one in named if one.service_account == own.service_account), None)
        account, names = (own.namespace, own.service_account), self._names()
        return next(
            (
                one
                for one in self.directory.workloads()
                if (one.namespace, one.service_account) == account and one.trust_domain in names
            ),
            None,
        )


class SharedWorkloads:
    """Who connects is known by its address, and so is for whom a tunnel is.

    With a `node` name, only workloads that are placed on this node (or on none) count: a node must not speak for
    others' workloads.
    """

    def __init__(self, directory: Directory, network: str, node: str, exposed: Exposed) -> None:
        self.directory = directory
        self._network = network
        self._node = node
        self._exposed = exposed
        self._version = -1
        self._cache: dict[IpAddress, Served | None] = {}

    def served_at(self, local: SocketAddress) -> Served | None:
        if self._version != self.directory.version or len(self._cache) > 65536:
            self._version = self.directory.version
            self._cache.clear()
        if local.ip not in self._cache:
            self._cache[local.ip] = self._find(local.ip)
        return self._cache[local.ip]

    def _find(self, ip: IpAddress) -> Served | None:
        workload = self.directory.workload_at(self._network, ip)
        if workload is None or (self._node and workload.node and workload.node != self._node):
            return None
        return Served(workload=workload, dials=self._exposed.of(workload))

    def source_at(self, ip: IpAddress) -> Workload | None:
        return self.directory.workload_at(self._network, ip)

    def outbound_source(self, ip: IpAddress) -> Workload | None:
        served = self.served_at(SocketAddress(ip, 0))
        return served.workload if served is not None else None
