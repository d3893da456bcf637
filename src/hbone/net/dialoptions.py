"""How upstreams are connected to."""

from hbone.addr import IpAddress
from hbone.net.sockets import DEFAULT_KEEP_ALIVE, KeepAlive
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DialOptions:
    """`hbone` only chooses the words of a time-out; `source` binds the local end (port 0), None leaves it open."""

    timeout_s: float = 10.0
    keep_alive: KeepAlive | None = DEFAULT_KEEP_ALIVE
    source: IpAddress | None = None
    hbone: bool = False
