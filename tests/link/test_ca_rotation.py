"""The root is replaced under traffic: a whole mesh in this process, real gRPC, real TLS."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.material import files_of
from hbone.control.ca_client import CaClient
from hbone.control.caplane import DATABASE
from hbone.control.channel import ControlRefused, calling
from hbone.control.keys import FileKeys
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.identity.verify import PeerSide, UntrustedRoot, verify_peer
from hbone.net.clock import SystemClock, new_key, system_rng
from hbone.proto.admin_pb2 import CaStatusResponse, ImportCaRequest, RotateRootRequest
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.support.agedca import aged_authority
from tests.support.camesh import CaMesh, Load, MeshNode, echo_app
from tests.support.controlplane import make_authority, spiffe
from tests.support.tcp import eventually

BACK, FORCE, RECOVER = RotateRootRequest.BACK, RotateRootRequest.FORCE, RotateRootRequest.RECOVER
TTL_S = 8.0  # renewals that a rotation asks for come within a quarter of it


def phase(status: CaStatusResponse) -> str:
    return status.rotation.phase


def bundle_size(node: MeshNode) -> int:
    credentials = node.node.dataplane.around.identities.current(spiffe(*node.account.split("/")))
    assert credentials is not None
    return len(credentials.contexts.bundle.roots[credentials.identity.trust_domain])


class Silent:
    """A subscriber that takes trust bundles and acknowledges when it is told to."""

    def __init__(self, mesh: CaMesh) -> None:
        self._mesh = mesh

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator["Silent"]:
        async with calling(self._mesh.endpoint) as channel:
            stub = AggregatedDiscoveryServiceStub(channel)
            async with stub.DeltaAggregatedResources.open() as self._stream:
                request = DeltaDiscoveryRequest(type_url=TRUST_BUNDLE_TYPE)
                request.node.metadata["NODE_NAME"] = "sleeper"
                await self._stream.send_message(request)
                await self.acknowledge()
                yield self
                await self._stream.cancel()

    async def acknowledge(self) -> None:
        """The next response."""
        response = await self._stream.recv_message()
        assert isinstance(response, DeltaDiscoveryResponse)
        await self._stream.send_message(
            DeltaDiscoveryRequest(type_url=TRUST_BUNDLE_TYPE, response_nonce=response.nonce)
        )


@pytest.mark.slow
async def test_a_root_is_replaced_under_traffic_and_not_one_request_fails(tmp_path: Path) -> None:
    async with CaMesh(tmp_path, ttl_s=TTL_S) as mesh, echo_app("127.0.2.1") as app:
        server = await mesh.node("shop/cart", "127.0.2.1")
        first = await mesh.node("web/one", "127.0.2.2", to=str(app.address))
        second = await mesh.node("web/two", "127.0.2.3", to=str(app.address))
        before = await CaClient(mesh.endpoint, ttl_s=3600).fetch(spiffe("web", "one"))
        held = await first.connect()
        async with Load(first) as one, Load(second) as two:
            await mesh.rotate()
            # an outsider's certificate, which does not tell whose it is, keeps the new root from signing
            outsider = ["1 certificate of clients that learn of roots when they renew"]
            await mesh.until_status(lambda status: list(status.rotation.waiting) == outsider)
            assert [bundle_size(node) for node in (server, first, second)] == [2, 2, 2], "pushed, without a renewal"
            await mesh.rotate(FORCE)
            assert phase(await mesh.admin.status()) == "activated"
            await mesh.until_status(
                lambda status: list(status.rotation.waiting) == ["1 certificate of the old root still in use"]
            )
            await mesh.rotate(FORCE)  # the outsider's
            assert phase(await mesh.admin.status()) == "none"
            done = one.done, two.done
            await mesh.until(lambda: one.done > done[0] + 20 and two.done > done[1] + 20)
        assert one.failures == two.failures == []
        await held.send(b"from before")
        assert await held.exactly(11) == b"from before", "a stream that was open all the time"
        held.close()
        bundle = mesh.control.ca.trust.bundle
        with pytest.raises(UntrustedRoot):
            verify_peer(before.svid.chain, bundle, expected=None, side=PeerSide.CLIENT, now=SystemClock().wall())
        assert [bundle_size(node) for node in (server, first, second)] == [1, 1, 1]


async def test_a_node_that_does_not_acknowledge_is_named_and_waited_for(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, Silent(mesh).connected() as sleeper:
        await mesh.rotate()
        status = await mesh.until_status(lambda status: phase(status) == "published" and bool(status.rotation.waiting))
        assert "sleeper" in status.rotation.waiting[0]
        assert status.rotation.waiting[0].endswith("has not acknowledged the new root")
        assert [(node.node, node.current) for node in status.nodes] == [("sleeper", False)]
        await asyncio.sleep(0.5)  # it does not advance by itself
        assert phase(await mesh.admin.status()) == "published"
        for _ in range(3):  # published, activated, retired
            await sleeper.acknowledge()
        await mesh.until_status(lambda status: phase(status) == "none")


async def test_each_phase_can_be_taken_back_and_survives_a_restart(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        signer, root = mesh.control.ca.authorities.signing.signer, mesh.control.ca.authorities.now.roots

        async def phases(*actions: "RotateRootRequest.Action") -> list[str]:
            return [phase(await mesh.rotate(action)) for action in actions]

        async with Silent(mesh).connected():  # never acknowledges: nothing goes on by itself
            await mesh.rotate()
            await mesh.until_status(lambda status: phase(status) == "published")
            assert len(mesh.control.ca.authorities.now.roots) == 2
            assert await phases(BACK) == ["prepared"]
            assert mesh.control.ca.authorities.now.roots == root
            assert (await mesh.admin.status()).rotation.paused
        await mesh.restart()
        status = await mesh.admin.status()
        assert (phase(status), status.rotation.paused) == ("prepared", True), "still taken back"
        assert await phases(BACK) == ["none"]
        async with Silent(mesh).connected():
            await mesh.rotate()
            await mesh.until_status(lambda status: phase(status) == "published")
            assert await phases(FORCE) == ["activated"]
            assert mesh.control.ca.authorities.signing.signer != signer
            assert await phases(BACK) == ["published"]
            assert mesh.control.ca.authorities.signing.signer == signer
        await mesh.restart()
        assert mesh.control.ca.authorities.signing.signer == signer
        assert len(mesh.control.ca.authorities.now.roots) == 2
        assert await phases(BACK, BACK) == ["prepared", "none"]
        assert mesh.control.ca.authorities.now.roots == root
        with pytest.raises(ControlRefused, match="no rotation is under way"):
            await mesh.rotate(BACK)
        await mesh.rotate()
        await mesh.restart()
        await mesh.until_status(lambda status: phase(status) == "none")
        assert mesh.control.ca.authorities.now.roots != root, "went on after the restart, to the end"


async def test_a_new_root_stays_in_the_bundles_while_something_that_it_signed_is_in_use(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, Silent(mesh).connected():
        await mesh.rotate()
        await mesh.until_status(lambda status: phase(status) == "published")
        await mesh.rotate(FORCE)
        await CaClient(mesh.endpoint, ttl_s=3600).fetch(spiffe("web", "one"))
        await mesh.rotate(BACK)
        with pytest.raises(ControlRefused, match="1 of the certificates that it signed are in use"):
            await mesh.rotate(BACK)
        assert phase(await mesh.admin.status()) == "published"


@pytest.mark.slow
async def test_a_mesh_whose_every_certificate_has_expired_is_recovered_by_one_command(tmp_path: Path) -> None:
    async with CaMesh(tmp_path, ttl_s=2, root_ttl_s=60, intermediate_ttl_s=60) as mesh, echo_app("127.0.2.1") as app:
        with pytest.raises(ControlRefused, match="the CA has not ended and can sign"):
            await mesh.rotate(RECOVER)
        await mesh.node("shop/cart", "127.0.2.1")
        client = await mesh.node("web/one", "127.0.2.2", to=str(app.address))
        await mesh.stop()
        _age(mesh)  # the root's end passes, and everything below it
        await mesh.start()
        assert any("--recover" in warning for warning in (await mesh.admin.status()).warnings)
        await mesh.until(lambda: all(view.failing for view in client.node.keeper.views()))
        status = await mesh.rotate(RECOVER)
        assert phase(status) == "none"

        async def works() -> bool:
            async with await client.connect() as tcp:
                try:
                    await tcp.send(b"hello")
                    return await tcp.exactly(5) == b"hello"
                except OSError:
                    return False

        async with asyncio.timeout(10):
            while not await works():  # noqa: ASYNC110 - renewals come when they come
                await asyncio.sleep(0.05)


def _age(mesh: CaMesh) -> None:
    """Put an authority that ended long ago in the place of the active one."""
    authority = aged_authority()
    assert authority.root_key is not None
    keys = FileKeys(mesh.state / "ca" / "keys")
    key_id, root_key_id = keys.take(authority.key), keys.take(authority.root_key)

    def pem(*certificates: x509.Certificate) -> str:
        return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)

    with sqlite3.connect(mesh.state / DATABASE) as database:
        database.execute(
            "UPDATE authorities SET key_id = ?, root_key_id = ?, signer = ?, chain = ?, roots = ?",
            (key_id, root_key_id, pem(authority.signer), pem(*authority.chain), pem(*authority.roots)),
        )
    database.close()


async def test_an_imported_intermediate_of_the_same_root_signs_at_once(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        own = mesh.control.ca.authorities.signing
        made = own.with_intermediate(new_key(), now=SystemClock().wall(), rng=system_rng())
        status = await mesh.admin.import_ca(ImportCaRequest(files=files_of(made)))
        assert [(one.number, one.state) for one in status.authorities] == [(1, "replaced"), (2, "active")]
        assert mesh.control.ca.authorities.signing.signer == made.signer
        with pytest.raises(ControlRefused, match="has that signing certificate already"):
            await mesh.admin.import_ca(ImportCaRequest(files=files_of(made)))
        await mesh.restart()
        assert mesh.control.ca.authorities.signing.signer == made.signer


async def test_an_imported_authority_of_another_root_comes_in_by_a_rotation(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        other = make_authority()
        await mesh.admin.import_ca(ImportCaRequest(files=files_of(other)))
        await mesh.until_status(lambda status: phase(status) == "none")
        assert mesh.control.ca.authorities.now.roots == other.roots
        view = mesh.state / "ca" / "root-cert.pem"
        await eventually(lambda: x509.load_pem_x509_certificates(view.read_bytes()) == list(other.roots))


async def test_files_that_are_no_ca_are_refused_with_every_problem(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        files = {**files_of(make_authority()), "ca-key.pem": files_of(make_authority())["ca-key.pem"]}
        with pytest.raises(ControlRefused, match="does not belong to the certificate"):
            await mesh.admin.import_ca(ImportCaRequest(files=files))
        assert phase(await mesh.admin.status()) == "none"
