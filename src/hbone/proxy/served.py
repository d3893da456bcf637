"""Which workloads this node works for, as the data path asks it: by address, for every connection."""

from typing import Protocol

from hbone.addr import IpAddress, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.inbound import Served
from hbone.discovery.model import Workload


class LocalWorkloads(Protocol):
    """The workloads of this node, and the mesh that they live in."""

    @property
    def directory(self) -> Directory: ...

    def served_at(self, local: SocketAddress) -> Served | None:
        """Whom a connection that arrived at our address `local` is for; a tunnel is shown its certificate."""
        ...

    def source_at(self, ip: IpAddress) -> Workload | None:
        """Who a TCP peer is, by its address: for the log only, never for a judgement."""
        ...

    def outbound_source(self, ip: IpAddress) -> Workload | None:
        """The workload here that connects from `ip`; a dedicated node has just one, wherever it connects from."""
        ...
