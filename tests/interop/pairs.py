"""A real Envoy and a real `hbone node`, one at each end of a tunnel.

`to_us`: programs connect to Envoy, which tunnels to our inbound. `to_envoy`: programs connect to our outbound, which
tunnels to Envoy. Either way the inbound end is workload shop/server, at an address of its own with the targets
beside it, and the outbound end is shop/client.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, Protocol

from hbone.addr import SocketAddress
from hbone.bench.envoy import EnvoyClient, EnvoyServer
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from tests.interop.certificates import MeshPki
from tests.support.envoy import Envoy, Settings, access_log_in
from tests.support.node import Node, dedicated, forward, mesh_file

WAIT_LIMIT_S = 10.0
CLIENT, SERVER = "shop/client/client", "shop/server/server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a pair stands on. `host`: the inbound workload's address, and its targets'. `tunnel`: where the inbound
    end listens, on that address."""

    processes: Processes
    pki: MeshPki
    ports: Ports
    tunnel: SocketAddress
    directory: Path

    @property
    def host(self) -> IPv4Address:
        assert isinstance(self.tunnel.ip, IPv4Address)
        return self.tunnel.ip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What is different from a good pair.

    `node`: settings added to node.yaml; `node_pki`: another CA for it (its domain becomes the node's). `envoy`:
    fields replaced in Envoy's end; `envoy_trusts`: another root for it; `shape`: changes its bootstrap document;
    `options`: added to its command.
    """

    node: Mapping[str, object] = field(default_factory=dict[str, object])
    node_pki: MeshPki | None = None
    envoy: Mapping[str, Any] = field(default_factory=dict[str, Any])
    envoy_trusts: Path | None = None
    shape: Callable[[Settings], Settings] = dict
    options: tuple[str, ...] = ()


GOOD = Wiring()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both ends, running. `ours`: which end the node is. `entries`: where programs connect, one for each target, in
    their order."""

    ours: Literal["inbound", "outbound"]
    node: Node
    envoy: Envoy
    entries: tuple[SocketAddress, ...]

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until it has; fails after some seconds."""
        self.node.process.wait_until(happened, WAIT_LIMIT_S)

    @property
    def entry(self) -> SocketAddress:
        """Of the first target."""
        return self.entries[0]


class PairOpener(Protocol):
    """`to_us` or `to_envoy`."""

    def __call__(self, ground: Ground, *targets: SocketAddress, wiring: Wiring = GOOD) -> "_Opened": ...


class _Opened(Protocol):
    def __enter__(self) -> Pair: ...
    def __exit__(self, *error: object) -> bool | None: ...


@contextmanager
def to_us(ground: Ground, *targets: SocketAddress, wiring: Wiring = GOOD) -> Generator[Pair]:
    """Programs → Envoy → our inbound → targets."""
    entries = tuple(ground.ports.free() for _ in targets)
    end = EnvoyClient(
        routes={entry: str(target) for entry, target in zip(entries, targets, strict=True)},
        admin=ground.ports.free(),
        identity=ground.pki.identity("shop", "client"),
        server=ground.tunnel,
        expected=ground.pki.spiffe_id("server"),
        access_log=access_log_in(ground.directory, "envoy"),
    )
    with _node(ground, SERVER, wiring, inbound=str(ground.tunnel)) as node, _envoy(ground, end, wiring) as envoy:
        yield Pair(ours="inbound", node=node, envoy=envoy, entries=entries)


@contextmanager
def to_envoy(ground: Ground, *targets: SocketAddress, wiring: Wiring = GOOD) -> Generator[Pair]:
    """Programs → our outbound → Envoy → targets."""
    entries = tuple(ground.ports.free() for _ in targets)
    forwards = [forward(entry, target) for entry, target in zip(entries, targets, strict=True)]
    end = EnvoyServer(
        listen=ground.tunnel,
        admin=ground.ports.free(),
        identity=ground.pki.identity("shop", "server"),
        access_log=access_log_in(ground.directory, "envoy"),
    )
    outbound = replace(wiring, node={"forwards": forwards, **wiring.node})
    with _envoy(ground, end, wiring) as envoy, _node(ground, CLIENT, outbound) as node:
        yield Pair(ours="outbound", node=node, envoy=envoy, entries=entries)


def _node(ground: Ground, workload: str, wiring: Wiring, **listeners: str) -> Node:
    pki = wiring.node_pki or ground.pki
    # the server's address, and another for the client, whom nobody calls
    workloads = {SERVER: ground.host, CLIENT: ground.host - 1}
    mesh = mesh_file(ground.directory, workloads, hbone_port=ground.tunnel.port, domain=str(pki.domain))
    own = dedicated(workload, ca=pki.directory, mesh=mesh, **listeners)
    return Node({**own, "trust_domain": str(pki.domain), **wiring.node}, ground.processes)


def _envoy(ground: Ground, end: EnvoyClient | EnvoyServer, wiring: Wiring) -> Envoy:
    end = replace(end, **wiring.envoy)
    if wiring.envoy_trusts:
        end = replace(end, identity=replace(end.identity, root=wiring.envoy_trusts))
    return Envoy(end, ground.processes, config=wiring.shape(end.config()), options=wiring.options)
