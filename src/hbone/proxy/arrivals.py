"""What arrives: the tunnels from other nodes, and what their CONNECTs are worked off with."""

from dataclasses import field

from hbone.addr import SocketAddress
from hbone.discovery.inbound import InboundContext, Served
from hbone.identity.spiffe import SpiffeId
from hbone.net.dialoptions import DialOptions
from hbone.net.tasks import Tasks
from hbone.proxy.deliveries import Deliveries
from hbone.proxy.halfclose import HalfCloses
from hbone.proxy.identities import Identities
from hbone.proxy.judge import Authorize
from hbone.proxy.keepalive import KeepAlives
from hbone.proxy.outcome import Outcomes
from hbone.proxy.registry import Registry
from hbone.proxy.served import LocalWorkloads
from hbone.proxy.tunnelparts import TunnelParts
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundOptions:
    """`dial`: how applications are connected to, without probes, which come from `InboundParts.keep_alives`;
    `max_handshakes` those in progress at once."""

    dial: DialOptions = field(default_factory=DialOptions)
    max_handshakes: int = 1024
    max_tunnels: int = 65536
    response_baggage: bool = True
    context: InboundContext = field(default_factory=InboundContext)
    authorize: Authorize | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundParts:
    """What the inbound side works with."""

    tunnels: TunnelParts
    identities: Identities
    local: LocalWorkloads
    outcomes: Outcomes
    registry: Registry
    tasks: Tasks
    options: InboundOptions
    half_closes: HalfCloses | None = None
    keep_alives: KeepAlives | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The tunnel that a CONNECT came in: its number, both TCP ends, whom it is for, and who is at its far end."""

    id: int
    peer: SocketAddress
    local: SocketAddress
    served: Served
    source: SpiffeId
    deliveries: Deliveries
