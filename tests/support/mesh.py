"""A mesh inside one process: real sockets and TLS on 127.0.0.0/8, one data plane for each node.

async with Mesh() as mesh:
    server = await mesh.node("shop/cart", "127.0.1.1")
    client = await mesh.node("web/web", "127.0.1.2", forwards={"cart": "127.0.1.1:8080"})
    connect to client.dataplane.address("forward 1")
"""

import asyncio
import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from hbone.addr import SocketAddress, parse_ip
from hbone.app.dataplane import DataPlane, Surroundings
from hbone.app.identities import TlsIdentities
from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.profile import new_serial
from hbone.config.model import NodeSettings
from hbone.control.credentials import Credentials
from hbone.control.renew import IdentityKeeper
from hbone.discovery.model import MeshState, Protocol, Service, Workload
from hbone.discovery.store import Source, Store
from hbone.identity.spiffe import SpiffeId, parse_trust_domain
from hbone.identity.svid import X509Svid
from hbone.net.clock import SystemClock, new_key, system_rng
from hbone.proxy.judge import Authorize
from hbone.telemetry.access import AccessLog
from tests.support.tcp import App, Handler, Tcp, eventually

DOMAIN = parse_trust_domain("cluster.local")


class DirectIssuer:
    """An SvidSource that signs at once; `ttl_s` may be changed between certificates."""

    def __init__(self, authority: CertificateAuthority, ttl_s: float = 3600.0) -> None:
        self.authority = authority
        self.ttl_s = ttl_s
        self.issued = 0

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        self.issued += 1
        key = new_key()
        issued = self.authority.issue(
            key.public_key(), spiffe_id, ttl_s=self.ttl_s, now=SystemClock().wall(), serial=new_serial(system_rng())
        )
        return Credentials(svid=X509Svid.of(issued.chain, key), bundle=self.authority.bundle)


def new_authority(domain: str = "cluster.local") -> CertificateAuthority:
    return CertificateAuthority.create(
        parse_trust_domain(domain),
        CaKeys(root=new_key(), intermediate=new_key()),
        now=SystemClock().wall(),
        rng=system_rng(),
    )


