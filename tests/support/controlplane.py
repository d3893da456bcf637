"""A control plane in the test's own process: real gRPC over a real Unix socket, on a clock of the test's choice."""

import os
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.control.attest_unix import Grant, UnixAccess
from hbone.control.ca_service import IssueLimits
from hbone.control.callers import Callers, UnixProcesses
from hbone.control.caplane import AUDIT, CaPlace, CaPlane
from hbone.control.channel import UnixEndpoint
from hbone.control.issue import Issuer, IssueRules
from hbone.control.publish import Mesh
from hbone.control.registry import Registry
from hbone.control.server import ControlPlane, ControlServer
from hbone.control.unixsocket import ControlSocket
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import SystemClock, new_key
from hbone.times import Clock, Instant, WallTime

DOMAIN = TrustDomain("cluster.local")


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, wall: float = 1_900_000_000.0) -> None:
        self.at = 1000.0
        self.wall_at = wall

    def now(self) -> Instant:
        return Instant(self.at)

    def wall(self) -> WallTime:
        return WallTime(self.wall_at)

    def advance(self, seconds: float) -> None:
        self.at += seconds
        self.wall_at += seconds


def spiffe(namespace: str, account: str) -> SpiffeId:
    return SpiffeId.for_workload(DOMAIN, namespace, account)


def make_authority(clock: Clock | None = None) -> CertificateAuthority:
    now = (clock or SystemClock()).wall()
    keys = CaKeys(root=new_key(), intermediate=new_key())
    return CertificateAuthority.create(DOMAIN, keys, now=now, rng=random.Random(7))


@dataclass(slots=True, kw_only=True)
class Served:
    """A control plane that is up. `owner_uid` other than ours makes this process a stranger to it."""

    directory: Path
    clock: Clock = field(default_factory=SystemClock)
    owner_uid: int = field(default_factory=os.geteuid)
    grants: Mapping[int, tuple[Grant, ...]] = field(default_factory=dict[int, tuple[Grant, ...]])
    rules: IssueRules = field(default_factory=IssueRules)
    mesh: Mesh = field(default_factory=Mesh)
    authority: CertificateAuthority | None = None
    max_connections: int = 1024
    limits: IssueLimits | None = None
    plane: ControlPlane = field(init=False)
    server: ControlServer = field(init=False)
    ca: CaPlane = field(init=False)

    def __post_init__(self) -> None:
        self.authority = self.authority or make_authority(self.clock)

    @property
    def audit_path(self) -> Path:
        return self.directory / AUDIT

    async def _build(self) -> None:
        place = CaPlace(
            directory=self.directory,
            trust_domain=DOMAIN,
            clock=self.clock,
            rng=random.Random(1),
            plugged=self.authority,
        )
        ca = self.ca = await CaPlane.open(place)
        ca.publish_to(self.mesh)
        self.plane = ControlPlane(
            issuer=Issuer(
                lambda: ca.authorities.signing,
                clock=self.clock,
                rng=random.Random(1),
                ledger=ca.ledger,
                rules=self.rules,
            ),
            mesh=self.mesh,
            registry=Registry(self.mesh.store, DOMAIN),
            callers=Callers(
                [UnixProcesses(_NoRoot(trust_domain=DOMAIN, owner_uid=self.owner_uid, grants=self.grants))]
            ),
            clock=self.clock,
            limits=self.limits,
        )
        self.server = ControlServer(self.plane, max_connections=self.max_connections)

    @property
    def endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.directory / "control.sock")

    async def start(self) -> None:
        await self._build()
        await self.server.start(ControlSocket.listen(self.endpoint.path))

    async def stop(self) -> None:
        await self.server.close()
        await self.ca.close()

    async def restart(self) -> None:
        """The same mesh and CA in a new server; leases are gone."""
        await self.stop()
        await self.start()


class _NoRoot(UnixAccess):
    """Tests may run as root, which is trusted everywhere; a test about strangers must not pass for that."""

    def is_trusted(self, uid: int) -> bool:
        return uid == self.owner_uid or any(grant.everything for grant in self.grants.get(uid, ()))


@asynccontextmanager
async def serving(served: Served) -> AsyncGenerator[Served]:
    await served.start()
    try:
        yield served
    finally:
        await served.stop()
