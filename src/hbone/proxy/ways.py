"""What the connections from one workload to one destination have in common, made once and found again.

A new connection costs little more than its system calls only if nothing is worked out that the one before knew
already: the pool's key, the request's headers, the names that logs and metrics show.
"""

from typing import Final

from hbone.addr import IpAddress, text_of
from hbone.discovery.model import Workload
from hbone.discovery.outcomes import ThroughTunnel, ThroughWaypoint
from hbone.discovery.request import OutboundContext
from hbone.identity.spiffe import SpiffeId
from hbone.protocol.connect import RequestHead
from hbone.proxy.labels import baggage_of
from hbone.proxy.outcome import Side, party_of
from hbone.proxy.pooling import PoolKey

WAYS_KEPT: Final = 4096

Carried = ThroughTunnel | ThroughWaypoint


class Way:
    """From one workload, connecting from one address, along one plan."""

    __slots__ = (
        "_peer",
        "_peer_side",
        "authority",
        "destination",
        "head",
        "key",
        "peer",
        "plan",
        "source",
        "source_side",
    )

    def __init__(self, plan: Carried, source: Workload, source_ip: IpAddress) -> None:
        self.plan = plan
        self.source = source
        self.key = PoolKey(source.identity, plan.expected, plan.peer, source_ip)
        host = plan.service.hostname if plan.service is not None else None
        self.head = RequestHead(plan.authority, baggage_of(source), host)
        self.peer = text_of(plan.peer)
        self.authority = text_of(plan.authority)
        self.source_side = party_of(source, source.identity)
        self.destination = party_of(plan.destination, None)
        self._peer: SpiffeId | None = None
        self._peer_side = self.destination

    def destination_side(self, peer: SpiffeId) -> Side:
        """The destination once `peer` was proven to be there."""
        if peer is not self._peer:
            self._peer, self._peer_side = peer, party_of(self.plan.destination, peer)
        return self._peer_side


class Settled:
    """Holds what it is found by, so that no other object can have its id."""

    __slots__ = ("context", "source", "way")

    def __init__(self, source: Workload, context: OutboundContext, way: Way) -> None:
        self.source = source
        self.context = context
        self.way = way


class Ways:
    """Those that were gone lately. Looked up by object identity: equal plans, workloads and addresses are one object
    each (nearly always: where they are not, a way is merely made twice)."""

    def __init__(self) -> None:
        self._ways: dict[tuple[int, int, int], Way] = {}
        self._version = -1
        self._settled: dict[tuple[int, int, str], Settled] = {}

    def settled(self, version: int, source: Workload, context: OutboundContext, target: str) -> Way | None:
        """The way that was settled for these before, while the mesh is still of that `version`."""
        if version != self._version:
            return None
        settled = self._settled.get((id(source), id(context), target))
        return None if settled is None else settled.way

    def settle(self, version: int, source: Workload, context: OutboundContext, target: str, way: Way) -> None:
        """Remember a way that was planned for these, if it is planned so each time: neither was there a choice between
        endpoints, nor was anything looked up or tried before."""
        if not isinstance(way.plan, ThroughTunnel) or way.plan.service is not None:
            return
        if version != self._version or len(self._settled) >= WAYS_KEPT:
            self._version = version
            self._settled.clear()
        self._settled[id(source), id(context), target] = Settled(source, context, way)

    def of(self, plan: Carried, source: Workload, source_ip: IpAddress) -> Way:
        key = id(plan), id(source), id(source_ip)
        way = self._ways.get(key)
        if way is not None:
            return way  # it holds all three, so no other object can have their ids
        if len(self._ways) >= WAYS_KEPT:
            self._ways.clear()
        way = self._ways[key] = Way(plan, source, source_ip)
        return way