class Node:
    """One data plane with its own store, certificates and access log."""

    def __init__(
        self,
        settings: NodeSettings,
        issuer: DirectIssuer,
        state: MeshState,
        authorize: Authorize | None = None,
        clock: SystemClock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.log = io.StringIO()
        self._stopped = False
        self.issuer = issuer
        self.store = Store()
        self.store.replace_all(Source.MANIFESTS, state)
        self.keeper = IdentityKeeper(issuer, clock, system_rng())
        self.identities = TlsIdentities(self.keeper, clock)
        self.dataplane = DataPlane(
            settings,
            Surroundings(
                store=self.store,
                identities=self.identities,
                access=AccessLog(self._write, "text"),
                clock=clock,
                authorize=authorize,
            ),
        )

    def _write(self, line: str) -> None:
        self.log.write(line)

    async def start(self) -> None:
        await self.keeper.__aenter__()
        self.dataplane.bind()
        self.dataplane.start()

    async def stop(self, deadline_s: float = 0.05) -> None:
        """Drain and close; harmless when it has stopped."""
        if not self._stopped:
            self._stopped = True
            await self.dataplane.drain(deadline_s)
            await self.keeper.__aexit__(None, None, None)

    async def kill(self) -> None:
        """End like a process that was killed: sockets close, nobody is told anything."""
        self.dataplane.unbind()
        self.dataplane.inbound.close()
        self.dataplane.pool.close()
        await self.stop(0.001)

    def lines(self) -> list[str]:
        """The access lines so far."""
        return self.log.getvalue().splitlines()

    async def quiet(self) -> None:
        """Until no connection is carried."""
        await eventually(lambda: not self.dataplane.connections())

    async def line(self) -> str:
        """The one access line that there is or will be; fails when there is more than one."""
        (line,) = await self.wait_lines(1)
        return line

    async def wait_lines(self, count: int) -> list[str]:
        """The access lines, when there are `count` of them; fails when there are more."""
        await eventually(lambda: len(self.lines()) >= count)
        await asyncio.sleep(0.01)  # would another one follow?
        assert len(self.lines()) == count, self.log.getvalue()
        return self.lines()


class Mesh:
    """Nodes that share a CA and know the same workloads."""

    def __init__(self) -> None:
        self.authority = new_authority()
        self.workloads: list[Workload] = []
        self.services: list[Service] = []
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()

    def workload(
        self, account: str, ip: str, *, hbone_port: int = 15008, protocol: Protocol = Protocol.HBONE, **fields: Any
    ) -> Workload:
        """Add a workload NAMESPACE/ACCOUNT at `ip`."""
        namespace, _, name = account.partition("/")
        workload = Workload(
            uid=f"test//Pod/{namespace}/{name}-{ip}",
            name=f"{name}-{ip}",
            namespace=namespace,
            service_account=name,
            addresses=(parse_ip(ip),),
            protocol=protocol,
            hbone_port=hbone_port,
            workload_name=name,
            canonical_name=name,
            **fields,
        )
        self.workloads.append(workload)
        self.publish()
        return workload

    def service(self, hostname: str, ports: Mapping[int, int], **fields: Any) -> Service:
        namespace = fields.pop("namespace", "default")
        service = Service(
            name=hostname.partition(".")[0], namespace=namespace, hostname=hostname, ports=ports, **fields
        )
        self.services.append(service)
        self.publish()
        return service

    def publish(self) -> None:
        for node in self.nodes:
            change = node.store.replace_all(Source.MANIFESTS, self.state)
            node.dataplane.mesh_changed(change)

    @property
    def state(self) -> MeshState:
        return MeshState(workloads=tuple(self.workloads), services=tuple(self.services))

    async def node(self, account: str | None, ip: str, *, issuer: DirectIssuer | None = None, **overrides: Any) -> Node:
        """A running node, dedicated to NAMESPACE/ACCOUNT (None: shared), its tunnels served at `ip` and any free port.

        The workload itself is added to the mesh with that port.
        """
        forwards = [{"listen": "127.0.0.1:0", **forward} for forward in overrides.pop("forwards", [])]
        inbound = overrides.pop("inbound", f"{ip}:0")
        authorize, clock = overrides.pop("authorize", None), overrides.pop("clock", None)
        settings = NodeSettings.model_validate(
            {
                **({"workload": account} if account else {"mode": "shared"}),
                "listeners": {
                    "inbound": inbound,
                    "inbound_plaintext": overrides.pop("inbound_plaintext", None) or "off",
                    "outbound": overrides.pop("outbound", None) or "off",
                    "socks": overrides.pop("socks", None) or "off",
                    "admin": "off",
                    "readiness": "off",
                    "metrics": "off",
                },
                "forwards": forwards,
                **overrides,
            }
        )
        node = Node(settings, issuer or DirectIssuer(self.authority), self.state, authorize, clock)
        await node.start()
        self.nodes.append(node)
        if account:
            self.workload(account, ip, hbone_port=node.dataplane.address("inbound").port)
        return node


@dataclass
class Pair:
    """A client's node, a server's node, and an application behind it: the usual stage."""

    mesh: Mesh
    app: App
    client: Node
    server: Node
    programs: list[Tcp] = field(default_factory=list)

    async def connect(self, **options: Any) -> Tcp:
        """As a program at the client's node; closed with the stage, if not before."""
        self.programs.append(await Tcp.connect(forward_of(self.client), **options))
        return self.programs[-1]

    async def both(self) -> tuple[Tcp, Tcp]:
        """A program and the application, connected to each other."""
        program = await self.connect()
        return program, await self.app.accept()


@asynccontextmanager
async def pair(
    handler: Handler | None = None,
    *,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    target: object = None,
) -> AsyncGenerator[Pair]:
    """Nodes of web/web and shop/cart; `client` and `server` are further settings of theirs."""
    async with App(handler) as app, Mesh() as mesh:
        far = await mesh.node("shop/cart", "127.0.1.1", **(server or {}))
        near = await mesh.node("web/web", "127.0.1.2", forwards=[{"to": str(target or app.address)}], **(client or {}))
        stage = Pair(mesh, app, near, far)
        try:
            yield stage
        finally:
            for program in stage.programs:
                program.close()


def forward_of(node: Node, place: int = 1) -> SocketAddress:
    return node.dataplane.address(f"forward {place}")
