"""A mesh gets another trust domain: by overlap, under traffic, with nothing restarted but the control plane."""

import asyncio
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.app.place import Place
from hbone.app.tokens import Wanted, desk
from hbone.config.refs import AccountRef
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, UnixEndpoint
from hbone.control.join import Member, Membership, enrol
from hbone.control.tokens import JoinToken
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.identity.verify import ForeignTrustDomain, PeerSide, verify_peer
from hbone.net.clock import SystemClock
from hbone.proto.admin_pb2 import RestoreRequest, RevokeRequest
from hbone.proto.workloadapi_grpc import SpiffeWorkloadAPIStub
from hbone.proto.workloadapi_pb2 import X509BundlesRequest
from tests.support.camesh import CaMesh, Load, MeshNode, echo_app
from tests.support.federated import Town
from tests.support.pki import SpiffeCA

OLD, NEW = TrustDomain("old.test"), TrustDomain("new.test")


def named(domain: str, account: str = "web/web") -> SpiffeId:
    namespace, _, name = account.partition("/")
    return SpiffeId.for_workload(domain, namespace, name)


async def all_current(mesh: CaMesh, nodes: int) -> None:
    await mesh.until_status(lambda status: len(status.nodes) == nodes and all(one.current for one in status.nodes))


async def until_seen(mesh: CaMesh, server: MeshNode, source: SpiffeId) -> None:
    before = len(server.lines())
    await mesh.until(lambda: any(f'src.identity="{source}"' in line for line in server.lines()[before:]))


async def until_certified(mesh: CaMesh, node: MeshNode, identity: SpiffeId) -> None:
    """It has its certificate under that name: before the other name goes, an operator asks `hbone cert list`."""
    await mesh.until(lambda: any(one.spiffe_id == identity and one.serial for one in node.node.keeper.views()))


async def reached(node: MeshNode) -> bool:
    try:
        async with await node.connect() as tcp:
            await tcp.send(b"hello")
            return await tcp.exactly(5) == b"hello"
    except (OSError, TimeoutError):
        return False


