"""Where the CONNECTs of one tunnel are delivered: planned once for each target while the mesh stays."""

from dataclasses import replace
from typing import Final

from hbone.addr import Authority, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.inbound import Deliver, InboundContext, Served, plan_inbound
from hbone.discovery.model import Workload
from hbone.discovery.outcomes import Refuse
from hbone.identity.spiffe import SpiffeId
from hbone.protocol.baggage import Baggage
from hbone.proxy.judge import Facts
from hbone.proxy.labels import baggage_of
from hbone.proxy.outcome import Side, party_of
from hbone.proxy.served import LocalWorkloads

PLANS_KEPT: Final = 256  # of a tunnel, whose peer chooses the targets


class Delivery:
    """What the connections of one tunnel to one target have in common, made once and found again."""

    __slots__ = ("authority", "baggage", "deliver", "destination", "facts")

    def __init__(self, deliver: Deliver, authority: str, peer: SocketAddress, source: SpiffeId) -> None:
        """`authority` is what was asked for, `peer` and `source` are the tunnel's far end."""
        self.deliver = deliver
        self.authority = authority
        self.destination: Side = party_of(deliver.destination, deliver.destination.identity)
        self.baggage: Baggage = baggage_of(deliver.destination)
        self.facts = Facts(identity=source, source=peer, destination=deliver.judged, workload=deliver.destination)


class Deliveries:
    """Of a tunnel from `source` at `peer` that arrived at `local`, where `served` is reached."""

    __slots__ = (
        "_directory",
        "_identity",
        "_local",
        "_locals",
        "_peer",
        "_plans",
        "_served",
        "_source",
        "_version",
        "local_text",
        "peer_text",
    )

    def __init__(
        self, locals_: LocalWorkloads, peer: SocketAddress, local: SocketAddress, served: Served, source: SpiffeId
    ) -> None:
        self._locals = locals_
        self._directory: Directory = locals_.directory
        self._peer = peer
        self._local = local
        self._served = served
        self._identity = source
        self.peer_text = str(peer)
        self.local_text = str(local)
        self._version = -1
        self._source: Side = party_of(None, source)
        self._plans: dict[tuple[str, str | None], Delivery] = {}

    def source(self) -> Side:
        """The tunnel's far end, with the workload that has its address: for labels alone."""
        self._follow_mesh()
        return self._source

    def plan(self, authority: Authority, forwarded_host: str | None, context: InboundContext) -> Delivery | Refuse:
        """As `plan_inbound`; `context` is the same at each call."""
        self._follow_mesh()
        key = str(authority), forwarded_host
        known = self._plans.get(key)
        if known is not None:
            return known
        asked = context if forwarded_host is None else replace(context, forwarded_host=forwarded_host)
        plan = plan_inbound(self._directory, (self._served,), self._local, authority, asked)
        if isinstance(plan, Refuse):
            return plan
        if len(self._plans) >= PLANS_KEPT:
            self._plans.clear()
        made = self._plans[key] = Delivery(plan, key[0], self._peer, self._identity)
        return made

    def _follow_mesh(self) -> None:
        version = self._directory.version
        if version != self._version:
            self._version = version
            self._plans.clear()
            workload: Workload | None = self._locals.source_at(self._peer.ip)
            self._source = party_of(workload, self._identity)
