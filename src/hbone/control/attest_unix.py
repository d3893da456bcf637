"""Who on this machine may have which identity: by the user id that the kernel vouches for.

The user who runs the control plane, and root, may have every identity of the mesh: both could read the CA's key
anyway. Any other user has what the operator granted, nothing by default. The control plane's own identity, and those of
nodes that joined, are nobody's: whoever had them by mistake would be taken for those machines.
"""

from collections.abc import Mapping
from dataclasses import field

from hbone.control.nodes import RESERVED
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.values import dataclass

ROOT_UID = 0
_ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Identities of one namespace and service account; "*" stands for any."""

    namespace: str
    service_account: str

    def covers(self, spiffe_id: SpiffeId) -> bool:
        workload = spiffe_id.workload
        if workload is None:
            return self.everything
        return self.namespace in {_ANY, workload[0]} and self.service_account in {_ANY, workload[1]}

    @property
    def everything(self) -> bool:
        return self.namespace == _ANY and self.service_account == _ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAccess:
    """The rule. `owner_uid` runs the control plane; `grants` are what others may have, by user id; `aliases` are
    further names of the trust domain."""

    trust_domain: TrustDomain
    owner_uid: int
    grants: Mapping[int, tuple[Grant, ...]] = field(default_factory=dict[int, tuple[Grant, ...]])
    aliases: frozenset[TrustDomain] = frozenset()

    def refusal(self, uid: int, spiffe_id: SpiffeId) -> str:
        """Why `uid` may not have this identity; empty if it may."""
        if spiffe_id.trust_domain not in DomainNames(self.trust_domain, self.aliases):
            return f"{spiffe_id} is not of this mesh, whose trust domain is {self.trust_domain}"
        if not spiffe_id.path:
            return f"{spiffe_id} names the whole trust domain"
        if spiffe_id.namespace in RESERVED:
            return f"the namespace {spiffe_id.namespace} is the control plane's own"
        if self.is_trusted(uid) or any(grant.covers(spiffe_id) for grant in self.grants.get(uid, ())):
            return ""
        return f"uid {uid} may not have {spiffe_id}"

    def is_trusted(self, uid: int) -> bool:
        """Whether `uid` may do anything here: also claim host names and addresses of its choice."""
        return uid in {ROOT_UID, self.owner_uid} or any(grant.everything for grant in self.grants.get(uid, ()))

    def may_administer(self, uid: int) -> bool:
        """Whether `uid` may change the CA and revoke: its owner and root, whatever else was granted to whom."""
        return uid in {ROOT_UID, self.owner_uid}

    def may_connect(self, uid: int) -> bool:
        return self.is_trusted(uid) or bool(self.grants.get(uid))
