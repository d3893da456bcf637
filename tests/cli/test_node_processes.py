"""The SPIFFE Workload API of a node on another machine: processes there get what the control plane gives that node."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography import x509
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from hbone.proto.workloadapi_grpc import SpiffeWorkloadAPIStub
from hbone.proto.workloadapi_pb2 import JWTSVIDRequest, ValidateJWTSVIDRequest, X509BundlesRequest, X509SVIDRequest
from tests.support.cafiles import ca_files
from tests.support.commands import Running, Sandbox

CART, FRONT = "spiffe://cluster.local/ns/shop/sa/cart", "spiffe://cluster.local/ns/web/sa/front"
HEADER = {"workload.spiffe.io": "true"}
LIMIT_S = 20
US = os.geteuid()


def entries(*, cart: str = "", front: str = "") -> str:
    """The workloads of both accounts, each on the node that is named."""
    return "---".join(
        "\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        f"metadata: {{name: {name}-0, namespace: {namespace}, labels: {{kubernetes.io/hostname: '{node}'}}}}\n"
        f"spec: {{address: {ip}, serviceAccount: {name}}}\n"
        for namespace, name, node, ip in (("shop", "cart", cart, "127.88.2.1"), ("web", "front", front, "127.88.2.2"))
    )


class Machine:
    """A node `vm-7` that has joined, and whose rules give all our processes both identities."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.place(cart="vm-7")
        self.control = sandbox.start("control", "--listen", "127.0.0.1:0", "--manifests", "mesh")
        self.control.wait_for("Ctrl-C ends it")
        self.socket = sandbox.directory / "workload.sock"

    def place(self, **nodes: str) -> None:
        self._sandbox.write("mesh/all.yaml", entries(**nodes))

    def join(self, *rules: dict[str, Any], **settings: Any) -> Running:
        given = rules or ({"as": "shop/cart", "uid": US}, {"as": "web/front", "uid": US})
        settings = {"workload_socket": str(self.socket), "attest": given, **settings}
        file = self._sandbox.write("node.yaml", json.dumps(settings))
        token = self._sandbox.run("token", "create", "--node", "vm-7").expect(0).out.strip()
        env = {"HBONE_STATE_DIR": str(self._sandbox.directory / "vm")}
        running = self._sandbox.start("join", token, "--config", str(file), env=env)
        running.wait_for("is up, a member of the mesh")
        return running

    @asynccontextmanager
    async def api(self) -> AsyncGenerator[SpiffeWorkloadAPIStub]:
        channel = Channel(path=str(self.socket))
        try:
            yield SpiffeWorkloadAPIStub(channel)
        finally:
            channel.close()


@pytest.fixture
def machine(sandbox: Sandbox) -> Machine:
    return Machine(sandbox)


async def identities(stream: Any) -> list[str]:
    response = await stream.recv_message()
    assert response is not None
    return [one.spiffe_id for one in response.svids]


async def status(call: Any) -> Status:
    try:
        await call
    except GRPCError as error:
        return error.status
    return Status.OK


async def test_a_process_gets_what_the_rules_and_the_control_plane_both_give_it(machine: Machine) -> None:
    await asyncio.to_thread(machine.join)
    async with machine.api() as api, asyncio.timeout(LIMIT_S):
        async with api.FetchX509SVID.open(metadata=HEADER) as stream:
            await stream.send_message(X509SVIDRequest(), end=True)
            assert await identities(stream) == [CART], "web/front is not on this node, whatever the rules say"
            await asyncio.to_thread(machine.place, cart="vm-7", front="vm-7")
            while await identities(stream) != [CART, FRONT]:
                pass
            await stream.cancel()
        async with api.FetchX509Bundles.open(metadata=HEADER) as stream:
            await stream.send_message(X509BundlesRequest(), end=True)
            bundles = await stream.recv_message()
            assert bundles is not None
            root = x509.load_der_x509_certificate(bundles.bundles["spiffe://cluster.local"])
            assert "hbone root" in root.subject.rfc4514_string()
            await stream.cancel()


