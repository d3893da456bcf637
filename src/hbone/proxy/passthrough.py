"""Connections without a tunnel: outbound to what speaks no HBONE, inbound plaintext that was captured on its way.

No identity is proven on these; policy sees them without one. They are carried byte for byte, half-close and reset
included.
"""

import socket
from collections.abc import Callable

from hbone.addr import SocketAddress
from hbone.discovery.listeners import OwnListeners
from hbone.errors import HboneError, NoRoute
from hbone.net.closing import Closing
from hbone.net.congestion import unpace_if_local
from hbone.net.dial import Dial
from hbone.net.dialoptions import DialOptions
from hbone.net.poller import Poller
from hbone.net.sockets import close_with_reset, local_of, original_destination, peer_of
from hbone.net.splice import Splice
from hbone.proxy.entry import DIRECT, Entry, turn_away
from hbone.proxy.halfclose import HalfCloses
from hbone.proxy.judge import Authorize, Facts
from hbone.proxy.outcome import Outcomes, Parties, connection_view, party_of
from hbone.proxy.registry import Registry
from hbone.proxy.served import LocalWorkloads
from hbone.telemetry.views import ConnectionView
from hbone.times import Instant
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainParts:
    """What plain connections work with."""

    poller: Poller
    dial: DialOptions
    outcomes: Outcomes
    registry: Registry
    closing: Closing
    half_closes: HalfCloses | None = None


class PlainConnection:
    """One connection from a socket to an upstream; `retry` says whether someone else takes over after a failed dial."""

    __slots__ = ("_dial", "_entry", "_parties", "_parts", "_retry", "_sock", "_splice", "_started", "facts")

    def __init__(
        self,
        parts: PlainParts,
        sock: socket.socket,
        parties: Parties,
        entry: Entry,
        retry: Callable[[HboneError], bool] | None = None,
    ) -> None:
        self._parts = parts
        self._sock = sock
        self._parties = parties
        self._entry = entry
        self._retry = retry
        self._dial: Dial | None = None
        self._splice: Splice | None = None
        self._started: Instant | None = None
        self.facts: Facts | None = None

    def register(self) -> None:
        """From now on it can be cut."""
        self._parts.registry.add(self)

    def dial(self, upstream: SocketAddress) -> None:
        """Connect, and carry; registered before."""
        self._dial = Dial(self._parts.poller, upstream, self._parts.dial, self._dialled)
        self._dial.start()

    def _dialled(self, upstream: socket.socket | None, error: HboneError | None) -> None:
        self._dial = None
        if upstream is None:
            failure = error or NoRoute(f"no connection to {self._parties.dst_addr}")
            if self._retry is not None and self._retry(failure):
                self._parts.registry.remove(self)
                return
            self._fail(failure)
            return
        self._retry = None
        self._started = self._parts.outcomes.opened(self._parties)
        self._entry.connected(self._sock)
        unpace_if_local(upstream)
        self._splice = Splice(self._parts, self._sock, upstream, self)
        self._splice.start()

    def _fail(self, error: HboneError) -> None:
        turn_away(self._sock, self._entry, error, self._parts.closing)
        self._parts.registry.remove(self)
        self._parts.outcomes.refused(self._parties, error)

    def cut(self, error: HboneError) -> None:
        """End it at once. Harmless when it is over."""
        if self._splice is not None:
            self._splice.cut(error)
        elif self in self._parts.registry:
            if self._dial is not None:
                self._dial.cancel()
                self._dial = None
            self._fail(error)

    def on_half_closed(self) -> None:
        if self._parts.half_closes is not None:
            self._parts.half_closes.begin(self)

    @property
    def carried_bytes(self) -> int:
        return 0 if self._splice is None else self._splice.bytes_up + self._splice.bytes_down

    def on_ended(self, error: HboneError | None) -> None:
        parts, splice = self._parts, self._splice
        parts.registry.remove(self)
        if parts.half_closes is not None:
            parts.half_closes.over(self)
        if splice is not None and self._started is not None:
            parts.outcomes.ended(
                self._parties, self._started, error, to_server=splice.bytes_up, to_client=splice.bytes_down
            )

    def view(self) -> ConnectionView:
        up = self._splice.bytes_up if self._splice is not None else 0
        down = self._splice.bytes_down if self._splice is not None else 0
        seen = (up, down) if self._parties.direction == "outbound" else (down, up)
        return connection_view(self._parties, self._started, self._parts.outcomes.now(), seen, None)


class InboundPassthrough:
    """Plaintext that was captured on its way to a workload here (port 15006). `accept` is a listener's `Accepted`."""

    def __init__(
        self,
        parts: PlainParts,
        local: LocalWorkloads,
        listeners: OwnListeners,
        authorize: Authorize | None = None,
    ) -> None:
        self._parts = parts
        self._local = local
        self._authorize = authorize
        self.listeners = listeners  # our own: known when they are bound

    def accept(self, sock: socket.socket) -> None:
        try:
            peer, local = peer_of(sock), local_of(sock)
        except OSError:
            sock.close()
            return
        target = original_destination(sock) or local
        served = self._local.served_at(target)
        destination = served.workload if served is not None else None
        parties = Parties(
            "inbound",
            str(peer),
            str(target),
            party_of(self._local.source_at(peer.ip), None),
            party_of(destination, None),
        )
        refusal = self._parts.registry.refusal() or self._refusal(target, known=destination is not None)
        if refusal is not None:
            self._parts.outcomes.refused(parties, refusal)
            close_with_reset(sock)
            return
        connection = PlainConnection(self._parts, sock, parties, DIRECT)
        connection.register()
        denial = None
        if self._authorize is not None:
            connection.facts = Facts(identity=None, source=peer, destination=target, workload=destination)
            denial = self._authorize(connection.facts)
        if denial is None:
            connection.dial(target)
        else:
            connection.cut(denial)

    def _refusal(self, target: SocketAddress, *, known: bool) -> HboneError | None:
        if self.listeners.take(target.ip, target.port):
            return NoRoute("attempted recursive call to ourselves", why=f"{target} is a listener of this proxy")
        if not known:
            return NoRoute(f"no workload of this node has the address {target.ip}", fix="add a WorkloadEntry for it")
        return None
