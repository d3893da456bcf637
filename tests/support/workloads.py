"""A workload socket in the test's own process: Workload API and SDS of a small mesh."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from hbone.ca.authority import CertificateAuthority
from hbone.control.attest_process import Attestor, ProcessRule
from hbone.control.channel import UnixEndpoint
from hbone.control.issue import Issuer
from hbone.control.jwt_source import JwtSvids
from hbone.control.jwt_svid import JwtKeys
from hbone.control.local_ca import LocalCa
from hbone.control.local_workloads import LocalTrust, LocalWorkloads
from hbone.control.renew import IdentityKeeper
from hbone.control.unixsocket import ControlSocket
from hbone.control.workload_server import LocalServices, WorkloadServer
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import SystemClock, new_key, system_rng
from tests.support.controlplane import DOMAIN, make_authority


@dataclass(slots=True, kw_only=True)
class Local:
    """What a workload socket stands on; `authority`, `trust` and `jwt` may be replaced, then call `changed`."""

    socket: Path
    rules: Sequence[ProcessRule]
    ttl_s: float = 3600.0
    authority: CertificateAuthority = field(default_factory=make_authority)
    jwt: JwtKeys = field(default_factory=lambda: JwtKeys.of(DOMAIN, new_key()))
    trust: LocalTrust | None = None
    keeper: IdentityKeeper = field(init=False)
    workloads: LocalWorkloads = field(init=False)

    @property
    def endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.socket)

    @property
    def trusted(self) -> LocalTrust:
        found = self.trust or LocalTrust(bundle=self.authority.bundle)
        return replace(found, jwt_keys={DOMAIN: self.jwt.known, **found.jwt_keys})

    async def mint(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        """`JwtSource`."""
        return self.jwt.issue(identity, audience, now=SystemClock().wall())

    @property
    def uri(self) -> str:
        """As SPIFFE clients take it."""
        return f"unix://{self.socket}"

    def changed(self) -> None:
        self.workloads.changes.wake()

    async def rotate(self) -> None:
        """A new certificate for every identity, now."""
        for identity in {rule.identity for rule in self.rules}:
            self.keeper.forget(identity)
            await self.keeper.get(identity)


@asynccontextmanager
async def workload_socket(directory: Path, *rules: ProcessRule, ttl_s: float = 3600.0) -> AsyncGenerator[Local]:
    """Up for as long as the context lasts."""
    local = Local(socket=directory / "workload.sock", rules=rules, ttl_s=ttl_s)
    clock = SystemClock()
    issuer = Issuer(lambda: local.authority, clock=clock, rng=Random(5))
    local.keeper = IdentityKeeper(LocalCa(issuer, ttl_s=ttl_s), clock, system_rng())
    local.workloads = LocalWorkloads(
        trust_domain=DOMAIN,
        attestor=Attestor(rules),
        keeper=local.keeper,
        trust=lambda: local.trusted,
        clock=clock,
        jwt=JwtSvids(local, clock),
    )
    server = WorkloadServer(LocalServices(workloads=local.workloads))
    async with local.keeper:
        end = local.workloads.start()
        await server.start(ControlSocket.listen(local.socket))
        try:
            yield local
        finally:
            end()
            await server.close()
