"""Revocation in a whole mesh: handshakes refused, open tunnels cut, renewals denied; through restarts."""

import asyncio
import os
from pathlib import Path

import pytest
from cryptography import x509

from hbone.ca.csr import new_request
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused
from hbone.control.credentials import Credentials
from hbone.control.issue import CertificateRequest, NotEntitled
from hbone.errors import PeerRejected
from hbone.identity.revocation import key_hash
from hbone.identity.verify import PeerSide, Revoked, verify_peer
from hbone.net.clock import SystemClock
from hbone.proto.admin_pb2 import ListAuditRequest, ListCertificatesRequest, RestoreRequest, RevokeRequest
from tests.support.camesh import CaMesh, MeshNode, echo_app
from tests.support.controlplane import spiffe
from tests.support.tcp import Tcp

A, C = spiffe("web", "a"), spiffe("web", "c")
IN_FORCE_S = 2.0


async def talks(tcp: Tcp) -> bool:
    """Whether a question still gets its answer."""
    try:
        await tcp.send(b"are you there?")
        return await tcp.exactly(14) == b"are you there?"
    except OSError:
        return False


async def reaches(node: MeshNode) -> bool:
    async with await node.connect() as tcp:
        return await talks(tcp)


async def test_a_revoked_peers_streams_end_at_once_and_its_neighbours_go_on(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, echo_app("127.0.2.1") as app:
        server = await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address))
        c = await mesh.node("web/c", "127.0.2.3", to=str(app.address))
        streams = {node: await node.connect() for node in (a, c)}
        assert [await talks(tcp) for tcp in streams.values()] == [True, True]

        began = asyncio.get_running_loop().time()
        told = await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A), reason="keyCompromise"))
        assert (told.nodes, told.nodes_current, told.certificates) == (3, 3, 1)
        async with asyncio.timeout(IN_FORCE_S):
            assert await streams[a].ending() == "reset", "never a clean end"
        assert asyncio.get_running_loop().time() - began < IN_FORCE_S
        assert await talks(streams[c])
        assert await reaches(c)
        assert not await reaches(a)

        await mesh.until(lambda: any("revoked" in line for line in server.lines()))
        await mesh.until(lambda: any("revoked" in line for line in a.lines()))
        with pytest.raises(ControlRefused, match=f"UNAUTHENTICATED.*the identity {A} was revoked"):
            await CaClient(mesh.endpoint, ttl_s=60).fetch(A)
        await mesh.until(lambda: all("was revoked" in view.failing for view in a.node.keeper.views()))
        for tcp in streams.values():
            tcp.close()


async def test_a_revocation_holds_through_restarts_and_while_the_ca_is_down(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, echo_app("127.0.2.1") as app:
        server = await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address))
        assert await reaches(a)
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A)))
        await mesh.stop()
        assert not await reaches(a), "the CA is down"
        await mesh.start()
        assert not await reaches(a), "the CA was restarted"
        await server.stop()
        await server.start()
        assert not await reaches(a), "the server was restarted"
        with pytest.raises(ControlRefused, match="was revoked"):
            await CaClient(mesh.endpoint, ttl_s=60).fetch(A)


async def test_a_restored_identity_gets_new_certificates_and_the_old_ones_stay_revoked(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, echo_app("127.0.2.1") as app:
        await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address))
        old = await CaClient(mesh.endpoint, ttl_s=3600).fetch(A)
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A)))
        assert not await reaches(a)
        await mesh.admin.restore(RestoreRequest(spiffe_id=str(A)))
        async with asyncio.timeout(10):
            while not await reaches(a):  # noqa: ASYNC110 - it renews by itself within a second or two
                await asyncio.sleep(0.05)
        with pytest.raises(Revoked):
            judge(mesh, old.svid.chain)
        await mesh.restart()
        with pytest.raises(Revoked):
            judge(mesh, old.svid.chain)
        with pytest.raises(ControlRefused, match="is not revoked"):
            await mesh.admin.restore(RestoreRequest(spiffe_id=str(A)))


