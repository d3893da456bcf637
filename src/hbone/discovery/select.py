"""Which endpoint of a service gets the next connection.

Candidates are the endpoints that are healthy, reachable and have the port; the service's mode and its routing
preferences narrow them down by what they share with the source; among the rest connections go round in turn, in
proportion to capacity. Turns are kept per service, port and place of the source, and survive changes of the
endpoints. A caller whose connect failed before any byte was sent asks again, naming what it tried.
"""

from collections.abc import Collection
from enum import Enum
from typing import Final

from hbone.addr import IpAddress
from hbone.discovery.directory import Directory
from hbone.discovery.model import (
    Endpoint,
    Health,
    HealthPolicy,
    LoadBalancerMode,
    Scope,
    Service,
    Workload,
)
from hbone.times import Rng
from hbone.values import dataclass

TURNS_KEPT: Final = 4096  # (service, port, place) in use at once; beyond, the one that was made first starts over

_WARM_UP_TURNS: Final = 16  # a turn among unequal candidates looks at each: enough to part clients, cheap to do


class Purpose(Enum):
    """What an endpoint is wanted for. A waypoint may be reached on a port that its service does not declare, if
    it has an application tunnel."""

    TRAFFIC = "traffic"
    WAYPOINT = "waypoint"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint of `service` for its `port`."""

    service: Service
    port: int
    purpose: Purpose = Purpose.TRAFFIC


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint that may be taken, with the port to reach there."""

    workload: Workload
    port: int


class RoundRobin:
    """Turns among candidates in proportion to capacity, spread evenly: of a (5), b (1), c (1) come a a b a c a a.

    Each turn every candidate gains its capacity and the richest one pays the sum (the smooth weighted
    round-robin of nginx); with equal capacities that is plain rotation, done without the sums.
    """

    __slots__ = ("_candidates", "_credit", "_equal", "_place")

    def __init__(self, candidates: tuple[Candidate, ...], start: float = 0.0) -> None:
        """`start`, 0 up to 1, is where to begin: clients that start together should not meet at one endpoint."""
        self._candidates = candidates
        self._equal = len({c.workload.capacity for c in candidates}) <= 1
        self._place = int(start * len(candidates))
        self._credit = [0] * len(candidates)
        if not self._equal:
            for _ in range(int(start * min(len(candidates), _WARM_UP_TURNS))):
                self._balance(())

    def next(self, tried: Collection[str]) -> Candidate | None:
        """The candidate whose turn it is, leaving out workloads whose uid is in `tried`."""
        return self._rotate(tried) if self._equal else self._balance(tried)

    def _rotate(self, tried: Collection[str]) -> Candidate | None:
        count = len(self._candidates)
        for step in range(count):
            candidate = self._candidates[(self._place + step) % count]
            if candidate.workload.uid not in tried:
                self._place = (self._place + step + 1) % count
                return candidate
        return None

    def _balance(self, tried: Collection[str]) -> Candidate | None:
        credit = self._credit
        best = -1
        total = 0
        for place, candidate in enumerate(self._candidates):
            if candidate.workload.uid in tried:
                continue
            credit[place] += candidate.workload.capacity
            total += candidate.workload.capacity
            if best < 0 or credit[place] > credit[best]:
                best = place
        if best < 0:
            return None
        credit[best] -= total
        return self._candidates[best]

    def find(self, uid: str) -> Candidate | None:
        return next((candidate for candidate in self._candidates if candidate.workload.uid == uid), None)

    def successor(self, candidates: tuple[Candidate, ...]) -> "RoundRobin":
        """The turns among changed candidates: who was next is next, who was owed a turn is still owed it."""
        new = RoundRobin(candidates)
        if not candidates or not self._candidates:
            return new
        if new._equal and self._equal:
            upcoming = self._candidates[self._place].workload.uid
            # candidates are in order of uid: if that one is gone, the one after it is next
            new._place = next((i for i, c in enumerate(candidates) if c.workload.uid >= upcoming), 0)
        elif not new._equal:
            owed = {c.workload.uid: credit for c, credit in zip(self._candidates, self._credit, strict=True)}
            new._credit = [owed.get(c.workload.uid, 0) for c in candidates]
        return new


@dataclass(slots=True)
class _Turns:
    """Turns together with what they were made from; all compared by identity."""

    service: Service
    endpoints: tuple[Endpoint, ...]
    robin: RoundRobin


