"""Opening a tunnel: dial, shake hands, and wait until the peer has accepted us."""

import asyncio
from collections.abc import Callable

from hbone.errors import TunnelFailure
from hbone.net import handshake
from hbone.net.connecting import dial
from hbone.protocol.settings import Role
from hbone.proxy.identities import Credentials
from hbone.proxy.pooling import PoolKey
from hbone.proxy.tunnel import Tunnel
from hbone.proxy.tunnelparts import TunnelParts
from hbone.proxy.tunnelwatch import watched
from hbone.times import Instant


async def open_tunnel(
    key: PoolKey,
    credentials: Credentials,
    parts: TunnelParts,
    changed: Callable[[Tunnel], None],
    gone: Callable[[Tunnel], None],
) -> Tunnel:
    """A tunnel that is ready; raises UpstreamFailed, TlsFailure, PeerRejected, TunnelFailure."""
    sock = await dial(parts.poller, key.peer, parts.dial)
    deadline = Instant(parts.poller.loop.time() + parts.handshake_timeout_s)
    shaking = handshake.connect(sock, credentials.contexts, expected=key.expected, deadline=deadline)
    tls = await watched(shaking, parts.watch, "outbound", parts.poller.loop.time)
    tunnel = Tunnel(key, credentials.generation, parts.new_link(tls, Role.CLIENT), changed, gone)
    tunnel.link.start(tunnel)
    await _wait_ready(tunnel, deadline)
    return tunnel


async def _wait_ready(tunnel: Tunnel, deadline: Instant) -> None:
    """Until the peer's SETTINGS arrived; raises what refused us. The tunnel is closed when this raises."""
    ready = tunnel.ready = asyncio.get_running_loop().create_future()
    try:
        async with asyncio.timeout_at(deadline):
            await ready
    except TimeoutError as error:
        failure = TunnelFailure(
            f"{tunnel.key.peer} does not answer as an HBONE proxy",
            why="the TLS handshake was done but no HTTP/2 SETTINGS came",
            fix="check that an HBONE proxy listens on that port",
        )
        tunnel.link.lost(failure)
        raise failure from error
    except BaseException:
        tunnel.link.lost(TunnelFailure("the tunnel was closed", why="nobody waits for it any more"))
        raise
    finally:
        tunnel.ready = None