async def test_a_process_gets_tokens_of_what_both_give_it_and_keeps_them_through_an_outage(machine: Machine) -> None:
    await asyncio.to_thread(machine.join)
    async with machine.api() as api, asyncio.timeout(LIMIT_S):
        (one,) = (await api.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)).svids
        assert one.spiffe_id == CART, "web/front is not on this node, whatever the rules say"
        foreign = api.FetchJWTSVID(JWTSVIDRequest(audience=["db"], spiffe_id=FRONT), metadata=HEADER)
        assert await status(foreign) is Status.PERMISSION_DENIED
        await asyncio.to_thread(machine.control.stop)
        kept = await api.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)
        assert [svid.svid for svid in kept.svids] == [one.svid]
        request = ValidateJWTSVIDRequest(audience="db", svid=one.svid)
        assert (await api.ValidateJWTSVID(request, metadata=HEADER)).spiffe_id == CART
        other = api.FetchJWTSVID(JWTSVIDRequest(audience=["cache"]), metadata=HEADER)
        assert await status(other) is Status.UNAVAILABLE


async def test_a_node_that_issues_its_own_certificates_has_no_tokens_and_says_so(sandbox: Sandbox) -> None:
    ca_files(sandbox.work / "ca")
    socket = sandbox.directory / "workload.sock"
    settings = {"workload": "shop/cart", "ca": "ca", "workload_socket": str(socket)}
    file = sandbox.write("node.yaml", json.dumps({**settings, "attest": [{"as": "shop/cart", "uid": US}]}))
    running = sandbox.start("node", "--config", str(file))
    await asyncio.to_thread(running.wait_for, "workload socket listens")
    channel = Channel(path=str(socket))
    try:
        api = SpiffeWorkloadAPIStub(channel)
        jwt = api.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)
        assert await status(jwt) is Status.UNIMPLEMENTED
    finally:
        channel.close()


async def test_an_identity_that_leaves_the_node_is_taken_from_its_processes(machine: Machine) -> None:
    await asyncio.to_thread(machine.join)
    async with machine.api() as api, asyncio.timeout(LIMIT_S), api.FetchX509SVID.open(metadata=HEADER) as stream:
        await stream.send_message(X509SVIDRequest(), end=True)
        assert await identities(stream) == [CART]
        await asyncio.to_thread(machine.place, cart="vm-8")
        assert await stream.recv_message() is None, "the stream has ended"
        with pytest.raises(GRPCError) as caught:
            await stream.recv_trailing_metadata()
        assert caught.value.status is Status.PERMISSION_DENIED
        assert "no workload of" in str(caught.value.message)


async def test_a_rotation_is_pushed_to_processes(machine: Machine) -> None:
    await asyncio.to_thread(machine.join, svid_ttl_s=3)
    async with machine.api() as api, asyncio.timeout(LIMIT_S), api.FetchX509SVID.open(metadata=HEADER) as stream:
        await stream.send_message(X509SVIDRequest(), end=True)
        first, second = [await stream.recv_message() for _ in range(2)]
        assert first is not None
        assert second is not None
        assert first.svids[0].x509_svid != second.svids[0].x509_svid
        assert first.svids[0].spiffe_id == second.svids[0].spiffe_id == CART
        await stream.cancel()


async def test_a_process_that_no_rule_fits_has_no_identity(machine: Machine) -> None:
    await asyncio.to_thread(machine.join, {"as": "shop/cart", "uid": US + 1})
    async with machine.api() as api, asyncio.timeout(LIMIT_S), api.FetchX509SVID.open(metadata=HEADER) as stream:
        await stream.send_message(X509SVIDRequest(), end=True)
        assert await status(stream.recv_message()) is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"attest": [{"as": "shop/cart", "uid": 1}]}', "attest: no process can ask for an identity"),
        ('{"workload_socket": "x.sock"}', "workload_socket: no process would have an identity"),
        ('{"workload_socket": "x.sock", "attest": [{"as": "shop/cart"}]}', "every process would have this identity"),
        (
            '{"workload_socket": "x.sock", "attest": [{"as": "shop/cart", "uid": 1}], "workers": 2}',
            "only a node of one process serves it",
        ),
    ],
    ids=["no socket", "no rules", "a rule for everybody", "workers"],
)
def test_settings_that_make_no_sense_are_refused(sandbox: Sandbox, settings: str, words: str) -> None:
    file = sandbox.write("node.yaml", settings)
    assert words in sandbox.run("node", "--config", str(file)).expect(2).err