class Selector:
    """Chooses endpoints and keeps the turns. One per node: nothing else shares its state."""

    def __init__(self, rng: Rng | None = None) -> None:
        """`rng` sets where turns begin and picks among weighted waypoints; without it both are the first."""
        self._rng = rng
        self._turns: dict[tuple[object, ...], _Turns] = {}

    def choose(
        self,
        directory: Directory,
        source: Workload,
        wanted: Wanted,
        tried: Collection[str] = (),
    ) -> Candidate | None:
        """The next endpoint for a connection from `source`, None when there is none left."""
        robin = self._robin(directory, source, wanted)
        return robin.next(tried) if robin is not None else None

    def find(self, directory: Directory, source: Workload, wanted: Wanted, uid: str) -> Candidate | None:
        """One particular endpoint, if it is still a candidate; takes nobody's turn."""
        robin = self._robin(directory, source, wanted)
        return robin.find(uid) if robin is not None else None

    def _robin(self, directory: Directory, source: Workload, wanted: Wanted) -> RoundRobin | None:
        service = wanted.service
        endpoints = directory.endpoints(service)
        if not endpoints:
            return None
        place = (source.network, source.locality, source.node, source.cluster_id) if _ranks(service) else source.network
        key = (service.namespace, service.hostname, wanted.port, wanted.purpose.value, place)
        turns = self._turns.get(key)
        if turns is not None and turns.endpoints is endpoints and turns.service is service:
            return turns.robin
        found = candidates(endpoints, source, wanted)
        if turns is None:
            robin = RoundRobin(found, self._rng.random() if self._rng is not None else 0.0)
        else:
            robin = turns.robin.successor(found)
        self._keep(key, _Turns(service, endpoints, robin))
        return robin

    def _keep(self, key: tuple[object, ...], turns: _Turns) -> None:
        if key not in self._turns and len(self._turns) >= TURNS_KEPT:
            del self._turns[next(iter(self._turns))]
        self._turns[key] = turns

    def sample(self, weights: tuple[int, ...]) -> int | None:
        """An index in proportion to its weight; None when all weights are zero."""
        total = sum(weights)
        if total <= 0:
            return None
        left = (self._rng.random() if self._rng is not None else 0.0) * total
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return max(index for index, weight in enumerate(weights) if weight)


def _ranks(service: Service) -> bool:
    return service.load_balancing.mode in {LoadBalancerMode.STRICT, LoadBalancerMode.FAILOVER}


def candidates(endpoints: tuple[Endpoint, ...], source: Workload, wanted: Wanted) -> tuple[Candidate, ...]:
    """The endpoints among which connections from `source` take turns."""
    service = wanted.service
    found: list[Candidate] = []
    for endpoint in endpoints:
        workload = endpoint.workload
        if workload.capacity <= 0 or not may_serve(workload, service) or not _reachable(workload, source, service):
            continue
        port = target_port(endpoint, wanted)
        if port is not None:
            found.append(Candidate(workload, port))
    if not _ranks(service):
        return tuple(found)
    preferences = service.load_balancing.routing_preferences
    ranked = [(rank(source, candidate.workload, preferences), candidate) for candidate in found]
    if service.load_balancing.mode is LoadBalancerMode.STRICT:
        return tuple(c for _, c in ranked if matching_scopes(source, c.workload, preferences) == len(preferences))
    best = max((place for place, _ in ranked), default=0)
    return tuple(candidate for place, candidate in ranked if place == best)


def may_serve(workload: Workload, service: Service) -> bool:
    """Whether its health lets a workload stand for a service."""
    return workload.health is Health.HEALTHY or service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL


def _reachable(workload: Workload, source: Workload, service: Service) -> bool:
    if workload.network != source.network and workload.network_gateway is not None:
        return True
    if workload.addresses:
        return any(service.ip_families.allows(ip) for ip in workload.addresses)
    return bool(workload.hostname)


def target_port(endpoint: Endpoint, wanted: Wanted) -> int | None:
    """Where the wanted service port leads at this endpoint; None: nowhere."""
    declared = wanted.service.ports.get(wanted.port)
    tunnel = endpoint.workload.application_tunnel
    lenient = wanted.purpose is Purpose.WAYPOINT and tunnel is not None
    if declared is None and not lenient:
        return None
    port = endpoint.ports.get(wanted.port) or declared
    if port:
        return port
    return wanted.port if lenient and tunnel is not None and tunnel.port else None


def _shares(scope: Scope, one: Workload, other: Workload) -> bool:
    match scope:
        case Scope.NETWORK:
            return one.network == other.network
        case Scope.REGION:
            return one.locality.region == other.locality.region
        case Scope.ZONE:
            return one.locality.zone == other.locality.zone
        case Scope.SUBZONE:
            return one.locality.subzone == other.locality.subzone
        case Scope.NODE:
            return one.node == other.node
        case Scope.CLUSTER:
            return one.cluster_id == other.cluster_id


def matching_scopes(source: Workload, endpoint: Workload, preferences: tuple[Scope, ...]) -> int:
    """How many preferences hold, in their order, up to the first that does not.

    A leading NETWORK that does not hold is passed over, so that distance still counts among remote endpoints.
    """
    count = 0
    for place, scope in enumerate(preferences):
        if _shares(scope, source, endpoint):
            count += 1
        elif place > 0 or scope is not Scope.NETWORK:
            break
    return count


def rank(source: Workload, endpoint: Workload, preferences: tuple[Scope, ...]) -> int:
    """How close an endpoint is, for Failover: any endpoint on the source's network beats every other one when
    NETWORK is the first preference."""
    count = matching_scopes(source, endpoint, preferences)
    if preferences and preferences[0] is Scope.NETWORK and _shares(Scope.NETWORK, source, endpoint):
        count += len(preferences) - 1
    return count


def address_of(workload: Workload, dialled: IpAddress | None, service: Service | None) -> IpAddress | None:
    """Which of its addresses to dial: the dialled one if it is its own, else one that the service's IP families
    allow, of the dialled family when it has one. None: it has no such address."""
    if dialled is not None and dialled in workload.addresses:
        return dialled
    allowed = [ip for ip in workload.addresses if service is None or service.ip_families.allows(ip)]
    if dialled is not None:
        return next((ip for ip in allowed if ip.version == dialled.version), allowed[0] if allowed else None)
    return allowed[0] if allowed else None
