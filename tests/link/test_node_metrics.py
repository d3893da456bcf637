"""What a node's metrics say of handshakes, tunnels, limits and changes, with real tunnels between real nodes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hbone.app.node import Node
from hbone.app.parts import NodeParts
from hbone.app.sources import FileSources
from hbone.config.model import NodeSettings
from hbone.config.sections import Logging
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Store
from hbone.telemetry.log import Logs
from hbone.telemetry.names import METRICS
from tests.support.mesh import DirectIssuer, new_authority
from tests.support.tcp import Tcp, eventually

CART, WEB = "127.0.73.1", "127.0.73.2"
MESH = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: cart, namespace: shop, labels: {{app: cart}}}}
spec: {{address: {cart}, serviceAccount: cart, ports: {{hbone: {port}}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web, namespace: web}}
spec: {{address: {web}, serviceAccount: web}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: shop}}
spec: {{selector: {{app: cart}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""
MORE = """\
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: job, namespace: batch}
spec: {address: 127.0.73.3, serviceAccount: job}
"""


def sample(node: Node, name: str, **labels: str) -> float | None:
    """The value of one series; None where there is none."""
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    for line in node.metrics.text().splitlines():
        key, _, value = line.rpartition(" ")
        if key == wanted:
            return float(value)
    return None


@dataclass
class Pair:
    """A node before shop/cart (an echo), and one for its callers."""

    directory: Path
    inbound: Node
    outbound: Node
    echo_port: int

    def write(self, extra: str = "") -> None:
        port = self.inbound.dataplane.address("inbound").port
        _write(self.directory, MESH.format(cart=CART, web=WEB, port=port) + extra)

    async def reaches(self) -> bool:
        async with await self.call() as tcp:
            return (await tcp.exactly(10))[1:2] == b"\0"

    async def call(self) -> Tcp:
        tcp = await Tcp.connect(self.outbound.dataplane.address("socks"), source=WEB)
        target = bytes(map(int, CART.split("."))) + self.echo_port.to_bytes(2, "big")
        await tcp.send(b"\x05\x01\x00" + b"\x05\x01\x00\x01" + target)
        assert await tcp.exactly(2) == b"\x05\x00"
        return tcp


def _write(directory: Path, text: str) -> None:
    new = directory / ".new"
    new.write_text(text)
    new.rename(directory / "mesh.yaml")


@asynccontextmanager
async def pair(tmp_path: Path, **settings: Mapping[str, object]) -> AsyncGenerator[Pair]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    issuer = DirectIssuer(new_authority())
    async with AsyncExitStack() as undo:
        server = await undo.enter_async_context(await asyncio.start_server(echo, CART, 0))
        _write(tmp_path, MESH.format(cart=CART, web=WEB, port=15008))
        nodes: list[Node] = []
        for listeners in ({"inbound": f"{CART}:0", "socks": "off"}, {"inbound": "off", "socks": "127.0.0.1:0"}):
            off = {"admin": "off", "readiness": "off", "metrics": "off"}
            made = NodeSettings.model_validate(
                {"mode": "shared", "manifests": tmp_path, "listeners": {**off, **listeners}, **settings}
            )
            logs = Logs(Logging.model_validate({"access_log": "off", "log_level": "off"}))
            undo.callback(logs.close)
            files = FileSources(manifests=tmp_path, defaults=Defaults())
            node = Node(made, NodeParts(store=Store(), source=issuer, files=files), logs)
            nodes.append(await undo.enter_async_context(node))
            if len(nodes) == 1:
                port = node.dataplane.address("inbound").port
                _write(tmp_path, MESH.format(cart=CART, web=WEB, port=port))
        port = server.sockets[0].getsockname()[1]
        yield Pair(tmp_path, nodes[0], nodes[1], port)


async def test_every_metric_of_the_reference_is_exposed_by_a_node(tmp_path: Path) -> None:
    async with pair(tmp_path) as mesh:
        text = mesh.inbound.metrics.text()
        assert [metric.name for metric in METRICS if f"# TYPE {metric.name} {metric.kind.value}\n" not in text] == []


async def test_a_tunnel_and_its_handshake_are_counted_once_at_each_end(tmp_path: Path) -> None:
    async with pair(tmp_path) as mesh:
        assert await mesh.reaches()
        assert await mesh.reaches()
        for node, direction in ((mesh.inbound, "inbound"), (mesh.outbound, "outbound")):
            assert sample(node, "hbone_tunnels_opened_total", direction=direction) == 1
            assert sample(node, "hbone_tls_handshakes_total", direction=direction, result="ok") == 1
            assert sample(node, "hbone_tls_handshake_seconds_count", direction=direction) == 1
            assert 0 < (sample(node, "hbone_tls_handshake_seconds_sum", direction=direction) or 0) < 10
            assert "hbone_tunnel_failures_total{" not in node.metrics.text()


async def test_a_handshake_that_fails_is_counted_by_what_went_wrong(tmp_path: Path) -> None:
    async with pair(tmp_path) as mesh:
        async with await Tcp.connect(mesh.inbound.dataplane.address("inbound")) as stranger:
            await stranger.send(b"GET / HTTP/1.1\r\n\r\n")
            await stranger.ending()
        failed = {"direction": "inbound", "result": "NotTls"}
        await eventually(lambda: sample(mesh.inbound, "hbone_tunnel_failures_total", **failed) == 1)
        assert sample(mesh.inbound, "hbone_tls_handshakes_total", **failed) == 1
        assert sample(mesh.inbound, "hbone_tunnels_opened_total", direction="inbound") is None


async def test_a_tunnel_that_breaks_is_counted_where_it_was_used(tmp_path: Path) -> None:
    async with pair(tmp_path) as mesh, await mesh.call() as tcp:
        assert (await tcp.exactly(10))[1] == 0
        mesh.inbound.dataplane.inbound.close()
        broken = {"direction": "outbound", "result": "ConnectionLost"}
        await eventually(lambda: sample(mesh.outbound, "hbone_tunnel_failures_total", **broken) == 1)


async def test_a_connection_beyond_the_limit_is_counted_by_its_setting(tmp_path: Path) -> None:
    async with pair(tmp_path, limits={"max_connections": 1}) as mesh, await mesh.call() as held:
        assert (await held.exactly(10))[1] == 0
        with contextlib.suppress(OSError):  # cut before or after it is connected
            async with await Tcp.connect(mesh.outbound.dataplane.address("socks"), source=WEB) as second:
                await second.ending()
        assert sample(mesh.outbound, "hbone_limit_reached_total", limit="max_connections") == 1


async def test_a_handshake_beyond_the_limit_is_counted_by_its_setting(tmp_path: Path) -> None:
    async with pair(tmp_path, limits={"max_half_open_handshakes": 1}) as mesh:
        address = mesh.inbound.dataplane.address("inbound")
        async with await Tcp.connect(address), await Tcp.connect(address) as second:
            await second.ending()
        assert sample(mesh.inbound, "hbone_limit_reached_total", limit="max_half_open_handshakes") == 1


async def test_a_peer_that_floods_a_tunnel_is_counted_by_the_setting_of_that_limit(tmp_path: Path) -> None:
    async with pair(tmp_path, frames={"max_pings": "1/s burst 2"}) as mesh:
        assert await mesh.reaches()
        (tunnel,) = mesh.outbound.dataplane.pool.tunnels()
        for _ in range(9):
            tunnel.link.connection.ping(bytes(8))
        tunnel.link.flush()
        await eventually(lambda: sample(mesh.inbound, "hbone_limit_reached_total", limit="max_pings") == 1)


async def test_the_mesh_and_its_changes_are_counted(tmp_path: Path) -> None:
    async with pair(tmp_path) as mesh:
        reloads = partial(sample, mesh.outbound, "hbone_configuration_reloads_total")
        assert (reloads(result="ok"), reloads(result="failed")) == (0, 0)
        mesh.write("---\nkind: Nonsense\n")
        await eventually(lambda: reloads(result="failed") == 1, limit_s=20.0)  # the watch may begin after it
        mesh.write(MORE)
        await eventually(lambda: reloads(result="ok") == 1)
        assert (sample(mesh.outbound, "hbone_workloads"), sample(mesh.outbound, "hbone_services")) == (3, 1)
