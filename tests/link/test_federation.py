"""Control planes that exchange their bundles over real TLS, and what an endpoint that goes wrong can do."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hbone.addr import SocketAddress
from hbone.config.urls import HttpsUrl
from hbone.control.bundle_fetch import SpiffeEndpoint, fetch
from hbone.control.caplane import DATABASE
from hbone.control.channel import ControlRefused
from hbone.control.federation import FederatedView
from hbone.control.nodes import control_identity
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.bundle import BundleDocument, TrustBundle
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock
from hbone.proto.admin_pb2 import RotateRootRequest
from hbone.proto.sds_grpc import SecretDiscoveryServiceStub
from hbone.proto.secret_pb2 import Secret
from hbone.proto.sotw_pb2 import DiscoveryRequest
from tests.support.bundleserver import BundleServer, bundle_server, context_of, raw, saying
from tests.support.camesh import CaMesh
from tests.support.pki import SpiffeCA

X, Y = TrustDomain("x.test"), TrustDomain("y.test")
LISTEN = {"listeners": {"bundles": "127.0.0.1:0"}, "bundle_endpoint": {"refresh_hint_s": 1}}


def mesh_of(directory: Path, domain: TrustDomain, **settings: Any) -> CaMesh:
    return CaMesh(directory / domain, trust_domain=domain, **settings)


def url_of(mesh: CaMesh) -> str:
    address = mesh.control.bundles.address
    assert isinstance(address, SocketAddress)
    return f"https://127.0.0.1:{address.port}/"


def bundle_file(mesh: CaMesh) -> Path:
    """What an operator carries over."""
    path = mesh.directory / "bundle.json"
    path.write_text(mesh.control.ca.document())
    return path


def trusted(mesh: CaMesh) -> TrustBundle:
    return mesh.control.ca.trust.everybody


def view(mesh: CaMesh) -> FederatedView:
    (found,) = mesh.control.federation.views()
    return found


def roots_of(mesh: CaMesh, of: CaMesh) -> bool:
    """Whether `mesh` has exactly the roots of the other one as that one's."""
    return trusted(mesh).roots.get(TrustDomain(of.trust_domain)) == of.control.ca.trust.current.roots


@asynccontextmanager
async def looked_after(directory: Path, server: BundleServer, **more: Any) -> AsyncGenerator[CaMesh]:
    """A mesh that federates with whoever `server` plays."""
    web: dict[str, Any] = {"trust_domain": Y, "url": f"https://localhost:{server.port}/", "profile": "https_web"}
    web |= {"roots": directory / "web.pem"} | more
    async with mesh_of(directory, X, federation=[web]) as mesh:
        yield mesh


@asynccontextmanager
async def played(directory: Path, document: BundleDocument) -> AsyncGenerator[BundleServer]:
    """A bundle endpoint by https_web at `localhost`."""
    web = SpiffeCA(name="web")
    (directory / "web.pem").write_bytes(web.cert.public_bytes(Encoding.PEM))
    context = context_of(web.svid("spiffe://web.test/site", dns=("localhost",)))
    async with bundle_server(context, saying(document)) as server:
        yield server


def document_of(*names: str, sequence: int | None = 1, hint_s: int = 1) -> BundleDocument:
    roots = tuple(_ca(name).cert for name in names)
    return BundleDocument(roots=roots, sequence=sequence, refresh_hint_s=hint_s)


_CAS: dict[str, SpiffeCA] = {}


def _ca(name: str) -> SpiffeCA:
    return _CAS.setdefault(name, SpiffeCA(name=name))


# --- our own endpoint -----------------------------------------------------------------------------------------------


async def test_the_endpoint_serves_roots_and_jwt_keys_with_a_number_and_a_hint(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, **LISTEN) as mesh:
        endpoint = SpiffeEndpoint(url=HttpsUrl.parse(url_of(mesh)), identity=control_identity(Y))
        document = BundleDocument.from_json(await fetch(endpoint, trusted(mesh), SystemClock()))
        assert document.roots == mesh.control.ca.trust.current.roots
        assert [key.kid for key in document.jwt_keys] == [mesh.control.ca.jwt.kid]
        assert (document.sequence, document.refresh_hint_s) == (1, 1)
        # what the command shows is the same document
        assert await mesh.admin.document() == document.to_json()
        assert await mesh.admin.document(Y) == document.to_json()


