"""Who calls, and what they may have: one answer for every kind of proof.

A connection has a `Peer` (`hbone.control.rpc`): what the kernel or the TLS handshake says of the other end. A call has
metadata besides. Authenticators make a `Caller` of the two; they are asked in order, and the first that is convinced
decides. One that finds nothing of its kind says None; one that finds a bad proof refuses with its reason, and the next
is asked: a machine whose certificate has expired may still show a fresh token.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from grpclib.const import Status

from hbone.control.attest_unix import UnixAccess
from hbone.control.issue import Entitlement, Redeem
from hbone.control.lease import Holder
from hbone.control.rpc import Peer, Refusal, UnixPeer
from hbone.errors import PeerViolation
from hbone.net.clock import SystemClock
from hbone.telemetry.log import Occasional
from hbone.values import dataclass

log = logging.getLogger("hbone.control")


class NotAuthenticated(PeerViolation):
    """A proof that proves nothing: expired, forged, for somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who has proven who they are.

    `label` is what logs call them. `refusal` tells why they may not have an identity (empty: they may). `holder` is
    who their registrations belong to. `redeem`: their proof is good for one certificate, and this uses it up.
    """

    label: str
    refusal: Entitlement
    holder: Holder
    sees_mesh: bool
    redeem: Redeem | None = None

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it arrived: over which connection, with which metadata (names in lower case)."""

    peer: Peer
    metadata: Mapping[str, str | bytes]

    def text(self, name: str) -> str:
        """A metadata value, empty if there is none."""
        value = self.metadata.get(name, "")
        return value if isinstance(value, str) else ""

    def credential(self, scheme: str) -> str:
        """What follows `scheme` in the authorization header, empty if it is of another scheme."""
        found, _, value = self.text("authorization").partition(" ")
        return value.strip() if found.lower() == scheme.lower() else ""


class Authenticator(Protocol):
    """One kind of proof."""

    async def authenticate(self, call: Call) -> Caller | None:
        """None when the call holds no proof of this kind; raises NotAuthenticated for a bad one."""
        ...


Identify = Callable[[Mapping[str, str | bytes]], Awaitable[Caller]]
"""The caller behind a call on one connection, by the call's metadata; raises Refusal."""


class Callers:
    """All kinds of proof that a control plane takes, in the order in which they are asked."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self.authenticators = tuple(authenticators)
        self._by_peers = Occasional(log, SystemClock(), per_s=10.0, burst=50)

    def on(self, peer: Peer) -> Identify:
        """What identifies the callers on one connection."""

        async def identify(metadata: Mapping[str, str | bytes]) -> Caller:
            return await self.identify(Call(peer=peer, metadata=metadata))

        return identify

    async def identify(self, call: Call) -> Caller:
        """Raises Refusal (UNAUTHENTICATED) with every authenticator's reason."""
        reasons: list[str] = []
        for authenticator in self.authenticators:
            try:
                caller = await authenticator.authenticate(call)
            except NotAuthenticated as error:
                reasons.append(str(error))
                continue
            if caller is not None:
                return caller
        why = "; ".join(reasons) or "no certificate and no token was shown"
        self._by_peers.warning("caller not authenticated", peer=str(call.peer), why=why[:500])
        raise Refusal(
            Status.UNAUTHENTICATED, "request authenticate failure", why=why, fix="show a certificate or a token"
        )


@dataclass(frozen=True, slots=True)
class UnixProcesses:
    """Processes of this machine, by the credentials that the kernel vouches for."""

    access: UnixAccess

    async def authenticate(self, call: Call) -> Caller | None:
        peer = call.peer
        if not isinstance(peer, UnixPeer):
            return None
        access, uid = self.access, peer.uid
        return Caller(
            label=str(peer),
            refusal=lambda spiffe_id: access.refusal(uid, spiffe_id),
            holder=Holder(uid=uid, label=str(peer), trusted=access.is_trusted(uid)),
            sees_mesh=access.may_connect(uid),
        )
