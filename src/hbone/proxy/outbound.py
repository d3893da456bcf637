"""Connections that leave the workloads here.

    accepted connection → plan (discovery) → tunnel from the pool → CONNECT → relay
                                           ↘ plain TCP for what does not speak HBONE

What becomes of each one is in `hbone.proxy.outbound_stream`.
"""

import socket
from dataclasses import replace
from typing import Final

from hbone.discovery.request import OutboundContext, Unknown
from hbone.errors import HboneError
from hbone.proxy.calls import Call, OutboundParts
from hbone.proxy.entry import DIRECT, Entry, turn_away
from hbone.proxy.outbound_stream import OutboundStream
from hbone.proxy.outcome import Parties

CONTEXTS_KEPT: Final = 1024


class Outbound:
    """Where accepted connections go. Owns nothing but the way: connections register themselves."""

    def __init__(self, parts: OutboundParts) -> None:
        self.parts = parts
        # by the caller's address as text: hashes of addresses and enumerations are made by lines of Python
        self._passing: dict[str, OutboundContext] = {}
        self._refusing: dict[str, OutboundContext] = {}

    def connect(self, sock: socket.socket, call: Call) -> None:
        """Carry `sock`, accepted and non-blocking, to the target; it is ours from now on."""
        refusal = self.parts.registry.refusal()
        if refusal is None:
            OutboundStream(self.parts, sock, call, self._context(call)).begin()
        else:
            self.refuse(sock, str(call.downstream), str(call.target), refusal, call.entry)

    def _context(self, call: Call) -> OutboundContext:
        """The context of connections like this one; kept, since making one costs as much as planning with it."""
        kept = self._refusing if call.unknown is Unknown.REFUSE else self._passing
        context = kept.get(call.downstream.host)
        if context is None:
            if len(kept) >= CONTEXTS_KEPT:
                kept.clear()
            context = replace(self.parts.context, downstream=call.downstream.ip, unknown=call.unknown)
            kept[call.downstream.host] = context
        return context

    def refuse(
        self, sock: socket.socket, downstream: str, target: str, error: HboneError, entry: Entry = DIRECT
    ) -> None:
        """A connection that comes from nobody we know, or asks for nothing we understand."""
        self.parts.outcomes.refused(Parties("outbound", downstream, target), error)
        turn_away(sock, entry, error, self.parts.closing)
