"""JWT-SVIDs on nodes: signed by the control plane for whom it places there, kept on the node while that is away."""

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from hbone.addr import parse_ip
from hbone.app.place import Place
from hbone.app.tokens import Wanted, desk
from hbone.config.refs import AccountRef
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, Endpoint, calling
from hbone.control.join import Member, enrol
from hbone.control.jwt_client import JwtClient
from hbone.control.jwt_source import RATE, JwtSvids
from hbone.control.jwt_svid import MAX_AUDIENCES, JwtKeys
from hbone.control.nodes import node_identity
from hbone.control.rpc import Refusal
from hbone.control.tokens import JoinToken, TokenWish
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.identity.bundle import BundleDocument
from hbone.identity.jws import parse_token
from hbone.identity.revocation import Revocations, RevokedIdentity
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import SystemClock
from hbone.proto.admin_pb2 import ListAuditRequest, RestoreRequest, RevokeRequest
from hbone.proto.jwt_grpc import JwtSvidsStub
from hbone.proto.jwt_pb2 import MintJwtRequest
from hbone.proto.workloadapi_grpc import SpiffeWorkloadAPIStub
from hbone.proto.workloadapi_pb2 import JWTBundlesRequest, JWTSVIDRequest, ValidateJWTSVIDRequest
from tests.support.camesh import CaMesh
from tests.support.controlplane import DOMAIN, FakeClock, spiffe
from tests.support.pki import SpiffeCA, new_key
from tests.support.remote import remote

WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
NODE = node_identity(DOMAIN, "vm-7")
HEADER = {"workload.spiffe.io": "true"}
US = os.geteuid()


def mesh_of(directory: Path, **settings: Any) -> CaMesh:
    return CaMesh(directory, listeners={"control_tls": "127.0.0.1:0"}, **settings)


def place(mesh: CaMesh, identity: SpiffeId, node: str) -> None:
    """A workload of this identity on a node."""
    namespace, name = identity.workload or ("", "")
    workload = Workload(
        uid=f"test//Pod/{namespace}/{name}",
        name=name,
        namespace=namespace,
        service_account=name,
        node=node,
        addresses=(parse_ip("127.0.93.1"),),
    )
    mesh.control.mesh.apply(Update(workloads=(workload,)), Source.MANIFESTS)


async def credential(mesh: CaMesh, *, node: str = "", account: AccountRef | None = None) -> JoinToken:
    wanted = Wanted(account=account, node=node, ttl_s=60)
    return JoinToken.parse((await desk(Place(environment={}, state_dir=mesh.state)).create(wanted)).token)


async def joined(mesh: CaMesh, directory: Path) -> Member:
    """The machine vm-7, a member of the mesh."""
    return await enrol(await credential(mesh, node="vm-7"), directory, SystemClock(), ttl_s=3600)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(ControlRefused) as caught:
        await call
    return caught.value.code, caught.value.why


def claims(token: str) -> dict[str, Any]:
    return dict(parse_token(token).claims)


async def audited(mesh: CaMesh) -> list[dict[str, Any]]:
    """What the audit log has about tokens."""
    found: list[dict[str, Any]] = []
    async for page in mesh.admin.audit(ListAuditRequest()):
        found += [json.loads(one.line) for one in page.lines]
    return [one for one in found if one["event"] == "jwt issued"]


# --- who may have which -------------------------------------------------------------------------------------------


async def test_a_node_gets_tokens_of_what_is_placed_on_it_and_of_itself_and_of_nobody_else(tmp_path: Path) -> None:
    async with mesh_of(tmp_path / "mesh") as mesh:
        client = JwtClient((await joined(mesh, tmp_path / "vm")).endpoint)
        assert await refused(client.mint(WEB, ["db"])) == (
            "PERMISSION_DENIED",
            f"PERMISSION_DENIED: no JWT-SVID for {WEB}: no workload of {WEB} is placed on node vm-7; "
            "ask as one who may have its certificate",
        )
        place(mesh, WEB, "vm-7")
        place(mesh, DB, "vm-8")
        assert claims(await client.mint(WEB, ["db"]))["sub"] == str(WEB)
        assert claims(await client.mint(NODE, ["db"]))["sub"] == str(NODE)
        foreign = (DB, spiffe("hbone-system", "control"), SpiffeId.for_workload(TrustDomain("x.test"), "shop", "web"))
        for identity in foreign:
            assert (await refused(client.mint(identity, ["db"])))[0] == "PERMISSION_DENIED"
        place(mesh, WEB, "vm-8")
        assert (await refused(client.mint(WEB, ["db"])))[0] == "PERMISSION_DENIED"