async def test_the_number_grows_with_roots_and_keys_and_stays_with_anything_else(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, svid_ttl_s=3600) as mesh:
        ca = mesh.control.ca
        assert ca.trust.current.document_sequence == 1
        await ca.trust.publish()  # lists signed anew
        await mesh.restart()
        assert mesh.control.ca.trust.current.document_sequence == 1
        await mesh.rotate()
        await mesh.until(lambda: mesh.control.ca.trust.current.document_sequence == 3)  # both roots, then the new one
        await mesh.stop()
        (mesh.state / "jwt-svid-key.pem").unlink()
        await mesh.start()
        assert mesh.control.ca.trust.current.document_sequence == 4


async def test_the_endpoint_asks_no_certificate_and_serves_nothing_else(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, **LISTEN) as mesh:
        for line, answer in (
            (b"GET / HTTP/1.1", b"HTTP/1.1 200 OK"),
            (b"HEAD / HTTP/1.1", b"HTTP/1.1 200 OK"),
            (b"GET /keys HTTP/1.1", b"HTTP/1.1 404 Not Found"),
            (b"POST / HTTP/1.1", b"HTTP/1.1 405 Method Not Allowed"),
        ):
            assert (await _asked(mesh, line)).startswith(answer)


async def _asked(mesh: CaMesh, line: bytes) -> bytes:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = HttpsUrl.parse(url_of(mesh)).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(line + b"\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


# --- the exchange ---------------------------------------------------------------------------------------------------


async def test_two_meshes_exchange_their_bundles_by_https_spiffe_and_follow_a_rotation(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        y = await stack.enter_async_context(mesh_of(tmp_path, Y, **LISTEN))
        to_y = {"trust_domain": Y, "url": url_of(y), "bundle": bundle_file(y)}
        x = await stack.enter_async_context(mesh_of(tmp_path, X, **LISTEN, federation=[to_y]))
        # the way back; both listen where the other one looks
        listeners = {"listeners": {"bundles": f"127.0.0.1:{HttpsUrl.parse(url_of(y)).port}"}}
        await y.restart(federation=[{"trust_domain": X, "url": url_of(x), "bundle": bundle_file(x)}], **listeners)
        assert roots_of(x, y)
        assert roots_of(y, x)
        trust, (before,) = y.control.ca.trust, y.control.ca.trust.current.roots
        await y.rotate()
        await y.until(lambda: len(trust.current.roots) == 1 and before not in trust.current.roots and trust.is_newest)
        await x.until(lambda: roots_of(x, y) and view(x).looked_at is not None and not view(x).error)
        assert trusted(x).domains == {X, Y}
        status = await x.admin.status()
        (row,) = status.federated
        assert (row.trust_domain, row.sequence, row.roots, row.jwt_keys) == (Y, 3, 1, 1)
        assert row.source == url_of(y)
        assert row.next_look_s <= 1


async def test_a_new_root_signs_when_those_who_federate_have_had_three_looks_at_it(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, listeners=LISTEN["listeners"], bundle_endpoint={"refresh_hint_s": 600}) as y:
        await y.rotate()
        waiting = (await y.until_status(lambda status: bool(status.rotation.waiting))).rotation
        assert waiting.phase == "published"
        assert "other trust domains have not had the time to see it (1800 s more)" in waiting.waiting
        await y.rotate(RotateRootRequest.FORCE)
        await y.until_status(lambda status: status.rotation.phase == "none")


async def test_two_meshes_exchange_their_bundles_by_https_web(tmp_path: Path) -> None:
    web = SpiffeCA(name="web")
    svid = web.svid("spiffe://web.test/site", dns=("localhost",))
    files = {name: tmp_path / name for name in ("roots.pem", "cert.pem", "key.pem")}
    files["roots.pem"].write_bytes(web.cert.public_bytes(Encoding.PEM))
    files["cert.pem"].write_bytes(svid.chain_pem())
    files["key.pem"].write_bytes(svid.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    served = {"profile": "https_web", "certificate": files["cert.pem"], "certificate_key": files["key.pem"]}
    async with mesh_of(tmp_path, Y, listeners=LISTEN["listeners"], bundle_endpoint=served) as y:
        url = url_of(y).replace("127.0.0.1", "localhost")
        to_y = {"trust_domain": Y, "url": url, "profile": "https_web", "roots": files["roots.pem"]}
        async with mesh_of(tmp_path, X, federation=[to_y]) as x:
            await x.until(lambda: roots_of(x, y))
            # the certificate is replaced on disk, by one that leads to other roots
            other = SpiffeCA(name="other")
            svid = other.svid("spiffe://web.test/site", dns=("localhost",))
            files["key.pem"].write_bytes(svid.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            x.control.federation.refresh()  # half of it: the former one is served
            await asyncio.sleep(0.1)
            assert view(x).error == ""
            files["cert.pem"].write_bytes(svid.chain_pem())
            x.control.federation.refresh()
            await x.until(lambda: "is not trusted" in view(x).error)
            assert roots_of(x, y)


async def test_a_file_is_a_bundle_too_and_is_read_again_as_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "y.pem"
    first, second = _ca("first").cert, _ca("second").cert
    path.write_bytes(first.public_bytes(Encoding.PEM))
    async with mesh_of(tmp_path, X, federation=[{"trust_domain": Y, "bundle": path}]) as x:
        assert trusted(x).roots[Y] == (first,)
        path.write_text("nothing")
        await asyncio.sleep(0.3)
        assert trusted(x).roots[Y] == (first,)
        path.write_text(BundleDocument(roots=(first, second)).to_json())
        await x.until(lambda: trusted(x).roots[Y] == (first, second))
        assert view(x).next_look_s is None


@pytest.mark.parametrize("content", ["nothing", '{"keys": []}', None])
async def test_a_file_that_holds_no_bundle_keeps_the_control_plane_from_starting(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "y.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidConfiguration, match=r"y\.json"):
        async with mesh_of(tmp_path, X, federation=[{"trust_domain": Y, "bundle": path}]):
            pass


async def test_envoys_get_the_roots_of_another_trust_domain_by_its_name(tmp_path: Path) -> None:
    path, first, second = tmp_path / "y.pem", _ca("first").cert, _ca("second").cert
    path.write_bytes(first.public_bytes(Encoding.PEM))
    async with mesh_of(tmp_path, X, federation=[{"trust_domain": Y, "bundle": path}]) as x:
        channel = x.endpoint.channel()
        try:
            async with SecretDiscoveryServiceStub(channel).StreamSecrets.open(timeout=15) as stream:
                await stream.send_message(DiscoveryRequest(resource_names=[f"spiffe://{Y}"]))
                assert await _trusted_ca(stream) == first.public_bytes(Encoding.PEM)
                path.write_bytes(second.public_bytes(Encoding.PEM))
                assert await _trusted_ca(stream) == second.public_bytes(Encoding.PEM)
                await stream.cancel()
        finally:
            channel.close()


async def _trusted_ca(stream: Any) -> bytes:
    response = await stream.recv_message()
    (secret,) = (Secret.FromString(one.value) for one in response.resources)
    return secret.validation_context.trusted_ca.inline_bytes


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"<html>", "not JSON"),
        (b"{}", "no array `keys`"),
        (json.dumps({"keys": [{"kty": "RSA", "use": "sig", "kid": "x"}]}).encode(), "has no number any more"),
        (document_of("good", sequence=6), "has the number 6: the last had 7"),
        (document_of("evil", sequence=7), "another one under the same number 7"),
        (document_of("evil", sequence=None), "has no number any more"),
    ],
)
async def test_an_endpoint_that_serves_something_else_changes_nothing(
    wrong: BundleDocument | bytes, said: str, tmp_path: Path
) -> None:
    good = document_of("good", sequence=7)
    async with played(tmp_path, good) as server, looked_after(tmp_path, server) as x:
        await x.until(lambda: trusted(x).roots.get(Y) == good.roots)
        server.serves(wrong)
        await x.until(lambda: said in view(x).error)
        assert trusted(x).roots[Y] == good.roots
        warnings = (await x.admin.status()).warnings
        assert any(said in warning and "its last good one stays in force" in warning for warning in warnings)
        newer = document_of("good", "next", sequence=8)
        server.serves(newer)
        await x.until(lambda: trusted(x).roots[Y] == newer.roots)
        assert view(x).error == ""


async def test_an_endpoint_that_serves_our_own_roots_is_refused(tmp_path: Path) -> None:
    async with played(tmp_path, document_of("good")) as server, looked_after(tmp_path, server) as x:
        server.serves(x.control.ca.document())
        await x.until(lambda: f"is one of {X}" in view(x).error)
        own = x.control.ca.trust.current.roots
        assert not set(own) & set(trusted(x).roots.get(Y, ()))


async def test_a_bundle_that_is_emptied_ends_the_trust_in_that_domain(tmp_path: Path) -> None:
    good = document_of("good", sequence=7)
    async with played(tmp_path, good) as server, looked_after(tmp_path, server) as x:
        await x.until(lambda: trusted(x).roots.get(Y) == good.roots)
        server.serves(BundleDocument(roots=(), sequence=8, refresh_hint_s=1))
        await x.until(lambda: trusted(x).store(Y) is None)
        assert Y not in x.control.mesh.catalogues[TRUST_BUNDLE_TYPE]
        assert any("nobody of that trust domain" in warning for warning in (await x.admin.status()).warnings)


async def test_the_last_good_bundle_and_its_number_survive_an_outage_and_restarts(tmp_path: Path) -> None:
    good = document_of("good", sequence=7)
    async with played(tmp_path, good) as server, looked_after(tmp_path, server) as x:
        await x.until(lambda: trusted(x).roots.get(Y) == good.roots)
        server.say = raw(b"")
        await x.until(lambda: view(x).error != "")
        await x.restart()
        assert trusted(x).roots[Y] == good.roots  # before anybody was asked
        assert Y in x.control.mesh.catalogues[TRUST_BUNDLE_TYPE]
        server.serves(document_of("old", sequence=3))
        await x.until(lambda: "has the number 3" in view(x).error)
        assert trusted(x).roots[Y] == good.roots
        assert json.loads(await x.admin.document(Y)) == json.loads(good.to_json())


async def test_an_endpoint_whose_certificate_the_bundle_does_not_vouch_for_is_not_believed(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, **LISTEN) as y:
        stranger = tmp_path / "stranger.pem"
        stranger.write_bytes(_ca("stranger").cert.public_bytes(Encoding.PEM))
        to_y = {"trust_domain": Y, "url": url_of(y), "bundle": stranger}
        async with mesh_of(tmp_path, X, federation=[to_y]) as x:
            await x.until(lambda: "is not trusted" in view(x).error)
            assert trusted(x).roots[Y] == (_ca("stranger").cert,)
            # the operator brings the right one: a new file counts, whatever was known before
            stranger.write_text(y.control.ca.document())
            await x.until(lambda: view(x).error == "" and view(x).looked_at is not None and roots_of(x, y))


async def test_another_identity_in_the_right_domain_is_not_the_endpoint(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, Y, **LISTEN) as y:
        other = "spiffe://y.test/ns/shop/sa/bundles"
        to_y = {"trust_domain": Y, "url": url_of(y), "bundle": bundle_file(y), "endpoint_spiffe_id": other}
        async with mesh_of(tmp_path, X, federation=[to_y]) as x:
            await x.until(lambda: f"expected {other}" in view(x).error)


async def test_a_partner_that_is_no_longer_named_is_forgotten(tmp_path: Path) -> None:
    good = document_of("good", sequence=7)
    async with played(tmp_path, good) as server, looked_after(tmp_path, server) as x:
        await x.until(lambda: trusted(x).roots.get(Y) == good.roots)
        await x.restart(federation=[])
        assert trusted(x).domains == {X}
        with sqlite3.connect(x.state / DATABASE) as database:
            assert database.execute("SELECT count(*) FROM federated_bundles").fetchone() == (0,)
        with pytest.raises(ControlRefused, match=r"no bundle of trust domain y\.test"):
            await x.admin.document(Y)


async def test_a_certificate_file_that_does_not_fit_keeps_the_control_plane_from_starting(tmp_path: Path) -> None:
    served = {"profile": "https_web", "certificate": tmp_path / "c.pem", "certificate_key": tmp_path / "k.pem"}
    with pytest.raises(UsageError, match="cannot be served with"):
        async with mesh_of(tmp_path, Y, listeners=LISTEN["listeners"], bundle_endpoint=served):
            pass
