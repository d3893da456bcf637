"""What planning can come to: the variants of an outbound plan."""

from enum import Enum
from typing import TypeAlias

from hbone.addr import Authority, SocketAddress
from hbone.discovery.model import Service, Workload
from hbone.errors import NoRoute
from hbone.identity.spiffe import SpiffeId
from hbone.values import dataclass


class Cause(Enum):
    """Why a connection is refused, for tests, metrics and `why`."""

    ILLEGAL_CALL = "illegal-call"
    NO_UPSTREAM = "no-healthy-upstream"
    UNKNOWN_HOST = "unknown-host"
    UNKNOWN_ADDRESS = "unknown-address"
    UNKNOWN_WAYPOINT = "unknown-waypoint"
    OTHER_NETWORK = "other-network"
    NO_ADDRESS = "no-address"
    IP_MISMATCH = "ip-mismatch"
    NOT_SERVED = "not-served"
    NO_PORT = "no-port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passthrough:
    """Plain TCP to `upstream`.

    `destination` is the workload there when the mesh knows it (and that it speaks plain TCP); None: an address
    outside the mesh, which gets no labels. `service`: the one that was asked for, if any.
    """

    upstream: SocketAddress
    destination: Workload | None
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughTunnel:
    """A CONNECT for `authority` to the node proxy of `destination`, listening at `peer`, which must show one of
    the `expected` identities."""

    peer: SocketAddress
    authority: Authority
    expected: frozenset[SpiffeId]
    destination: Workload
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughWaypoint:
    """A CONNECT for `authority`, what the program asked for, to `waypoint` listening at `peer`.

    The waypoint decides where it goes: `destination` is known only when a workload was dialled by its address.
    """

    peer: SocketAddress
    authority: Authority
    expected: frozenset[SpiffeId]
    waypoint: Workload
    destination: Workload | None
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """The way leads to a host whose addresses are in DNS, not in the mesh: look `host` up and plan again."""

    host: str
    destination: Workload | None
    service: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """No connection. `what`, `why` and `fix` read as in `hbone.errors.HboneError`; `status` answers a CONNECT."""

    cause: Cause
    what: str
    why: str = ""
    fix: str = ""
    status: int = 503

    @property
    def reason(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def error(self) -> NoRoute:
        return NoRoute(self.what, why=self.why, fix=self.fix, cause=self.cause)


OutboundPlan: TypeAlias = Passthrough | ThroughTunnel | ThroughWaypoint | Resolve | Refuse