async def test_what_was_revoked_has_no_token_until_it_is_restored(tmp_path: Path) -> None:
    async with mesh_of(tmp_path / "mesh") as mesh:
        client = JwtClient((await joined(mesh, tmp_path / "vm")).endpoint)
        place(mesh, WEB, "vm-7")
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(WEB)))
        code, why = await refused(client.mint(WEB, ["db"]))
        assert code == "PERMISSION_DENIED"
        assert f"the identity {WEB} was revoked" in why
        await mesh.admin.restore(RestoreRequest(spiffe_id=str(WEB)))
        await client.mint(WEB, ["db"])
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(NODE)))  # the machine itself
        with pytest.raises(Exception, match=r"revoked|closed|failed|refused"):
            await client.mint(WEB, ["db"])


@pytest.mark.parametrize(
    "audience", [[], [""], [str(number) for number in range(MAX_AUDIENCES + 1)], ["x" * 5000]], ids=repr
)
async def test_a_token_for_nobody_or_for_too_many_is_refused(audience: list[str], tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        code, why = await refused(JwtClient(mesh.endpoint).mint(WEB, audience))
        assert code == "INVALID_ARGUMENT"
        assert "audiences" in why
        assert await audited(mesh) == []


@pytest.mark.parametrize("name", ["", "nonsense", "https://x", "spiffe://"])
async def test_an_identity_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        with pytest.raises(ControlRefused, match="INVALID_ARGUMENT"):
            async with calling(mesh.endpoint) as channel:
                await JwtSvidsStub(channel).Mint(MintJwtRequest(spiffe_id=name, audiences=["db"]))


async def test_a_join_token_is_good_for_a_certificate_and_nothing_else(tmp_path: Path) -> None:
    async with mesh_of(tmp_path / "mesh") as mesh:
        member = await joined(mesh, tmp_path / "vm")
        token = await credential(mesh, account=AccountRef("shop", "web"))
        code, why = await refused(JwtClient(_showing(member, token.credential)).mint(WEB, ["db"]))
        assert code == "PERMISSION_DENIED"
        assert "may have a certificate and nothing else" in why
        assert (await refused(JwtClient(_showing(member, "")).mint(WEB, ["db"])))[0] == "UNAUTHENTICATED"


def _showing(member: Member, credential: str) -> Endpoint:
    """The control plane, shown this instead of a certificate."""
    return replace(member.endpoint, certificate=None, authorization=(lambda: credential) if credential else None)


async def test_who_asks_for_too_many_tokens_is_slowed_down_and_still_gets_certificates(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, certificate_rate="0.001/s burst 3") as mesh:
        client = JwtClient(mesh.endpoint)
        for _ in range(3):
            await client.mint(WEB, ["db"])
        code, why = await refused(client.mint(WEB, ["db"]))
        assert code == "RESOURCE_EXHAUSTED"
        assert "asks for too many JWT-SVIDs" in why
        await CaClient(mesh.endpoint, ttl_s=60).fetch(WEB)


async def test_each_token_is_in_the_audit_log_and_itself_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh_of(tmp_path / "mesh") as mesh:
        member = await joined(mesh, tmp_path / "vm")
        place(mesh, WEB, "vm-7")
        with caplog.at_level(logging.DEBUG):
            token = await JwtSvids(JwtClient(member.endpoint), SystemClock()).get(WEB, ["db", "cache"])
        (line,) = await audited(mesh)
        assert line["spiffe_id"] == str(WEB)
        assert line["audience"] == "db, cache"
        assert line["not_after"] == claims(token)["exp"]
        assert line["caller"].startswith(f"{NODE} by certificate, from 127.0.0.1:")
        signature = token.rpartition(".")[2]
        assert "JWT-SVID issued" in caplog.text
        assert signature not in caplog.text
        assert signature not in mesh.control.journal_path.read_text()


async def test_tokens_last_as_long_as_the_control_plane_says_and_no_longer_than_an_hour(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, jwt_svid_ttl_s=7) as mesh:
        client = JwtClient(mesh.endpoint)
        found = claims(await client.mint(WEB, ["db"]))
        assert found["exp"] - found["iat"] == 7
        await mesh.change(jwt_svid_ttl_s=3600)
        found = claims(await client.mint(WEB, ["db"]))
        assert found["exp"] - found["iat"] == 3600
        with pytest.raises(ValueError, match="less than or equal to 3600"):
            await mesh.change(jwt_svid_ttl_s=3601)


# --- what is kept -------------------------------------------------------------------------------------------------


class Counted:
    """A client that counts its calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = JwtClient(endpoint)
        self.calls = 0

    async def mint(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        self.calls += 1
        return await self._client.mint(identity, audience)


class Kept:
    """What a node has of tokens, on a clock that the test moves."""

    def __init__(self, mesh: CaMesh) -> None:
        self.clock = FakeClock(wall=time.time())
        self.client = Counted(mesh.endpoint)
        self.svids = JwtSvids(self.client, self.clock)

    async def get(self, *audience: str, identity: SpiffeId = WEB) -> str:
        return await self.svids.get(identity, audience or ("db",))

    async def refusal(self, *audience: str) -> Status:
        with pytest.raises(Refusal) as caught:
            await self.get(*audience)
        return caught.value.code


async def test_a_token_is_asked_for_once_and_again_when_half_of_its_life_is_spent(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        first = await node.get("db", "cache")
        assert await node.get("cache", "db") == first
        assert await node.get("db") != first
        assert await node.get("db", "cache", identity=DB) != first
        assert node.client.calls == 3
        node.clock.advance(149)
        assert await node.get("db", "cache") == first
        node.clock.advance(2)
        assert await node.get("db", "cache") != first
        assert node.client.calls == 4


async def test_many_who_ask_at_one_moment_cost_one_call(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        assert len(set(await asyncio.gather(*(node.get() for _ in range(50))))) == 1
        assert node.client.calls == 1


async def test_while_the_control_plane_is_away_a_token_serves_until_it_ends(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        token = await node.get()
        await mesh.stop()
        assert await node.refusal("another audience") is Status.UNAVAILABLE
        for _ in range(3):
            node.clock.advance(90)
            assert await node.get() == token
        calls = node.client.calls
        assert [await node.get() for _ in range(100)] == [token] * 100
        assert node.client.calls <= calls + 1, "who is away is not asked for each of them"
        node.clock.advance(31)
        assert await node.refusal() is Status.UNAVAILABLE
        await mesh.start()
        node.clock.at += 2
        node.clock.wall_at -= 100
        assert await node.get() != token


async def test_a_refusal_ends_what_was_kept(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        await node.get()
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(WEB)))
        node.clock.advance(160)
        assert await node.refusal() is Status.PERMISSION_DENIED
        await mesh.stop()
        assert await node.refusal() is Status.UNAVAILABLE, "the kept one must not come back"


async def test_what_is_revoked_or_forgotten_is_served_no_more(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        await node.get()
        await node.get(identity=DB)
        await mesh.stop()
        node.svids.trust_changed(Revocations(identities={WEB: RevokedIdentity()}))
        assert await node.refusal() is Status.UNAVAILABLE
        await node.get(identity=DB)
        node.svids.forget(DB)
        with pytest.raises(Refusal):
            await node.get(identity=DB)


async def test_one_identity_asks_for_so_many_tokens_and_takes_nothing_from_others(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as mesh:
        node = Kept(mesh)
        first = await node.get()
        for number in range(RATE.burst - 1):
            await node.get(str(number))
        assert await node.refusal("one more") is Status.RESOURCE_EXHAUSTED
        await node.get(identity=DB)
        node.clock.advance(1)
        assert await node.get("one more") != first


async def test_a_control_plane_that_signs_no_tokens_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:  # as an istiod: there is no such method
        token, _ = await up.tokens.create(TokenWish(identity=NODE))
        svid = (await CaClient(up.endpoint(credential=token.credential), ttl_s=600).fetch(NODE)).svid
        svids = JwtSvids(JwtClient(up.endpoint(svid=svid)), SystemClock())
        with pytest.raises(Refusal, match="not signed by this node's control plane") as caught:
            await svids.get(NODE, ["db"])
        assert caught.value.code is Status.UNIMPLEMENTED


# --- a node -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def api(socket: Path) -> AsyncGenerator[SpiffeWorkloadAPIStub]:
    channel = Channel(path=str(socket))
    try:
        yield SpiffeWorkloadAPIStub(channel)
    finally:
        channel.close()


async def told(stream: Any) -> set[str]:
    response = await stream.recv_message()
    assert response is not None
    return set(response.bundles)


def foreign_bundle(path: Path) -> dict[str, Any]:
    """A partner with keys of both kinds, as a file."""
    keys = JwtKeys.of(TrustDomain("y.test"), new_key()).known
    path.write_text(BundleDocument(roots=(SpiffeCA(name="y").cert,), jwt_keys=keys).to_json())
    return {"trust_domain": "y.test", "bundle": path}


async def test_processes_of_a_node_fetch_validate_and_follow_the_keys_of_tokens(tmp_path: Path) -> None:
    socket = tmp_path / "w.sock"
    async with mesh_of(tmp_path / "mesh") as mesh:
        attest = [{"as": "web/web", "uid": US}]
        await mesh.node("web/web", "127.0.93.2", workload_socket=socket, attest=attest)
        identity = SpiffeId.for_workload(DOMAIN, "web", "web")
        async with (
            api(socket) as stub,
            asyncio.timeout(15),
            stub.FetchJWTBundles.open(metadata=HEADER) as bundles,
        ):
            (svid,) = (await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)).svids
            assert svid.spiffe_id == str(identity)
            good = ValidateJWTSVIDRequest(audience="db", svid=svid.svid)
            assert (await stub.ValidateJWTSVID(good, metadata=HEADER)).spiffe_id == str(identity)
            other = ValidateJWTSVIDRequest(audience="other", svid=svid.svid)
            with pytest.raises(GRPCError, match="not for other"):
                await stub.ValidateJWTSVID(other, metadata=HEADER)
            await bundles.send_message(JWTBundlesRequest(), end=True)
            assert await told(bundles) == {f"spiffe://{DOMAIN}"}
            await mesh.change(federation=[foreign_bundle(tmp_path / "y.json")])
            assert await told(bundles) == {f"spiffe://{DOMAIN}", "spiffe://y.test"}
            await mesh.change(federation=[])
            assert await told(bundles) == {f"spiffe://{DOMAIN}"}
            await mesh.stop()
            again = await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)
            assert again.svids[0].svid == svid.svid
            assert (await stub.ValidateJWTSVID(good, metadata=HEADER)).spiffe_id == str(identity)
            with pytest.raises(GRPCError) as caught:
                await stub.FetchJWTSVID(JWTSVIDRequest(audience=["cache"]), metadata=HEADER)
            assert caught.value.status is Status.UNAVAILABLE
            await mesh.start()
            await mesh.until_status(lambda status: any(one.current for one in status.nodes))
            await mesh.admin.revoke(RevokeRequest(spiffe_id=str(identity)))
            with pytest.raises(GRPCError, match="was revoked"):
                await stub.ValidateJWTSVID(good, metadata=HEADER)
            with pytest.raises(GRPCError) as caught:
                await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)
            assert caught.value.status is Status.PERMISSION_DENIED
            await bundles.cancel()
