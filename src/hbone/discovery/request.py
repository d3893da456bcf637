"""One outbound connection that wants a way: the facts, and the two choices that every way needs.

Which endpoint (`choose`) and which of its addresses (`address`).
"""

from collections.abc import Mapping
from dataclasses import field, replace
from enum import Enum
from typing import Final

from hbone.addr import Authority, IpAddress, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.listeners import USUAL, OwnListeners
from hbone.discovery.model import Service, Workload
from hbone.discovery.outcomes import Cause, OutboundPlan, Passthrough, Refuse, Resolve, ThroughTunnel, ThroughWaypoint
from hbone.discovery.select import Candidate, Selector, Wanted, address_of
from hbone.values import dataclass

_NOTHING_RESOLVED: Final[Mapping[str, tuple[IpAddress, ...]]] = {}


class Unknown(Enum):
    """What becomes of an address that is nowhere in the mesh: carried on in clear, or refused."""

    PASS = "pass"  # noqa: S105 - not a password
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundContext:
    """What a plan depends on besides source and destination.

    `downstream` is the address that the program connected from, None if it did not connect over IP.
    `listeners`: our own, which no program may reach on loopback. `tried` are uids of workloads to
    leave out. `addresses` are answers to earlier `Resolve` plans, by host; `pinned` is the uid of the workload that
    was chosen when the question came up.
    """

    downstream: IpAddress | None = None
    listeners: OwnListeners = USUAL
    cluster_domain: str = "cluster.local"
    unknown: Unknown = Unknown.PASS
    tried: frozenset[str] = frozenset()
    addresses: Mapping[str, tuple[IpAddress, ...]] = field(default_factory=lambda: _NOTHING_RESOLVED)
    pinned: str | None = None

    def without(self, plan: OutboundPlan) -> "OutboundContext":
        """For the next attempt, after the upstream of `plan` could not be connected to (or looked up). The same
        context when there is no other upstream to try (a passthrough to an address outside the mesh)."""
        failed: Workload | None = None
        match plan:
            case ThroughWaypoint():
                failed = plan.waypoint
            case ThroughTunnel() | Passthrough() | Resolve():
                failed = plan.destination
            case Refuse():
                pass
        return self if failed is None else replace(self, tried=self.tried | {failed.uid}, pinned=None)

    def resolved(self, plan: Resolve, addresses: tuple[IpAddress, ...]) -> "OutboundContext":
        """With the answer to `plan`; empty when the name has no address."""
        pinned = plan.destination.uid if plan.destination is not None else None
        return replace(self, addresses={**self.addresses, plan.host: addresses}, pinned=pinned)


@dataclass(frozen=True, slots=True)
class Request:
    """A connection from `source` to the `destination` that a program asked for."""

    directory: Directory
    source: Workload
    destination: Authority
    selector: Selector
    context: OutboundContext

    @property
    def dialled(self) -> IpAddress | None:
        """The address that the program used, None if it used a name."""
        return self.destination.ip if isinstance(self.destination, SocketAddress) else None

    def choose(self, wanted: Wanted) -> Candidate | Refuse:
        """The endpoint whose turn it is, among those on the source's network."""
        if self.context.pinned is not None:
            pinned = self.selector.find(self.directory, self.source, wanted, self.context.pinned)
            if pinned is not None:
                return pinned
        tried = self.context.tried
        beyond: Workload | None = None
        while True:
            candidate = self.selector.choose(self.directory, self.source, wanted, tried)
            if candidate is None:
                return self._no_endpoint(wanted) if beyond is None else other_network(beyond)
            if candidate.workload.network == self.source.network:
                return candidate
            beyond = candidate.workload
            tried |= {beyond.uid}

    def _no_endpoint(self, wanted: Wanted) -> Refuse:
        service = wanted.service
        if wanted.port not in service.ports:
            ports = ", ".join(map(str, sorted(service.ports))) or "none"
            why = f"{service.key} has no port {wanted.port}, its ports are: {ports}"
        else:
            known = self.directory.endpoints(service)
            healthy = sum(endpoint.workload.healthy for endpoint in known)
            tried = sum(endpoint.workload.uid in self.context.tried for endpoint in known)
            why = f"{service.key} has {len(known)} endpoints, {healthy} of them healthy, {tried} tried in vain"
        return Refuse(
            cause=Cause.NO_UPSTREAM,
            what=f"no healthy upstream: {self.destination}",
            why=why,
            fix="see what is known with `hbone get services` and `hbone get workloads`",
        )

    def address(
        self, workload: Workload, service: Service | None, dialled: IpAddress | None
    ) -> IpAddress | Resolve | Refuse:
        """Where to dial a workload, when the program asked for `dialled`."""
        ip = address_of(workload, dialled, service)
        if ip is not None:
            return ip
        if not workload.hostname or workload.addresses:
            return Refuse(
                cause=Cause.NO_ADDRESS,
                what=f"no valid routing destination for workload: {workload.uid}",
                why="it has no address that may be used here",
                fix="give the WorkloadEntry an address of an IP family that its service allows",
            )
        answer = self.context.addresses.get(workload.hostname)
        if answer is None:
            return Resolve(host=workload.hostname, destination=workload, service=service)
        return pick(answer, dialled) or unresolved(workload.hostname, workload)


def pick(answer: tuple[IpAddress, ...], dialled: IpAddress | None) -> IpAddress | None:
    """One of the addresses of a host, of the dialled family when there is one."""
    same = (ip for ip in answer if dialled is not None and ip.version == dialled.version)
    return next(same, answer[0] if answer else None)


def unresolved(host: str, workload: Workload | None = None) -> Refuse:
    name = workload.uid if workload is not None else host
    return Refuse(
        cause=Cause.NO_ADDRESS,
        what=f"no ip addresses were resolved for {'workload' if workload is not None else 'host'}: {name}",
        why=f"DNS has no address for {host}",
        fix="check the name, or write the address into the configuration",
    )


def other_network(workload: Workload) -> Refuse:
    return Refuse(
        cause=Cause.OTHER_NETWORK,
        what=f"no route to network {workload.network!r}",
        why=f"{workload.uid} is reached only through an east-west gateway, and tunnels in tunnels are not supported",
        fix="add an endpoint on this network",
    )
