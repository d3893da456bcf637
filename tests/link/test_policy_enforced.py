"""Policies of manifests, enforced by real nodes: on new connections, and on those that are open."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.app.node import Node
from hbone.app.parts import NodeParts
from hbone.app.sources import FileSources
from hbone.config.model import NodeSettings
from hbone.config.sections import Logging
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Store
from hbone.errors import PolicyDenied
from hbone.policy.traffic import read_traffic
from hbone.proxy.judge import Facts
from hbone.telemetry.access import AccessLog
from hbone.telemetry.log import Logs
from tests.support.mesh import DirectIssuer, new_authority
from tests.support.tcp import App, eventually

CART, WEB, JOB = "127.0.71.1", "127.0.71.2", "127.0.71.3"

WORKLOADS = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {address: 127.0.71.1, serviceAccount: cart, ports: {hbone: %d}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: web}
spec: {address: 127.0.71.2, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: job, namespace: batch}
spec: {address: 127.0.71.3, serviceAccount: job}
"""

DENY_JOB = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-jobs, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/batch/sa/job]}}]}]
"""
ALLOW_WEB = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec:
  rules: [{from: [{source: {serviceAccounts: [web/web]}}]}]
"""
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


@dataclass
class World:
    """A node before shop/cart (an echo), and one for its callers."""

    directory: Path
    inbound: Node
    outbound: Node
    lines: list[str]
    echo_port: int

    def write(self, *policies: str, workloads: str = WORKLOADS) -> None:
        """The manifests as they are from now on: the workloads and these policies."""
        port = self.inbound.dataplane.address("inbound").port
        _write(self.directory, port, *policies, workloads=workloads)

    async def policies_in_force(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.inbound.policies.engine.policies) != count:  # noqa: ASYNC110 -- there is no event for it
                await asyncio.sleep(0.01)

    async def call(self, ip: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        socks = self.outbound.dataplane.address("socks")
        reader, writer = await asyncio.open_connection(str(socks.ip), socks.port, local_addr=(ip, 0))
        writer.write(b"\x05\x01\x00" + b"\x05\x01\x00\x01" + parse_ip(CART).packed + self.echo_port.to_bytes(2, "big"))
        assert await reader.readexactly(2) == b"\x05\x00"
        return reader, writer

    async def reaches(self, ip: str) -> bool:
        reader, writer = await self.call(ip)
        try:
            return (await reader.readexactly(10))[1] == 0
        finally:
            writer.close()

    async def line_with(self, *words: str) -> str:
        async with asyncio.timeout(5):
            while True:
                for line in self.lines:
                    if all(word in line for word in words):
                        return line
                await asyncio.sleep(0.01)


def _write(directory: Path, port: int, *policies: str, workloads: str = WORKLOADS) -> None:
    new = directory / ".new"
    new.write_text("---\n".join((workloads % port, *policies)))
    new.rename(directory / "mesh.yaml")


@asynccontextmanager
async def world(tmp_path: Path, *policies: str) -> AsyncGenerator[World]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    issuer = DirectIssuer(new_authority())
    lines: list[str] = []
    async with AsyncExitStack() as undo:
        server = await undo.enter_async_context(await asyncio.start_server(echo, CART, 0))
        _write(tmp_path, 15008, *policies)
        nodes: list[Node] = []
        for listeners in ({"inbound": f"{CART}:0", "socks": "off"}, {"inbound": "off", "socks": "127.0.0.1:0"}):
            off = {"admin": "off", "readiness": "off", "metrics": "off"}
            settings = NodeSettings.model_validate(
                {"mode": "shared", "manifests": tmp_path, "listeners": {**off, **listeners}}
            )
            logs = Logs(Logging.model_validate({"access_log": "off", "log_level": "off"}))
            undo.callback(logs.close)
            logs.access = AccessLog(lines.append, "text")
            files = FileSources(manifests=tmp_path, defaults=Defaults())
            node = Node(settings, NodeParts(store=Store(), source=issuer, files=files), logs)
            nodes.append(await undo.enter_async_context(node))
            if len(nodes) == 1:
                _write(tmp_path, node.dataplane.address("inbound").port, *policies)
        port: int = server.sockets[0].getsockname()[1]
        yield World(tmp_path, nodes[0], nodes[1], lines, port)


async def test_a_denied_identity_is_answered_401_and_the_line_names_the_policy(tmp_path: Path) -> None:
    async with world(tmp_path, DENY_JOB) as mesh:
        assert await mesh.reaches(WEB)
        assert not await mesh.reaches(JOB)
        line = await mesh.line_with('direction="inbound"', "explicitly denied by: shop/no-jobs")
        assert 'src.identity="spiffe://cluster.local/ns/batch/sa/job"' in line
        assert "http status: 401" in await mesh.line_with('direction="outbound"', "http status: 401")


async def test_what_was_denied_is_in_the_log_of_neither_end_as_traffic_that_passed(tmp_path: Path) -> None:
    async with world(tmp_path, DENY_JOB) as mesh:
        assert not await mesh.reaches(JOB)
        await mesh.line_with('direction="inbound"')
        await mesh.line_with('direction="outbound"')
        traffic = read_traffic(mesh.lines)
        assert not traffic.seen
        ((seen, count),) = traffic.denied.items()  # one connection, whoever tells of it
        assert (str(seen.identity), count) == ("spiffe://cluster.local/ns/batch/sa/job", 1)


async def test_an_allow_policy_keeps_everybody_else_out(tmp_path: Path) -> None:
    async with world(tmp_path, ALLOW_WEB) as mesh:
        assert await mesh.reaches(WEB)
        assert not await mesh.reaches(JOB)
        await mesh.line_with("allow policies exist, but none allowed")


async def test_a_new_policy_cuts_what_it_forbids_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        open_ones: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        for ip in (WEB, JOB):
            reader, writer = open_ones[ip] = await mesh.call(ip)
            assert (await reader.readexactly(10))[1] == 0
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
        mesh.write(DENY_JOB)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await open_ones[JOB][0].read(1)
        reader, writer = open_ones[WEB]
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        await mesh.line_with("connection closed due to policy change", "shop/no-jobs")
        for _, one in open_ones.values():
            one.close()


async def test_a_workload_that_a_policy_selects_from_now_on_is_judged_by_it_at_once(tmp_path: Path) -> None:
    """The policy was there before, and so was the connection; only the workload's label is new."""
    async with world(tmp_path) as mesh:
        mesh.write(DENY_JOB, workloads=WORKLOADS.replace("{app: cart}", "{app: other}"))
        await mesh.policies_in_force(1)
        reader, writer = await mesh.call(JOB)
        assert (await reader.readexactly(10))[1] == 0
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        mesh.write(DENY_JOB)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await reader.read(1)
        await mesh.line_with("connection closed due to policy change", "shop/no-jobs")
        writer.close()


async def test_a_denial_that_comes_while_the_application_is_dialled_ends_the_connection(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh, App(ip=CART) as app:
        mesh.echo_port = app.port
        full = await app.stop_answering()
        reader, writer = await mesh.call(JOB)
        await eventually(lambda: len(mesh.inbound.dataplane.registry) == 1)
        mesh.write(DENY_JOB)
        async with asyncio.timeout(5):
            assert (await reader.read(10))[1:2] != b"\0"
        await mesh.line_with('direction="inbound"', "connection closed due to policy change", "shop/no-jobs")
        writer.close()
        for one in full:
            one.close()


async def test_a_policy_that_is_wrong_leaves_the_former_ones_in_force(tmp_path: Path) -> None:
    async with world(tmp_path, DENY_JOB) as mesh:
        mesh.write(DENY_JOB.replace("action: DENY", "action: DENNY"))
        assert mesh.inbound.files is not None
        async with asyncio.timeout(10):
            while not (problems := list(mesh.inbound.files.problems())):  # noqa: ASYNC110 -- as above
                await asyncio.sleep(0.01)
        assert "DENNY" in str(problems[0])
        assert not await mesh.reaches(JOB)
        mesh.write()
        await mesh.policies_in_force(0)
        assert await mesh.reaches(JOB)


async def test_a_dry_run_policy_denies_nobody(tmp_path: Path) -> None:
    dry = DENY_JOB.replace("{name: no-jobs,", '{name: no-jobs, annotations: {istio.io/dry-run: "true"},')
    async with world(tmp_path, dry) as mesh:
        assert await mesh.reaches(JOB)
        assert "shop/no-jobs" in mesh.inbound.policies.engine.dry_run


async def test_strict_refuses_who_proves_no_identity_and_takes_who_does(tmp_path: Path) -> None:
    async with world(tmp_path, STRICT) as mesh:
        assert await mesh.reaches(WEB)
        cart = mesh.inbound.store.workload_at("", parse_ip(CART))
        facts = Facts(
            identity=None,
            source=SocketAddress.parse(f"{WEB}:1"),
            destination=SocketAddress.parse(f"{CART}:80"),
            workload=cart,
        )
        assert isinstance(mesh.inbound.policies.authorize(facts), PolicyDenied)
