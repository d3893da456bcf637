"""Which tunnel carries the next stream; when to open another, and when to let one go.

A tunnel belongs to one key for its whole life: whose certificate it was opened with, whom it must reach, where, and
from which address. Nothing else may share it, so no workload's bytes ever travel under another's identity.
"""

from collections.abc import Iterable
from dataclasses import field
from typing import Final, Protocol, TypeVar

from hbone.addr import IpAddress, SocketAddress
from hbone.identity.spiffe import SpiffeId
from hbone.times import Instant
from hbone.values import dataclass

ASSUMED_STREAMS: Final = 100  # RFC 9113 §6.5.2 recommends servers allow at least this; ztunnel assumes the same


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What two connections must have in common to share a tunnel.

    `source_ip` is where the workload's connection came from: a peer that judges by address must not see one
    workload's address on another's streams. None when a node has a single workload.
    """

    source: SpiffeId
    expected: frozenset[SpiffeId]
    peer: SocketAddress
    source_ip: IpAddress | None
    _hash: int = field(init=False, repr=False, compare=False)  # made once: a key is looked up for each connection

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.source, self.expected, self.peer, self.source_ip)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPolicy:
    """`max_streams`: streams at once on one tunnel, whatever the peer allows beyond. `max_tunnels`: of one key, those
    that are only kept for their last streams not counted. `max_total`: of all keys, those included.

    `idle_s`: how long a tunnel without streams is kept. `wait_s`: how long a connection waits for room in one.
    """

    max_streams: int = 1024
    max_tunnels: int = 64
    max_total: int = 10_000
    idle_s: float = 300.0
    wait_s: float = 20.0


class Candidate(Protocol):
    """What there is to know about an open tunnel."""

    @property
    def streams(self) -> int:
        """Streams open on it now."""
        ...

    @property
    def free_streams(self) -> int:
        """Streams that the peer would still take; 0 once either side goes away."""
        ...

    @property
    def leaving(self) -> bool:
        """It will never take another stream."""
        ...

    @property
    def generation(self) -> int:
        """Counts the certificates of its source: a tunnel of an older one takes no new streams."""
        ...


_C = TypeVar("_C", bound=Candidate)


def choose(tunnels: Iterable[_C], generation: int, policy: PoolPolicy) -> _C | None:
    """The fullest tunnel that still has room, so that the others can fall idle and close; None: open one."""
    best: _C | None = None
    for tunnel in tunnels:
        if tunnel.generation != generation or tunnel.free_streams <= 0 or tunnel.streams >= policy.max_streams:
            continue
        if best is None or tunnel.streams > best.streams:
            best = tunnel
    return best


def may_open(tunnels: Iterable[Candidate], opening: int, generation: int | None, policy: PoolPolicy) -> bool:
    """One handshake at a time for a key (single flight), and not more tunnels than `max_tunnels` for new streams.

    `generation` None: there is no certificate now, so no tunnel is of any use.
    """
    useful = sum(not tunnel.leaving and tunnel.generation == generation for tunnel in tunnels)
    return opening == 0 and useful < policy.max_tunnels


def is_stale(tunnel: Candidate, generation: int) -> bool:
    """Its certificate was replaced: let its streams end, give it no new ones."""
    return tunnel.generation != generation


def idle_expired(idle_since: Instant | None, now: Instant, policy: PoolPolicy) -> bool:
    """Whether a tunnel that has had no stream since `idle_since` (None: has some) has waited long enough."""
    return idle_since is not None and now - idle_since >= policy.idle_s
