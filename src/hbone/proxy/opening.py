"""Opening a tunnel: get a certificate, dial, shake hands, and wait until the peer has accepted us."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hbone.errors import HboneError, TunnelFailure
from hbone.net import handshake
from hbone.net.congestion import unpace_if_local
from hbone.net.connecting import dial
from hbone.protocol.settings import Role
from hbone.proxy.identities import Credentials
from hbone.proxy.pooling import PoolKey
from hbone.proxy.tunnel import Tunnel
from hbone.proxy.tunnelparts import TunnelParts
from hbone.proxy.tunnelwatch import watched
from hbone.times import Instant

if TYPE_CHECKING:
    from hbone.proxy.pool import Pool, PoolEntry


OPENED_AGAIN: Final = 2
"""Each end's certificate may be renewed during a handshake."""


async def open_for(pool: "Pool", key: PoolKey, entry: "PoolEntry") -> None:
    """One attempt for those who wait in `entry`; they have a tunnel or the reason why there is none when it is over."""
    failure: HboneError | None = None
    opened: Tunnel | None = None
    waiting = tuple(entry.waiting)
    try:
        credentials = await pool.identities.fetch(key.source)
        if pool.usable(entry, credentials.generation) is None:
            tunnel = await _new_tunnel(pool, key, credentials)
            failure = pool.fault_of(tunnel, credentials)
            opened = tunnel if failure is None else None
    except HboneError as error:
        failure = error
    except BaseException:
        failure = TunnelFailure(f"no tunnel to {key.peer}", why="the attempt was given up")
        waiting = tuple(entry.waiting)
        raise
    finally:
        pool.opened(entry, opened)
        if failure is not None:
            pool.parts.watch.failed("outbound", failure)
            pool.fail(key, entry, waiting, failure)
        pool.serve(key, entry)


async def _new_tunnel(pool: "Pool", key: PoolKey, credentials: Credentials) -> Tunnel:
    """Where a certificate is renewed during the handshake, its owner says GOAWAY to what is just open. Nothing was
    asked of the peer yet, so another attempt is safe; a few, since it may as well be on its way out."""
    tunnel = await open_tunnel(key, credentials, pool.parts, pool.on_changed, pool.on_gone)
    for _ in range(OPENED_AGAIN):
        connection = tunnel.link.connection
        if not tunnel.link.closed or not (connection.going_away or connection.peer_going_away):
            break
        credentials = await pool.identities.fetch(key.source)
        tunnel = await open_tunnel(key, credentials, pool.parts, pool.on_changed, pool.on_gone)
    return tunnel


async def open_tunnel(
    key: PoolKey,
    credentials: Credentials,
    parts: TunnelParts,
    changed: Callable[[Tunnel], None],
    gone: Callable[[Tunnel], None],
) -> Tunnel:
    """A tunnel that is ready; raises UpstreamFailed, TlsFailure, PeerRejected, TunnelFailure."""
    sock = await dial(parts.poller, key.peer, parts.dial)
    unpace_if_local(sock)
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
