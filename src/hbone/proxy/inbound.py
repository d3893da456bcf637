"""Tunnels that other proxies open to the workloads here.

accept → TLS (the verified identity is the source) → HTTP/2 → a stream of each CONNECT: `hbone.proxy.inbound_stream`
"""

import socket
from collections.abc import Callable
from typing import Final

from hbone.addr import SocketAddress
from hbone.errors import HboneError, NoRoute, TunnelFailure
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId
from hbone.net import handshake
from hbone.net.congestion import unpace_if_local
from hbone.net.sockets import local_of, peer_of
from hbone.protocol.settings import Role
from hbone.proxy.arrivals import Arrival, InboundParts
from hbone.proxy.deliveries import Deliveries
from hbone.proxy.inbound_tunnel import InboundTunnel
from hbone.proxy.outcome import Parties, party_of
from hbone.proxy.trusting import distrust, lasts_s, outgrown
from hbone.proxy.tunnel import next_tunnel_id
from hbone.proxy.tunnelwatch import watched
from hbone.telemetry.views import TunnelView
from hbone.times import Instant

GOAWAY_GRACE_S: Final = 0.1  # between the two GOAWAYs of a drain: streams on their way then count as accepted


class Inbound:
    """The HBONE server of a node. `accept` is a listener's `Accepted`."""

    def __init__(self, parts: InboundParts) -> None:
        self.parts = parts
        self.handshakes = 0  # under way
        self.on_count: Callable[[int], object] = lambda _: None
        """Called with the number of tunnels, handshakes under way among them, when it changes."""
        self._tunnels: set[InboundTunnel] = set()
        self._draining = False
        self._closed = False  # to new streams

    def accept(self, sock: socket.socket) -> None:
        """Begin with a new connection; its failures end in its own access line."""
        options = self.parts.options
        try:
            peer, local = peer_of(sock), local_of(sock)
        except OSError:
            sock.close()  # gone before we looked
            return
        parties = Parties("inbound", str(peer), str(local))
        if self.handshakes >= options.max_handshakes or len(self._tunnels) >= options.max_tunnels:
            sock.close()
            self.parts.outcomes.refused(parties, self._too_many())
            return
        unpace_if_local(sock)
        self.handshakes += 1
        self._counted()
        self.parts.tasks.start(self._serve(sock, peer, local, parties), name="inbound handshake")

    def _counted(self) -> None:
        self.on_count(self.handshakes + len(self._tunnels))

    def _too_many(self) -> TunnelFailure:
        if self.handshakes >= self.parts.options.max_handshakes:
            limit, setting = "max_handshakes", "max_half_open_handshakes"
        else:
            limit, setting = "max_tunnels", "max_inbound_tunnels"
        return TunnelFailure(
            "too many tunnels",
            why=f"the limit {limit} is reached",
            fix=f"raise `limits.{setting}`, or find out who opens so many",
            limit=setting,
        )

    async def _serve(self, sock: socket.socket, peer: SocketAddress, local: SocketAddress, parties: Parties) -> None:
        try:
            tunnel = await self._shake_hands(sock, (peer, local), parties)
        except HboneError as error:
            sock.close()
            self.parts.tunnels.watch.failed("inbound", error)
            self.parts.outcomes.refused(parties, error)
            return
        except BaseException:
            sock.close()
            raise
        else:
            self._tunnels.add(tunnel)
        finally:
            self.handshakes -= 1
            self._counted()
        self.parts.tunnels.watch.opened("inbound")
        tunnel.ending = self.parts.tunnels.poller.loop.call_later(lasts_s(tunnel.link.tls), tunnel.finish)
        tunnel.link.start(tunnel)
        if self._closed:
            tunnel.finish()
        elif self._draining:
            tunnel.link.announce_going_away()

    async def _shake_hands(
        self, sock: socket.socket, ends: tuple[SocketAddress, SocketAddress], parties: Parties
    ) -> InboundTunnel:
        parts = self.parts
        peer, local = ends
        served = parts.local.served_at(local)
        if served is None:
            raise NoRoute(
                f"no workload of this node has the address {local.ip}",
                why="so there is no identity to show",
                fix="add a WorkloadEntry with this address",
            )
        parties.dst = party_of(served.workload, None)
        credentials = await parts.identities.fetch(served.workload.identity)
        deadline = Instant(parts.tunnels.poller.loop.time() + parts.tunnels.handshake_timeout_s)
        shaking = handshake.accept(sock, credentials.contexts, deadline=deadline)
        tls = await watched(shaking, parts.tunnels.watch, "inbound", parts.tunnels.poller.loop.time)
        newest = parts.identities.current(served.workload.identity)
        if newest is not None and newest.contexts.bundle is not credentials.contexts.bundle:
            error = distrust(tls, newest.contexts.bundle)  # trust changed during the handshake
            if error is not None:
                raise error
        deliveries = Deliveries(parts.local, peer, local, served, tls.peer)
        arrival = Arrival(
            id=next_tunnel_id(), peer=peer, local=local, served=served, source=tls.peer, deliveries=deliveries
        )
        return InboundTunnel(parts, self.gone, parts.tunnels.new_link(tls, Role.SERVER), arrival)

    def gone(self, tunnel: InboundTunnel) -> None:
        self._tunnels.discard(tunnel)
        self._counted()
        if tunnel.ending is not None:
            tunnel.ending.cancel()

    def identity_renewed(self, identity: SpiffeId) -> None:
        """Peers shall see the new certificate with their next stream, not when they renew their own."""
        for tunnel in tuple(self._tunnels):
            if tunnel.local_identity == identity:
                tunnel.link.announce_going_away()

    def drain(self) -> None:
        """Ask every peer to open its next streams elsewhere; what is open goes on."""
        self._draining = True
        for tunnel in tuple(self._tunnels):
            tunnel.link.announce_going_away()

    def finish_drain(self) -> None:
        """Take no more streams; tunnels close when their last one ends."""
        self._closed = True
        for tunnel in tuple(self._tunnels):
            tunnel.finish()

    def close(self) -> None:
        for tunnel in tuple(self._tunnels):
            tunnel.link.lost(TunnelFailure("the tunnel was closed", why="this proxy shut down"))

    def judge_again(self, bundle: TrustBundle) -> int:
        """Cut the tunnels whose peers are not to be trusted any more; how many. Those under a name that is no more
        are asked to open their next streams elsewhere, and take none after a moment."""
        cut = 0
        for tunnel in tuple(self._tunnels):
            tls = tunnel.link.tls
            error = distrust(tls, bundle)
            if error is not None and outgrown(tls, bundle, error):
                self._finish_soon(tunnel)
            elif error is not None:
                tunnel.link.lost(error)
                cut += 1
        return cut

    def _finish_soon(self, tunnel: InboundTunnel) -> None:
        if tunnel.draining:
            return
        tunnel.link.announce_going_away()
        if tunnel.ending is not None:
            tunnel.ending.cancel()
        tunnel.ending = self.parts.tunnels.poller.loop.call_later(GOAWAY_GRACE_S, tunnel.finish)

    def tunnels(self) -> tuple[TunnelView, ...]:
        return tuple(tunnel.view() for tunnel in self._tunnels)
