"""Keeps the tunnels of a node: does what `pooling.py` decides.

A connection that finds no tunnel waits in its key's queue. One task per key opens tunnels, one at a time, as long as
the queue is not empty. Its failure is everybody's who waited when the attempt began; whoever came later gets another
one (no memory of failures: a peer that has come back is used at once). Where no tunnel may be opened, those who wait
get the room that others leave, or an answer after `PoolPolicy.wait_s`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from hbone.addr import IpAddress
from hbone.errors import HboneError, TunnelFailure
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId
from hbone.net.deadlines import Deadlines
from hbone.net.tasks import Tasks
from hbone.proxy.identities import Credentials, Identities
from hbone.proxy.opening import open_for
from hbone.proxy.pooling import PoolKey, PoolPolicy, choose, idle_expired, is_stale, may_open
from hbone.proxy.trusting import distrust, lasts_s, outgrown
from hbone.proxy.tunnel import Tunnel
from hbone.proxy.tunnelparts import TunnelParts

SERVED_AT_ONCE: Final = 8
"""Of those who waited for a tunnel: their requests leave, and the peer begins, before the next are looked after."""
TunnelWaiter = Callable[[Tunnel | None, HboneError | None], None]
"""Called once with a tunnel that has room for a stream right now, or with the reason why there is none."""


class PoolEntry:
    """What the pool holds for one key."""

    __slots__ = ("opening", "tunnels", "waiting")

    def __init__(self) -> None:
        self.tunnels: list[Tunnel] = []
        self.waiting: deque[TunnelWaiter] = deque()
        self.opening = 0


class Pool:
    """Tunnels by key."""

    def __init__(self, parts: TunnelParts, identities: Identities, policy: PoolPolicy, tasks: Tasks) -> None:
        self.parts = parts
        self.identities = identities
        self._policy = policy
        self._tasks = tasks
        self._entries: dict[PoolKey, PoolEntry] = {}
        self._deadlines: Deadlines[tuple[PoolKey, TunnelWaiter]] = Deadlines(
            parts.poller.loop, policy.wait_s, self._waited_too_long
        )
        self._total = 0  # tunnels open or being opened
        self._draining = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._asked_in = -1  # the poller's turn
        self._asked_for: SpiffeId | None = None
        self._answer = -1  # a number: what is kept here must not keep a key that was dropped

    # --- checkout -------------------------------------------------------------------------------------------

    def take(self, key: PoolKey) -> Tunnel | None:
        """A tunnel with room for a stream right now, or None: `wait` for one."""
        entry = self._entries.get(key)
        if entry is None or entry.waiting:
            return None  # those who wait come first
        generation = self._generation_of(key.source)
        if generation < 0:
            return None
        return self.usable(entry, generation)

    def _generation_of(self, source: SpiffeId) -> int:
        """Of its certificate of now, -1 without one; asked for once in a turn, for all that came with it."""
        poller = self.parts.poller
        if not poller.in_turn or self._asked_in != poller.turns or self._asked_for is not source:
            self._asked_in, self._asked_for = poller.turns if poller.in_turn else -1, source
            credentials = self.identities.current(source)
            self._answer = credentials.generation if credentials is not None else -1
        return self._answer

    def usable(self, entry: PoolEntry, generation: int) -> Tunnel | None:
        while (tunnel := choose(entry.tunnels, generation, self._policy)) is not None:
            if tunnel.link.seems_alive():
                return tunnel
            # nothing can be lost by saying so: its streams learn it a moment earlier
            tunnel.link.doom(TunnelFailure("the peer closed the tunnel", why="its proxy stopped or was restarted"))
        return None

    def wait(self, key: PoolKey, waiter: TunnelWaiter) -> None:
        """Queue for a tunnel; `waiter` is called from the loop, later."""
        if self._draining:
            waiter(None, _shutting_down())
            return
        entry = self._entries.setdefault(key, PoolEntry())
        entry.waiting.append(waiter)
        self._deadlines.start((key, waiter))
        self._open_if_needed(key, entry)

    def forget_waiter(self, key: PoolKey, waiter: TunnelWaiter) -> None:
        """The connection went away before its turn."""
        entry = self._entries.get(key)
        if entry is not None and waiter in entry.waiting:
            entry.waiting.remove(waiter)
            self._deadlines.stop((key, waiter))

    def _waited_too_long(self, waiting: tuple[PoolKey, TunnelWaiter]) -> None:
        key, waiter = waiting
        entry = self._entries.get(key)
        if entry is None or waiter not in entry.waiting:
            return
        entry.waiting.remove(waiter)
        waiter(
            None,
            TunnelFailure(
                f"no room in a tunnel to {key.peer} within {self._policy.wait_s:g} s",
                why=f"{len(entry.tunnels)} are open, and all the streams that they may have are in use",
                fix="allow more streams per tunnel at the peer, or spread the load over more peers",
            ),
        )

    def _open_if_needed(self, key: PoolKey, entry: PoolEntry) -> None:
        if not entry.waiting:
            return
        credentials = self.identities.current(key.source)
        generation = credentials.generation if credentials is not None else None
        if not may_open(entry.tunnels, entry.opening, generation, self._policy):
            return
        if self._total >= self._policy.max_total:
            self._make_room()
        if self._total >= self._policy.max_total:
            if not entry.tunnels:  # else its own will have room again
                self.fail(key, entry, tuple(entry.waiting), _too_many(self._policy.max_total))
                self._drop_if_unused(key, entry)
            return
        entry.opening += 1
        self._total += 1
        self._tasks.start(open_for(self, key, entry), name=f"open tunnel to {key.peer}")

    def _make_room(self) -> None:
        """Close the tunnel that has been idle for longest, if any is idle."""
        idle = [tunnel for tunnel in self.tunnels() if tunnel.idle_since is not None and not tunnel.streams]
        if idle:
            min(idle, key=lambda tunnel: tunnel.idle_since or 0.0).link.go_away()

    def fault_of(self, tunnel: Tunnel, credentials: Credentials) -> HboneError | None:
        """Why a tunnel that has just come up with `credentials` is not to be used; it is closed then."""
        newest = self.identities.current(tunnel.key.source)
        bundle = newest.contexts.bundle if newest is not None else credentials.contexts.bundle
        if tunnel.link.closed:
            return TunnelFailure(f"{tunnel.key.peer} closed the tunnel at once", fix="look into its access log")
        distrusted = distrust(tunnel.link.tls, bundle)  # trust may have changed meanwhile
        if distrusted is not None:
            tunnel.link.lost(distrusted)
        return distrusted

    def opened(self, entry: PoolEntry, tunnel: Tunnel | None) -> None:
        """An attempt is over, and has brought a tunnel or none."""
        entry.opening -= 1
        if tunnel is None:
            self._total -= 1
            return
        self.parts.watch.opened("outbound")
        entry.tunnels.append(tunnel)
        tunnel.ending = self.parts.poller.loop.call_later(lasts_s(tunnel.link.tls), self._ended, tunnel)
        self._watch_idle()

    def fail(self, key: PoolKey, entry: PoolEntry, waiters: tuple[TunnelWaiter, ...], failure: HboneError) -> None:
        """Tell those of `waiters` that still wait."""
        failed = set(waiters)
        waiting, entry.waiting = entry.waiting, deque()
        for waiter in waiting:
            if waiter in failed:
                self._deadlines.stop((key, waiter))
            else:
                entry.waiting.append(waiter)
        for waiter in waiting:
            if waiter in failed:
                waiter(None, failure)

    def serve(self, key: PoolKey, entry: PoolEntry) -> None:
        """Give the waiting ones the room there is, in order; open another tunnel for the rest."""
        served = 0
        while entry.waiting:
            credentials = self.identities.current(key.source)
            tunnel = self.usable(entry, credentials.generation) if credentials is not None else None
            if tunnel is None:
                break
            waiter = entry.waiting.popleft()
            self._deadlines.stop((key, waiter))
            waiter(tunnel, None)
            served += 1
            if served % SERVED_AT_ONCE == 0:
                tunnel.link.flush()
        self._open_if_needed(key, entry)
        self._drop_if_unused(key, entry)

    def _drop_if_unused(self, key: PoolKey, entry: PoolEntry) -> None:
        if not entry.tunnels and not entry.waiting and not entry.opening and self._entries.get(key) is entry:
            del self._entries[key]

    # --- what tunnels tell ------------------------------------------------------------------------------------

    def on_changed(self, tunnel: Tunnel) -> None:
        if not tunnel.streams:
            tunnel.idle_since = self.parts.link.clock.now()
            over = tunnel.retired or self._draining or tunnel.link.connection.peer_going_away
            if over or self._is_stale(tunnel):
                tunnel.link.go_away()
        entry = self._entries.get(tunnel.key)
        if entry is not None and entry.waiting:
            self.serve(tunnel.key, entry)

    def on_gone(self, tunnel: Tunnel) -> None:
        entry = self._entries.get(tunnel.key)
        if entry is None or tunnel not in entry.tunnels:
            return  # it was never ready: whoever opens it deals with that
        entry.tunnels.remove(tunnel)
        self._total -= 1
        if tunnel.failure is not None:
            self.parts.watch.failed("outbound", tunnel.failure)
        if tunnel.ending is not None:
            tunnel.ending.cancel()
        self._open_if_needed(tunnel.key, entry)
        self._drop_if_unused(tunnel.key, entry)

    def _is_stale(self, tunnel: Tunnel) -> bool:
        credentials = self.identities.current(tunnel.key.source)
        return credentials is not None and is_stale(tunnel, credentials.generation)

    # --- retiring -------------------------------------------------------------------------------------------

    def identity_renewed(self, identity: SpiffeId) -> None:
        """New streams of `identity` go to new tunnels; the old ones close when their streams have ended."""
        for tunnel in list(self.tunnels()):
            if tunnel.key.source == identity and not tunnel.streams:
                tunnel.link.go_away()

    def retire_peer(self, ip: IpAddress) -> None:
        """The workload at this address is gone or is another one now: no new streams on tunnels to it."""
        for tunnel in list(self.tunnels()):
            if tunnel.key.peer.ip == ip:
                self._retire(tunnel)

    def _ended(self, tunnel: Tunnel) -> None:
        """A certificate that it was opened with has ended, the peer's perhaps, which we do not renew."""
        tunnel.ending = None
        self._retire(tunnel)

    @staticmethod
    def _retire(tunnel: Tunnel) -> None:
        tunnel.retired = True
        if not tunnel.streams:
            tunnel.link.go_away()

    def judge_again(self, bundle: TrustBundle) -> int:
        """Cut the tunnels whose peers are not to be trusted any more; how many. Those under a name that is no more
        take no new streams."""
        cut = 0
        for tunnel in tuple(self.tunnels()):
            tls = tunnel.link.tls
            error = distrust(tls, bundle)
            if error is not None and outgrown(tls, bundle, error):
                self._retire(tunnel)
            elif error is not None:
                tunnel.link.lost(error)
                cut += 1
        return cut

    def _watch_idle(self) -> None:
        if self._sweeper is None:
            self._sweeper = self.parts.poller.loop.call_later(max(self._policy.idle_s / 4, 0.05), self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.parts.link.clock.now()
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
        for key, entry in list(self._entries.items()):
            self.fail(key, entry, tuple(entry.waiting), _shutting_down())
            for tunnel in list(entry.tunnels):
                tunnel.link.lost(TunnelFailure("the tunnel was closed", why="this proxy shut down"))
        self._entries.clear()
        self._deadlines.close()


def _shutting_down() -> TunnelFailure:
    return TunnelFailure("no new tunnels", why="this proxy is shutting down")


def _too_many(limit: int) -> TunnelFailure:
    return TunnelFailure(
        f"no tunnel: {limit} are open, as many as allowed",
        why="none of them is idle",
        fix="raise `limits.max_outbound_tunnels`",
        limit="max_outbound_tunnels",
    )
