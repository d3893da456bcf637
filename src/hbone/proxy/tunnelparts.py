"""What the tunnels of a process share, both those opened here and those that arrive."""

from hbone.net.dialoptions import DialOptions
from hbone.net.h2link import H2Link
from hbone.net.linkparts import LinkParts
from hbone.net.poller import Poller
from hbone.net.tls import TlsStream
from hbone.protocol.connection import Http2Connection
from hbone.protocol.limits import Limits
from hbone.protocol.outbox import BufferPool, Outbox
from hbone.protocol.settings import LocalSettings, Role
from hbone.proxy.tunnelwatch import TunnelWatch, Unwatched
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelParts:
    """What all tunnels of a process share: the sockets' poller, buffers, and what HTTP/2 announces."""

    poller: Poller
    link: LinkParts
    buffers: BufferPool
    client: LocalSettings
    server: LocalSettings
    limits: Limits
    dial: DialOptions
    handshake_timeout_s: float = 10.0
    watch: TunnelWatch = Unwatched()

    def new_link(self, tls: TlsStream, role: Role) -> H2Link:
        settings = self.client if role is Role.CLIENT else self.server
        outbox = Outbox(self.buffers)
        return H2Link(self.poller, tls, Http2Connection(role, settings, self.limits, outbox), outbox, self.link)
