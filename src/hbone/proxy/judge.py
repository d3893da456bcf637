"""The question that a policy answers about a connection, before anything is dialled for it."""

from collections.abc import Callable

from hbone.addr import SocketAddress
from hbone.discovery.model import Workload
from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to know. `identity` is None unless mutual TLS proved one.

    `source` is the TCP peer, `destination` the workload's own address and the port that was asked for there.
    """

    identity: SpiffeId | None
    source: SocketAddress
    destination: SocketAddress
    workload: Workload | None


Authorize = Callable[[Facts], HboneError | None]
"""None: it may pass; else why not. The connection is registered when this is called."""