def judge(mesh: CaMesh, chain: tuple[x509.Certificate, ...]) -> None:
    bundle = mesh.control.ca.trust.bundle
    verify_peer(chain, bundle, expected=None, side=PeerSide.CLIENT, now=SystemClock().wall())


async def test_a_revoked_serial_number_takes_its_key_and_its_holders_renewals_along(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        holder = CaClient(mesh.endpoint, ttl_s=3600, holder="node-1")
        held, other = await holder.fetch(A), await CaClient(mesh.endpoint, ttl_s=3600, holder="node-2").fetch(A)
        await mesh.admin.revoke(RevokeRequest(serial=f"{held.svid.serial:x}", reason="keyCompromise"))
        with pytest.raises(Revoked, match="keyCompromise"):
            judge(mesh, held.svid.chain)
        judge(mesh, other.svid.chain)
        with pytest.raises(ControlRefused, match="an earlier certificate of this client was revoked"):
            await holder.fetch(A)
        await holder.fetch(C)  # another identity of the same client
        await CaClient(mesh.endpoint, ttl_s=3600, holder="node-2").fetch(A)
        again = mesh.control.ca.authorities.signing.issue(
            held.svid.key.public_key(), A, ttl_s=60, now=SystemClock().wall(), serial=4711
        )
        with pytest.raises(Revoked, match="the key"):
            judge(mesh, again.chain)
        await renewal_with_the_same_key_is_refused(mesh, held)


async def test_a_holders_renewals_stay_refused_after_a_restart_whatever_it_calls_itself(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        names = ("this process", "50% _off_", "x" * 64)
        for name in names:
            holder = CaClient(mesh.endpoint, ttl_s=3600, holder=name)
            held = await holder.fetch(A)
            await mesh.admin.revoke(RevokeRequest(serial=f"{held.svid.serial:x}"))
        await mesh.restart()
        for name in names:
            with pytest.raises(ControlRefused, match="an earlier certificate of this client was revoked"):
                await CaClient(mesh.endpoint, ttl_s=3600, holder=name).fetch(A)
        await mesh.admin.restore(RestoreRequest(spiffe_id=str(A)))
        await mesh.restart()
        for name in names:
            await CaClient(mesh.endpoint, ttl_s=3600, holder=name).fetch(A)


async def renewal_with_the_same_key_is_refused(mesh: CaMesh, held: Credentials) -> None:
    request = CertificateRequest(csr=new_request(held.svid.key, A), impersonated=str(A))
    with pytest.raises(NotEntitled, match=f"the key {key_hash(held.svid.leaf).hex()} was revoked"):
        await mesh.control.issuer.issue(request, caller="test", refusal=lambda _: "")


async def test_a_key_is_revoked_by_its_hash_whoever_signed_for_it(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        held = await CaClient(mesh.endpoint, ttl_s=3600).fetch(A)
        text = "SHA256:" + ":".join(f"{byte:02X}" for byte in key_hash(held.svid.leaf))
        told = await mesh.admin.revoke(RevokeRequest(key_sha256=text))
        assert told.certificates == 1
        with pytest.raises(Revoked):
            judge(mesh, held.svid.chain)


NOTHING = [
    (RevokeRequest(), "nothing to revoke was named"),
    (RevokeRequest(serial="77"), "has issued no certificate with serial number 77"),
    (RevokeRequest(serial="0"), "0 is not a serial number"),
    (RevokeRequest(serial="f" * 60), "is not a serial number"),
    (RevokeRequest(serial="hello"), "'hello' is no serial number"),
    (RevokeRequest(key_sha256="abcd"), "is no SHA-256 of a public key"),
    (RevokeRequest(key_sha256="x" * 64), "is no SHA-256 of a public key"),
    (RevokeRequest(spiffe_id="shop/cart"), "is not a SPIFFE ID"),
    (RevokeRequest(spiffe_id=str(A), reason="boredom"), "'boredom' is no reason for a revocation"),
]


@pytest.mark.parametrize(("request_", "words"), NOTHING)
async def test_what_cannot_be_revoked_is_refused_in_words(tmp_path: Path, request_: RevokeRequest, words: str) -> None:
    async with CaMesh(tmp_path) as mesh:
        with pytest.raises(ControlRefused, match=words) as caught:
            await mesh.admin.revoke(request_)
        assert caught.value.code == "INVALID_ARGUMENT"


async def test_a_stranger_may_not_administer_the_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbone.control.attest_unix.ROOT_UID", -1)  # tests may run as root
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    async with CaMesh(tmp_path) as mesh:
        for call in (mesh.admin.status(), mesh.admin.bundle(), mesh.admin.revoke(RevokeRequest(serial="1"))):
            with pytest.raises(ControlRefused, match=r"PERMISSION_DENIED.*may not administer the CA"):
                await call


async def test_certificates_are_listed_with_their_state_and_everything_is_in_the_audit_log(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        client = CaClient(mesh.endpoint, ttl_s=3600, holder="node-1")
        serials = [(await client.fetch(one)).svid.serial for one in (A, A, C)]
        await mesh.admin.revoke(RevokeRequest(serial=f"{serials[2]:x}", reason="superseded"))

        async def listed(**wanted: object) -> list[tuple[str, str]]:
            request = ListCertificatesRequest(**wanted)  # type: ignore[arg-type]  # its fields
            pages = [page async for page in mesh.admin.certificates(request)]
            return [(one.serial, one.state) for page in pages for one in page.certificates]

        first, second, third = (f"{serial:x}" for serial in serials)
        assert await listed() == [(third, "revoked"), (second, "in use"), (first, "superseded")]
        assert await listed(spiffe_id=str(A), limit=1) == [(second, "in use")]
        assert await listed(revoked_only=True) == [(third, "revoked")]
        pages = [page async for page in mesh.admin.audit(ListAuditRequest())]
        events = [line.line.split('"')[3] for page in pages for line in page.lines]
        assert events == ["ca created", "issued", "issued", "issued", "revoked"]
        assert pages[-1].first_fault == 0


async def test_the_list_that_others_read_is_signed_and_has_what_has_not_ended(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        short, long = [await CaClient(mesh.endpoint, ttl_s=ttl_s).fetch(A) for ttl_s in (1, 3600)]
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A)))
        await asyncio.sleep(max(0.0, short.svid.not_after - SystemClock().wall()) + 0.1)  # its end
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(C)))
        bundle = await mesh.admin.bundle()
        crls = [x509.load_der_x509_crl(der) for der in bundle.crls]
        authority = mesh.control.ca.authorities.signing
        assert [crl.issuer for crl in crls] == [authority.signer.subject, authority.own_root.subject]
        assert crls[0].is_signature_valid(authority.signer.public_key())  # type: ignore[arg-type]  # P-256
        assert [entry.serial_number for entry in crls[0]] == [long.svid.serial]


async def test_a_peer_that_is_revoked_during_the_handshake_gets_no_tunnel(tmp_path: Path) -> None:
    from hbone.proxy.trusting import distrust

    async with CaMesh(tmp_path) as mesh, echo_app("127.0.2.1") as app:
        server = await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address))
        assert await reaches(a)
        (tunnel,) = a.node.dataplane.pool.tunnels()
        assert distrust(tunnel.link.tls, mesh.control.ca.trust.bundle) is None
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(spiffe("shop", "b"))))
        error = distrust(tunnel.link.tls, mesh.control.ca.trust.bundle)
        assert isinstance(error, PeerRejected)
        assert "is revoked" in str(error)
        await mesh.until(lambda: not list(a.node.dataplane.pool.tunnels()))
        assert not await reaches(a)
        assert server.node.dataplane.inbound.tunnels() == ()
