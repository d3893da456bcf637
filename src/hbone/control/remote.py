"""What callers from other machines may have: themselves, and for a node what the mesh places on it."""

from collections.abc import Callable

from hbone.addr import IpAddress
from hbone.control.callers import Call, Caller, NotAuthenticated
from hbone.control.issue import Redeem
from hbone.control.lease import Holder
from hbone.control.nodes import RESERVED, Placement, node_of
from hbone.control.rpc import Peer, RemotePeer
from hbone.errors import PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.identity.verify import PeerSide, verify_peer
from hbone.times import Clock
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An identity that a caller has proven, and how, in a word for the log.

    `node`: the machine that it speaks for, empty for none: it may then have the identities placed there too.
    """

    identity: SpiffeId
    how: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class RemoteRules:
    """The rule for one mesh. `aliases`: further names of its trust domain; who has proven one name may have another."""

    trust_domain: TrustDomain
    placement: Placement
    aliases: frozenset[TrustDomain] = frozenset()

    @property
    def names(self) -> DomainNames:
        return DomainNames(self.trust_domain, self.aliases)

    def refusal(self, proven: Proven, asked: SpiffeId) -> str:
        """Why a caller may not have an identity; empty if it may."""
        if asked.trust_domain not in self.names:
            return f"{asked} is not of this mesh, whose trust domain is {self.trust_domain}"
        wanted = self.names.canonical(asked)
        if wanted == self.names.canonical(proven.identity):
            return ""
        if asked.namespace in RESERVED:
            return f"the namespace {asked.namespace} is the control plane's own"
        if self.placement.places(proven.node, wanted):
            return ""
        if proven.node:
            return f"no workload of {asked} is placed on node {proven.node}"
        return f"{proven.identity} may have its own identity only, not {asked}"

    def caller(self, proven: Proven, peer: Peer) -> Caller:
        """A caller of full standing: sees the mesh, registers workloads."""
        # a machine registers the address that it is seen to come from, and none of somebody else's
        addresses = frozenset({peer.address.ip}) if isinstance(peer, RemotePeer) else frozenset[IpAddress]()
        label = f"{proven.identity} by {proven.how}, from {peer}"
        return Caller(
            label=label,
            refusal=lambda asked: self.refusal(proven, asked),
            holder=Holder(uid=str(proven.identity), label=label, trusted=False, addresses=addresses),
            sees_mesh=True,
        )

    def newcomer(self, proven: Proven, peer: Peer, redeem: Redeem) -> Caller:
        """A caller whose proof is good for one certificate and nothing else."""
        label = f"{proven.identity} by {proven.how}, from {peer}"
        return Caller(
            label=label,
            refusal=lambda asked: "" if asked == proven.identity else f"the {proven.how} is for {proven.identity}",
            holder=Holder(uid=str(proven.identity), label=label, trusted=False),
            sees_mesh=False,
            redeem=redeem,
        )


@dataclass(frozen=True, slots=True)
class CertificateHolders:
    """Callers who show a certificate that we issued: a renewal, or a node at its work."""

    rules: RemoteRules
    bundle: Callable[[], TrustBundle]
    clock: Clock

    async def authenticate(self, call: Call) -> Caller | None:
        peer = call.peer
        if not isinstance(peer, RemotePeer) or not peer.chain:
            return None
        try:
            identity = verify_peer(
                peer.chain, self.bundle(), expected=None, side=PeerSide.CLIENT, now=self.clock.wall()
            )
        except PeerRejected as error:
            raise NotAuthenticated(error.what, why=error.why, fix=error.fix) from error
        if identity.trust_domain not in self.rules.names:
            raise NotAuthenticated(f"{identity} is of another mesh", why=f"this is {self.rules.trust_domain}")
        return self.rules.caller(Proven(identity=identity, how="certificate", node=node_of(identity)), peer)
