"""A node's workload socket: SPIFFE Workload API and SDS for the processes beside it.

The node's own rules say which process has which identity; the certificates are those that the node itself is given
for them, so the control plane has the last word: an identity whose workload it does not place on this node is had by
no process here, whatever the rules say. JWT-SVIDs are signed by the control plane, by the same rule.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from grpclib.const import Status

from hbone.config.model import Attest, NodeSettings
from hbone.control.attest_process import Attestor, ProcessRule
from hbone.control.jwt_source import JwtSource, JwtSvids
from hbone.control.local_workloads import LocalTrust, LocalWorkloads, local_trust
from hbone.control.renew import IdentityKeeper
from hbone.control.rpc import Refusal
from hbone.control.trust_resource import DomainTrust
from hbone.control.unixsocket import EVERYONE, ControlSocket
from hbone.control.workload_server import LocalServices, WorkloadServer
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.times import Clock


def process_rules(rules: Iterable[Attest], trust_domain: TrustDomain) -> list[ProcessRule]:
    """The settings' rules, in their order."""
    return [
        ProcessRule(
            identity=rule.account.spiffe_id(trust_domain),
            uid=rule.uid, gid=rule.gid, pid=rule.pid,
            cgroup=rule.cgroup, program=rule.program, hint=rule.hint,
        )
        for rule in rules
    ]  # fmt: skip


class NodeProcesses:
    """What the processes of a node's machine are served, at `path`."""

    def __init__(
        self, settings: NodeSettings, path: Path, keeper: IdentityKeeper, clock: Clock, jwt: JwtSource | None
    ) -> None:
        """`jwt`: who signs JWT-SVIDs, None for nobody."""
        trust_domain = TrustDomain(settings.trust_domain)
        self._path = path
        self._keeper = keeper
        self._known: Sequence[DomainTrust] = ()
        self._workloads = LocalWorkloads(
            trust_domain=trust_domain,
            attestor=Attestor(process_rules(settings.attest, trust_domain)),
            keeper=keeper,
            trust=self._trust,
            clock=clock,
            jwt=None if jwt is None else JwtSvids(jwt, clock),
        )

    def trusted(self, domains: Sequence[DomainTrust]) -> None:
        """Whom the control plane says to trust, our own domain first."""
        own = [one for one in domains if self._workloads.trust_domain in one.names]  # it may be renamed meanwhile
        self._known = (*own, *(one for one in domains if one not in own)) if own else ()
        if self._workloads.jwt is not None:
            for one in domains:
                self._workloads.jwt.trust_changed(one.revocations)
        self._workloads.changes.wake()

    def forgotten(self, identity: SpiffeId) -> None:
        """This node does not have it any more."""
        if self._workloads.jwt is not None:
            self._workloads.jwt.forget(identity)
        self._workloads.changes.wake()

    async def open(self, undo: AsyncExitStack) -> None:
        """Serve until `undo`; raises UsageError when the socket cannot be had."""
        listening = ControlSocket.listen(self._path, mode=EVERYONE)  # who gets what, the kernel and the rules say
        server = WorkloadServer(LocalServices(workloads=self._workloads))
        await server.start(listening)
        undo.push_async_callback(server.close)
        end: Callable[[], object] = self._workloads.start()
        undo.callback(end)

    def _trust(self) -> LocalTrust:
        """What is pushed; where nobody pushes it, the roots that came with our certificates."""
        if self._known:
            return local_trust(self._known)
        held = [self._keeper.current(identity) for identity in self._workloads.attestor.identities]
        bundles = [one.bundle for one in held if one is not None]
        if not bundles:
            raise Refusal(Status.UNAVAILABLE, "whom to trust is not known yet", fix="ask again")
        return LocalTrust(bundle=TrustBundle.union(bundles))
