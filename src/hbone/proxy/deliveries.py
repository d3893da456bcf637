"""Where the CONNECTs of one tunnel are delivered: planned once for each target while the mesh stays."""

from dataclasses import replace
from typing import Final

from hbone.addr import Authority, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.inbound import Deliver, InboundContext, InboundPlan, Served, plan_inbound
from hbone.discovery.model import Workload
from hbone.proxy.served import LocalWorkloads

PLANS_KEPT: Final = 256  # of a tunnel, whose peer chooses the targets


class Deliveries:
    """Of a tunnel from `peer` that arrived at `local`, where `served` is reached."""

    __slots__ = ("_directory", "_local", "_locals", "_peer", "_plans", "_served", "_source", "_version")

    def __init__(self, locals_: LocalWorkloads, peer: SocketAddress, local: SocketAddress, served: Served) -> None:
        self._locals = locals_
        self._directory: Directory = locals_.directory
        self._peer = peer
        self._local = local
        self._served = served
        self._version = -1
        self._source: Workload | None = None
        self._plans: dict[tuple[str, str | None], Deliver] = {}

    def source(self) -> Workload | None:
        """The workload at the tunnel's far end, by its address: for labels alone."""
        self._follow_mesh()
        return self._source

    def plan(self, authority: Authority, forwarded_host: str | None, context: InboundContext) -> InboundPlan:
        """As `plan_inbound`; `context` is the same at each call."""
        self._follow_mesh()
        key = str(authority), forwarded_host
        known = self._plans.get(key)
        if known is not None:
            return known
        asked = context if forwarded_host is None else replace(context, forwarded_host=forwarded_host)
        plan = plan_inbound(self._directory, (self._served,), self._local, authority, asked)
        if isinstance(plan, Deliver):
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _follow_mesh(self) -> None:
        version = self._directory.version
        if version != self._version:
            self._version = version
            self._plans.clear()
            self._source = self._locals.source_at(self._peer.ip)
