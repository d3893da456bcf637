"""What a CONNECT says, as a value."""

from hbone.addr import Authority
from hbone.protocol.baggage import Baggage, Forwarded, TraceParent
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """`authority`: where to. The rest describes where from, and is not to be trusted; None: not said.

    `forwarded_network`: the network that the connection came from, inside a tunnel between networks; may be empty.
    """

    authority: Authority
    baggage: Baggage | None = None
    forwarded: Forwarded | None = None
    traceparent: TraceParent | None = None
    forwarded_network: str | None = None