@pytest.mark.slow
async def test_a_mesh_is_renamed_by_overlap_and_not_one_request_fails(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.94.1") as app:
        mesh = await town.mesh(OLD)
        mesh.allow("shop", f"{OLD}/ns/web/sa/web")
        server = await mesh.node("shop/cart", "127.0.94.1")
        client = await mesh.node("web/web", "127.0.94.2", to=str(app.address))
        stranger = await mesh.node("web/other", "127.0.94.3", to=str(app.address))
        await mesh.until(lambda: bool(client.node.store.workload_at("", app.address.ip)))
        held = await client.connect()
        async with Load(client) as load:
            await until_seen(mesh, server, named(OLD))
            await mesh.restart(trust_domain_aliases=[NEW])
            await all_current(mesh, 3)
            await mesh.restart(trust_domain=NEW, trust_domain_aliases=[OLD])
            await all_current(mesh, 3)
            await until_seen(mesh, server, named(NEW))
            assert not await reached(stranger), "the policy holds under every name"
            # an old name is as good as the new one, until the alias goes
            old = await CaClient(mesh.endpoint, ttl_s=60).fetch(named(OLD))
            judge(mesh, old.svid.chain)
            await held.send(b"still here")
            assert await held.exactly(10) == b"still here"
            mesh.allow("shop", f"{NEW}/ns/web/sa/web")
            await until_certified(mesh, server, named(NEW, "shop/cart"))
            await mesh.restart(trust_domain_aliases=[])
            await all_current(mesh, 3)
            done = load.done
            await mesh.until(lambda: load.done > done + 20)
        assert load.failures == []
        assert load.done > 30
        assert await held.ending() == "reset", "a name that is no more ends what was opened under it"
        held.close()
        with pytest.raises(ForeignTrustDomain):
            judge(mesh, old.svid.chain)
        with pytest.raises(ControlRefused, match=f"not of this mesh, whose trust domain is {NEW}"):
            await CaClient(mesh.endpoint, ttl_s=60).fetch(named(OLD))
        assert not await reached(stranger)


def judge(mesh: CaMesh, chain: tuple[object, ...]) -> None:
    bundle = mesh.control.ca.trust.everybody
    verify_peer(chain, bundle, expected=None, side=PeerSide.CLIENT, now=SystemClock().wall())  # type: ignore[arg-type]


async def test_those_who_federate_with_a_mesh_do_not_notice_that_it_is_renamed(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.94.1") as app:
        mesh = await town.mesh(OLD, listeners={"bundles": "127.0.0.1:0"}, bundle_endpoint={"refresh_hint_s": 1})
        server = await mesh.node("shop/cart", "127.0.94.1")
        other = await town.mesh("west.test")
        other.serve_from(mesh, server, "cart.test", app.port)
        client = await other.node("web/web", "127.0.95.1", to="cart.test:80")
        address = mesh.control.bundles.address
        partner = {"trust_domain": OLD, "url": f"https://{address}/", "bundle": mesh.bundle_file()}
        await mesh.restart(
            federation=[{"trust_domain": "west.test", "bundle": other.bundle_file()}],
            listeners={"bundles": str(address)},
        )
        await other.restart(federation=[{**partner, "trust_domain_aliases": [NEW]}])
        async with asyncio.timeout(15):
            while not await reached(client):  # noqa: ASYNC110 - until both have heard of each other
                await asyncio.sleep(0.05)
        async with Load(client) as load:
            await mesh.restart(trust_domain_aliases=[NEW])
            await all_current(mesh, 1)
            await mesh.restart(trust_domain=NEW, trust_domain_aliases=[OLD])
            await all_current(mesh, 1)
            before, view = other.control.ca.place.clock.wall(), other.control.federation.views
            other.control.federation.refresh()  # the endpoint shows the new name now
            await mesh.until(lambda: (view()[0].looked_at or 0) > before and not view()[0].error)
            # the partner takes the new name while both are good
            await other.change(federation=[{**partner, "trust_domain": NEW, "trust_domain_aliases": [OLD]}])
            await all_current(other, 1)
            other.serve_from(mesh, server, "cart.test", app.port)
            cart = named(NEW, "shop/cart")
            await mesh.until(lambda: any(cart in one.identities for one in client.node.store.services()))
            await until_certified(mesh, server, cart)
            await mesh.restart(trust_domain_aliases=[])
            await all_current(mesh, 1)
            await other.change(federation=[{**partner, "trust_domain": NEW}])
            await all_current(other, 1)
            seen = f'dst.identity="{cart}"'
            await mesh.until(lambda: any(seen in line for line in server.lines()))
            done = load.done
            await mesh.until(lambda: load.done > done + 20)
        assert load.failures == []


async def test_processes_beside_a_node_are_told_whom_to_trust_through_a_rename(tmp_path: Path) -> None:
    theirs, socket = tmp_path / "y.pem", tmp_path / "workload.sock"
    theirs.write_bytes(SpiffeCA(name="y").cert.public_bytes(Encoding.PEM))
    async with Town(tmp_path) as town:
        mesh = await town.mesh(OLD, trust_domain_aliases=[NEW])
        attest = [{"as": "web/web", "uid": os.geteuid()}]
        await mesh.node("web/web", "127.0.94.2", workload_socket=socket, attest=attest)
        partner = {"trust_domain": "y.test", "bundle": theirs}
        await mesh.restart(trust_domain=NEW, trust_domain_aliases=[OLD], federation=[partner])
        await all_current(mesh, 1)
        channel = UnixEndpoint(socket).channel()
        try:
            stub = SpiffeWorkloadAPIStub(channel)
            async with stub.FetchX509Bundles.open(metadata={"workload.spiffe.io": "true"}, timeout=10) as stream:
                await stream.send_message(X509BundlesRequest(), end=True)
                told = await stream.recv_message()
                await stream.cancel()
        finally:
            channel.close()
        assert told is not None
        assert set(told.bundles) == {"spiffe://old.test", "spiffe://new.test", "spiffe://y.test"}


async def test_a_stream_outlives_the_name_it_was_opened_under_and_its_tunnel_takes_no_new_one(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.94.1") as app:
        mesh = await town.mesh(OLD, trust_domain_aliases=[NEW])
        server = await mesh.node("shop/cart", "127.0.94.1")
        client = await mesh.node("web/web", "127.0.94.2", to=str(app.address))
        await mesh.until(lambda: bool(client.node.store.workload_at("", app.address.ip)))
        async with await client.connect() as held:
            await held.send(b"before")
            assert await held.exactly(6) == b"before"
            await mesh.restart(trust_domain=NEW, trust_domain_aliases=[])
            await all_current(mesh, 2)
            inbound = server.node.dataplane.inbound
            await mesh.until(lambda: all(one.draining for one in inbound.tunnels() if OLD in one.peer_identity))
            await held.send(b"after")
            assert await held.exactly(5) == b"after"
            assert await reached(client)
            names = {one.peer_identity for one in inbound.tunnels()}
            assert names == {str(named(OLD)), str(named(NEW))}
        await mesh.until(lambda: {one.peer_identity for one in inbound.tunnels()} == {str(named(NEW))})


async def test_a_machine_that_joined_stays_a_member_through_a_rename_and_takes_the_new_name(tmp_path: Path) -> None:
    clock, directory = SystemClock(), tmp_path / "vm"
    async with Town(tmp_path) as town:
        mesh = await town.mesh(OLD, listeners={"control_tls": "127.0.0.1:0"})
        listener = mesh.control.doors.listener
        assert listener is not None
        place = Place(environment={}, state_dir=mesh.state)
        wanted = Wanted(account=AccountRef("web", "web"), node="", ttl_s=60)
        token = JoinToken.parse((await desk(place).create(wanted)).token)
        member = await enrol(token, directory, clock, ttl_s=3600)
        for names in ((OLD, [NEW]), (NEW, [OLD])):
            listeners = {"control_tls": str(listener.address)}
            await mesh.restart(trust_domain=names[0], trust_domain_aliases=names[1], listeners=listeners)
            member.trust(mesh.control.ca.trust.everybody)  # as its node does
            assert member.svid.spiffe_id == named(OLD)
            await member.fetch(named(OLD))
            assert (await member.fetch(named(OLD))).svid.spiffe_id == named(OLD)
        again = Member.load(directory, clock)
        assert again is not None
        await again.take_name()
        assert again.membership.identity == again.svid.spiffe_id == named(NEW)
        await mesh.restart(trust_domain_aliases=[])
        again.trust(mesh.control.ca.trust.everybody)
        await again.fetch(named(NEW))
        assert (await again.fetch(named(NEW))).svid.spiffe_id == named(NEW)
        last = Member.load(directory, clock)
        assert last is not None
        assert last.membership == Membership(address=token.address, identity=named(NEW), called=DomainNames(NEW))
        with pytest.raises(ControlRefused, match=f"no roots for trust domain {OLD}"):
            await member.fetch(named(OLD))


async def test_without_an_alias_the_former_name_is_a_foreign_trust_domain(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.94.1") as app:
        mesh = await town.mesh(OLD)
        await mesh.node("shop/cart", "127.0.94.1")
        client = await mesh.node("web/web", "127.0.94.2", to=str(app.address))
        await mesh.until(lambda: bool(client.node.store.workload_at("", app.address.ip)))
        old = await CaClient(mesh.endpoint, ttl_s=60).fetch(named(OLD))
        assert await reached(client)
        await mesh.restart(trust_domain=NEW)
        with pytest.raises(ForeignTrustDomain):
            judge(mesh, old.svid.chain)
        async with asyncio.timeout(15):
            while await reached(client):  # noqa: ASYNC110 - until the nodes have heard of it
                await asyncio.sleep(0.05)


async def test_a_revocation_holds_under_every_name_and_through_a_rename(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        mesh = await town.mesh(OLD)
        old = await CaClient(mesh.endpoint, ttl_s=600).fetch(named(OLD))
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(named(OLD))))
        await mesh.restart(trust_domain=NEW, trust_domain_aliases=[OLD])
        assert mesh.control.ca.trust.current.revocations.is_revoked(old.svid.chain)
        for name in (OLD, NEW):
            with pytest.raises(ControlRefused, match="was revoked"):
                await CaClient(mesh.endpoint, ttl_s=60).fetch(named(name))
        await mesh.admin.restore(RestoreRequest(spiffe_id=str(named(NEW))))
        for name in (OLD, NEW):
            await CaClient(mesh.endpoint, ttl_s=60).fetch(named(name))
        assert mesh.control.ca.trust.current.revocations.is_revoked(old.svid.chain), "the one from before stays revoked"
        # and the other way round: revoked by the new name, refused under the old one
        told = await mesh.admin.revoke(RevokeRequest(spiffe_id=str(named(NEW))))
        assert told.certificates == 2
        with pytest.raises(ControlRefused, match="was revoked"):
            await CaClient(mesh.endpoint, ttl_s=60).fetch(named(OLD))


async def test_policies_for_the_whole_mesh_are_in_the_namespace_that_was_named(tmp_path: Path) -> None:
    async with Town(tmp_path) as town, echo_app("127.0.94.1") as app:
        mesh = await town.mesh(OLD, root_namespace="platform")
        await mesh.node("shop/cart", "127.0.94.1")
        client = await mesh.node("web/web", "127.0.94.2", to=str(app.address))
        await mesh.until(lambda: bool(client.node.store.workload_at("", app.address.ip)))
        assert await reached(client)
        mesh.allow("istio-system", f"{OLD}/ns/nobody/sa/nobody")  # just another namespace
        mesh.allow("platform", f"{OLD}/ns/nobody/sa/nobody")
        async with asyncio.timeout(15):
            while await reached(client):  # noqa: ASYNC110 - until the manifests were read
                await asyncio.sleep(0.05)
        mesh.allow("platform", f"{OLD}/ns/web/sa/web")
        async with asyncio.timeout(15):
            while not await reached(client):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
