"""Keeps the tunnels of a node: does what `pooling.py` decides.

A connection that finds no tunnel waits in its key's queue. One task per key opens tunnels, one at a time, as long as
the queue is not empty; its failure is everybody's who waited at that moment, and the next connection tries afresh
(no memory of failures: a peer that has come back is used at once).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hbone.errors import HboneError, TunnelFailure
from hbone.identity.spiffe import SpiffeId
from hbone.net.tasks import Tasks
from hbone.proxy.identities import Credentials, Identities
from hbone.proxy.pooling import PoolKey, PoolPolicy, choose, idle_expired, is_stale, may_open
from hbone.proxy.tunnel import Tunnel, TunnelParts, open_tunnel

TunnelWaiter = Callable[[Tunnel | None, HboneError | None], None]
"""Called once with a tunnel that has room for a stream right now, or with the reason why there is none."""


@dataclass(slots=True)
class _Entry:
    """What the pool holds for one key."""

    tunnels: list[Tunnel] = field(default_factory=list)
    waiting: deque[TunnelWaiter] = field(default_factory=deque)
    opening: int = 0


class Pool:
    """Tunnels by key."""

    def __init__(self, parts: TunnelParts, identities: Identities, policy: PoolPolicy, tasks: Tasks) -> None:
        self._parts = parts
        self._identities = identities
        self._policy = policy
        self._tasks = tasks
        self._entries: dict[PoolKey, _Entry] = {}
        self._draining = False
        self._sweeper: asyncio.TimerHandle | None = None

    # --- checkout -------------------------------------------------------------------------------------------

    def take(self, key: PoolKey) -> Tunnel | None:
        """A tunnel with room for a stream right now, or None: `wait` for one."""
        entry = self._entries.get(key)
        if entry is None or entry.waiting:
            return None  # those who wait come first
        credentials = self._identities.current(key.source)
        if credentials is None:
            return None
        return self._usable(entry, credentials)

    def _usable(self, entry: _Entry, credentials: Credentials) -> Tunnel | None:
        while (tunnel := choose(entry.tunnels, credentials.generation, self._policy)) is not None:
            if tunnel.link.seems_alive():
                return tunnel
            entry.tunnels.remove(tunnel)
            if not tunnel.link.closed:  # nothing can be lost by saying so: its streams learn it a moment earlier
                tunnel.link.lost(TunnelFailure("the peer closed the tunnel", why="its proxy stopped or was restarted"))
        return None

    def wait(self, key: PoolKey, waiter: TunnelWaiter) -> None:
        """Queue for a tunnel; `waiter` is called from the loop, later."""
        if self._draining:
            waiter(None, TunnelFailure("no new tunnels", why="this proxy is shutting down"))
            return
        entry = self._entries.setdefault(key, _Entry())
        entry.waiting.append(waiter)
        self._open_if_needed(key, entry)

    def forget_waiter(self, key: PoolKey, waiter: TunnelWaiter) -> None:
        """The connection went away before its turn."""
        entry = self._entries.get(key)
        if entry is not None and waiter in entry.waiting:
            entry.waiting.remove(waiter)

    def _open_if_needed(self, key: PoolKey, entry: _Entry) -> None:
        if entry.waiting and may_open(len(entry.tunnels), entry.opening, self._policy):
            entry.opening += 1
            self._tasks.start(self._open(key, entry), name=f"open tunnel to {key.peer}")

    async def _open(self, key: PoolKey, entry: _Entry) -> None:
        failure: HboneError | None = None
        try:
            credentials = await self._identities.fetch(key.source)
            tunnel = self._usable(entry, credentials)
            if tunnel is None:
                tunnel = await open_tunnel(key, credentials, self._parts, self._on_changed, self._on_gone)
                if not tunnel.link.closed:
                    entry.tunnels.append(tunnel)
                    self._watch_idle()
        except HboneError as error:
            failure = error
        except BaseException:
            failure = TunnelFailure(f"no tunnel to {key.peer}", why="the attempt was given up")
            raise
        finally:
            entry.opening -= 1
            if failure is not None:
                self._fail_waiting(entry, failure)
            self._serve(key, entry)

    def _fail_waiting(self, entry: _Entry, failure: HboneError) -> None:
        waiting, entry.waiting = entry.waiting, deque()
        for waiter in waiting:
            waiter(None, failure)

    def _serve(self, key: PoolKey, entry: _Entry) -> None:
        """Give the waiting ones the room there is, in order; open another tunnel for the rest."""
        while entry.waiting:
            credentials = self._identities.current(key.source)
            tunnel = self._usable(entry, credentials) if credentials is not None else None
            if tunnel is None:
                break
            entry.waiting.popleft()(tunnel, None)
        self._open_if_needed(key, entry)
        self._drop_if_unused(key, entry)

    def _drop_if_unused(self, key: PoolKey, entry: _Entry) -> None:
        if not entry.tunnels and not entry.waiting and not entry.opening and self._entries.get(key) is entry:
            del self._entries[key]

    # --- what tunnels tell ------------------------------------------------------------------------------------

    def _on_changed(self, tunnel: Tunnel) -> None:
        if not tunnel.streams:
            tunnel.idle_since = self._parts.link.clock.now()
            over = tunnel.retired or self._draining or tunnel.link.connection.peer_going_away
            if over or self._is_stale(tunnel):
                tunnel.link.go_away()
                return
        entry = self._entries.get(tunnel.key)
        if entry is not None and entry.waiting:
            self._serve(tunnel.key, entry)

    def _on_gone(self, tunnel: Tunnel) -> None:
        entry = self._entries.get(tunnel.key)
        if entry is None:
            return
        if tunnel in entry.tunnels:
            entry.tunnels.remove(tunnel)
        self._open_if_needed(tunnel.key, entry)
        self._drop_if_unused(tunnel.key, entry)

    def _is_stale(self, tunnel: Tunnel) -> bool:
        credentials = self._identities.current(tunnel.key.source)
        return credentials is not None and is_stale(tunnel, credentials.generation)

    # --- retiring -------------------------------------------------------------------------------------------

    def identity_renewed(self, identity: SpiffeId) -> None:
        """New streams of `identity` go to new tunnels; the old ones close when their streams have ended."""
        for tunnel in list(self.tunnels()):
            if tunnel.key.source == identity and not tunnel.streams:
                tunnel.link.go_away()

    def retire_peer(self, ip: object) -> None:
        """The workload at this address is gone or is another one now: no new streams on tunnels to it."""
        for tunnel in list(self.tunnels()):
            if tunnel.key.peer.ip == ip:
                tunnel.retired = True
                if not tunnel.streams:
                    tunnel.link.go_away()

    def _watch_idle(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._parts.loop.call_later(max(self._policy.idle_s / 4, 0.05), self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._parts.link.clock.now()
        for tunnel in list(self.tunnels()):
            if not tunnel.streams and idle_expired(tunnel.idle_since, now, self._policy):
                tunnel.link.go_away()
        if self._entries:
            self._watch_idle()

    def tunnels(self) -> Iterator[Tunnel]:
        for entry in self._entries.values():
            yield from entry.tunnels

    # --- the end --------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """No new tunnels; those without streams close now, the others when their last stream ends."""
        self._draining = True
        for tunnel in list(self.tunnels()):
            if not tunnel.streams:
                tunnel.link.go_away()

    def close(self) -> None:
        """Cut what is left."""
        self._draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for entry in list(self._entries.values()):
            self._fail_waiting(entry, TunnelFailure("no new tunnels", why="this proxy is shutting down"))
            for tunnel in list(entry.tunnels):
                tunnel.link.lost(TunnelFailure("the tunnel was closed", why="this proxy shut down"))
        self._entries.clear()
