"""The control plane over TCP: real TLS, every kind of proof, and what bad ones get."""

import asyncio
import contextlib
import logging
import socket
import ssl
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from hbone.ca.csr import new_request
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, Endpoint, calling, opened
from hbone.control.credentials import Credentials
from hbone.control.lease import Wish
from hbone.control.nodes import node_identity
from hbone.control.register import Registration
from hbone.control.serving import anchor_of
from hbone.control.tls_endpoint import BearerToken, InvalidEndpoint, Roots, TlsEndpoint, parse_control_address
from hbone.control.tokens import JoinToken, TokenWish
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.errors import Unreachable, UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from hbone.net.clock import new_key, system_rng
from hbone.proto.citadel_grpc import IstioCertificateServiceStub
from hbone.proto.citadel_pb2 import IstioCertificateRequest
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest
from hbone.times import WallTime
from tests.support.controlplane import DOMAIN, FakeClock, make_authority, spiffe
from tests.support.pki import SpiffeCA
from tests.support.remote import Remote, Wanted, remote

WEB = spiffe("shop", "web")
DB = spiffe("shop", "db")
NODE = node_identity(DOMAIN, "vm-1")


async def issued(up: Remote, identity: SpiffeId = WEB) -> Credentials:
    """A certificate by a join token."""
    return await CaClient(up.endpoint(credential=await joining(up, identity)), ttl_s=3600).fetch(identity)


async def joining(up: Remote, identity: SpiffeId = WEB) -> str:
    token, _ = await up.tokens.create(TokenWish(identity=identity))
    return token.credential


async def refused(up: Remote, endpoint: Endpoint, identity: SpiffeId = WEB) -> str:
    """Why a certificate is refused; the code must be UNAUTHENTICATED."""
    with pytest.raises(ControlRefused) as caught:
        await CaClient(endpoint, ttl_s=60).fetch(identity)
    assert caught.value.code == "UNAUTHENTICATED"
    return caught.value.why


async def test_a_join_token_gets_the_certificate_that_it_is_for(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        assert (await issued(up)).svid.spiffe_id == WEB


async def test_a_join_token_is_used_up_by_its_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(credential=await joining(up))
        await CaClient(endpoint, ttl_s=60).fetch(WEB)
        with caplog.at_level(logging.WARNING):
            assert "used up" in await refused(up, endpoint)
        assert "certificate refused" in caplog.text
        secret = endpoint.metadata()["authorization"].partition(".")[2]
        assert secret not in caplog.text


async def test_the_same_key_may_ask_again_because_an_answer_can_be_lost(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(credential=await joining(up))
        csr = new_request(new_key(), WEB)
        for _ in range(2):
            async with calling(endpoint) as channel:
                create = IstioCertificateServiceStub(channel).CreateCertificate
                async with opened(create, endpoint, timeout_s=10) as stream:
                    await stream.send_message(IstioCertificateRequest(csr=csr), end=True)
                    assert await stream.recv_message() is not None


async def test_of_many_who_use_a_token_at_once_one_gets_a_certificate(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        client = CaClient(up.endpoint(credential=await joining(up)), ttl_s=60)
        results = await asyncio.gather(*(client.fetch(WEB) for _ in range(8)), return_exceptions=True)
        assert sum(isinstance(result, Credentials) for result in results) == 1


async def test_a_refused_request_does_not_use_a_token_up(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(credential=await joining(up))
        assert "is for spiffe://cluster.local/ns/shop/sa/web" in await refused(up, endpoint, DB)
        assert (await CaClient(endpoint, ttl_s=60).fetch(WEB)).svid.spiffe_id == WEB


async def test_an_expired_join_token_is_refused(tmp_path: Path) -> None:
    clock = FakeClock()
    async with remote(tmp_path, Wanted(clock=clock)) as up:
        token, _ = await up.tokens.create(TokenWish(identity=WEB, ttl_s=60))
        clock.advance(61)
        with pytest.raises(Exception, match="expired"):
            await up.tokens.check(token.credential.partition(" ")[2])


@pytest.mark.parametrize("address", ["nonsense:", "http://10.0.0.1", "10.0.0.1:99999", "a b:15012"])
async def test_a_token_that_leads_nowhere_is_not_made(tmp_path: Path, address: str) -> None:
    async with remote(tmp_path) as up:
        with pytest.raises(UsageError):
            await up.tokens.create(TokenWish(identity=WEB, address=address))
        assert list(await up.tokens.all()) == []


async def test_a_revoked_or_forged_join_token_is_not_known(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        token, record = await up.tokens.create(TokenWish(identity=WEB))
        forged = f"Join {token.token_id}.{'A' * 43}"
        assert "not known" in await refused(up, up.endpoint(credential=forged))
        assert await up.tokens.revoke(record.token_id)
        assert "not known" in await refused(up, up.endpoint(credential=token.credential))


async def test_a_joiner_sees_nothing_of_the_mesh(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        assert await discovery_status(up.endpoint(credential=await joining(up))) is Status.PERMISSION_DENIED


async def test_without_any_proof_nothing_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with remote(tmp_path) as up:
        with caplog.at_level(logging.WARNING):
            assert "no certificate and no token" in await refused(up, up.endpoint())
            assert await discovery_status(up.endpoint()) is Status.UNAUTHENTICATED
        assert "caller not authenticated" in caplog.text


async def test_a_certificate_gets_its_own_successor_and_the_mesh(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        svid = (await issued(up)).svid
        endpoint = up.endpoint(svid=svid)
        assert (await CaClient(endpoint, ttl_s=60).fetch(WEB)).svid.spiffe_id == WEB
        assert await discovery_status(endpoint) is Status.OK
        assert "may have its own identity only" in await refused(up, endpoint, DB)


async def test_a_node_gets_certificates_of_what_is_placed_on_it_and_of_nothing_else(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(svid=(await issued(up, NODE)).svid)
        assert "no workload of" in await refused(up, endpoint, DB)
        placed = Workload(uid="a", name="db-0", namespace="shop", service_account="db", node="vm-1", addresses=())
        up.mesh.apply(Update(workloads=(placed,)), Source.MANIFESTS)
        assert (await CaClient(endpoint, ttl_s=60).fetch(DB)).svid.spiffe_id == DB
        up.mesh.apply(Update(removed=("a",)), Source.MANIFESTS)
        assert "no workload of" in await refused(up, endpoint, DB)


async def test_an_expired_certificate_is_refused_with_both_times_and_a_fresh_token_beside_it_counts(
    tmp_path: Path,
) -> None:
    async with remote(tmp_path) as up:
        key, now = new_key(), WallTime(up.wanted.clock.wall() - 7200)
        old = up.authority.issue(key.public_key(), WEB, ttl_s=60, now=now, serial=5)
        svid = X509Svid.of(old.chain, key)
        why = await refused(up, up.endpoint(svid=svid))
        assert "ended at" in why
        assert "it is" in why
        fresh = up.endpoint(svid=svid, credential=await joining(up))
        assert (await CaClient(fresh, ttl_s=60).fetch(WEB)).svid.spiffe_id == WEB


async def test_a_certificate_of_a_stranger_ends_the_handshake(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        with pytest.raises(Unreachable):
            await CaClient(up.endpoint(svid=SpiffeCA().svid(str(WEB))), ttl_s=60).fetch(WEB)
        assert (await issued(up)).svid.spiffe_id == WEB


async def test_another_control_plane_is_not_spoken_to(tmp_path: Path) -> None:
    """Its root is not ours; or it is a workload of our own mesh that took the port."""
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(credential="Join a.b")
        wrong = TlsEndpoint(
            host=endpoint.host,
            port=endpoint.port,
            roots=Roots(SpiffeCA().bundle("cluster.local").pem(DOMAIN).decode()),
            identity=endpoint.identity,
        )
        with pytest.raises(Unreachable, match=r"(?i)certificate.verify.failed"):
            await CaClient(wrong, ttl_s=60).fetch(WEB)
        impostor = TlsEndpoint(host=endpoint.host, port=endpoint.port, roots=endpoint.roots, identity=DB)
        with pytest.raises(Unreachable, match=f"not {DB}"):
            await CaClient(impostor, ttl_s=60).fetch(WEB)


async def test_what_does_not_speak_tls_is_told_in_words(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with remote(tmp_path) as up, await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        endpoint = up.endpoint(credential=await joining(up))
        elsewhere = replace(endpoint, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        with pytest.raises(Unreachable, match="what answers there does not speak TLS; check the address") as caught:
            await CaClient(elsewhere, ttl_s=60).fetch(WEB)
        assert "_ssl.c" not in str(caught.value)


async def test_istios_clients_know_it_by_its_host_names(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        base = up.endpoint(credential=await joining(up))

        def named(*names: str) -> TlsEndpoint:
            return TlsEndpoint(
                host=base.host, port=base.port, roots=base.roots, authorization=base.authorization, names=names
            )

        with pytest.raises(Unreachable, match="mismatch"):
            await CaClient(named(), ttl_s=60).fetch(WEB)
        client = CaClient(named("wrong.example", "istiod.istio-system.svc"), ttl_s=60)
        assert (await client.fetch(WEB)).svid.spiffe_id == WEB


async def test_a_machine_registers_the_address_that_it_comes_from_and_no_other(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        endpoint = up.endpoint(svid=(await issued(up)).svid)
        own = Wish(namespace="shop", service_account="web", addresses=(ip_address("127.0.0.1"),), hbone_port=15008)
        async with Registration(endpoint, own, system_rng()) as registration:
            assert registration.granted.addresses == (ip_address("127.0.0.1"),)
        foreign = Wish(namespace="shop", service_account="web", addresses=(ip_address("10.9.9.9"),))
        with pytest.raises(ControlRefused, match=r"may not register the address 10\.9\.9\.9"):
            async with Registration(endpoint, foreign, system_rng()):
                pass
        other = Wish(namespace="shop", service_account="db")
        with pytest.raises(ControlRefused, match="may have its own identity only"):
            async with Registration(endpoint, other, system_rng()):
                pass


async def test_tls_1_2_and_clients_without_http2_are_turned_away(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:

        def attempt(configure: str) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if configure == "1.2":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            with socket.create_connection((str(up.address.ip), up.address.port), timeout=5) as plain:
                try:
                    with context.wrap_socket(plain) as wrapped:
                        return "open" if wrapped.recv(1) else "closed"
                except OSError as error:
                    return type(error).__name__

        assert await asyncio.to_thread(attempt, "1.2") != "open"
        assert await asyncio.to_thread(attempt, "no alpn") == "closed"


async def test_strangers_who_come_again_and_again_do_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with remote(tmp_path) as up:

        def knock() -> None:
            for _ in range(200):
                with socket.create_connection((str(up.address.ip), up.address.port), timeout=5) as plain:
                    plain.sendall(b"no TLS")
                    with contextlib.suppress(OSError):
                        plain.recv(100)

        await asyncio.to_thread(knock)
        said = [one for one in caplog.records if one.message == "control handshake failed"]
        assert 5 <= len(said) < 20, len(said)


async def test_garbage_before_the_handshake_and_inside_a_call_harms_nobody(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:

        def garbage() -> None:
            with socket.create_connection((str(up.address.ip), up.address.port), timeout=5) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
                plain.recv(100)

        await asyncio.to_thread(garbage)
        endpoint = up.endpoint(svid=(await issued(up)).svid)
        channel = endpoint.channel()
        method = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
        with pytest.raises(GRPCError) as caught:
            async with channel.request(method, Cardinality.UNARY_UNARY, BytesValue, BytesValue) as stream:
                await stream.send_message(BytesValue(value=b"\xff"), end=True)  # where text should be
                await stream.recv_message()
        channel.close()
        assert caught.value.status is Status.INVALID_ARGUMENT
        assert (await CaClient(endpoint, ttl_s=60).fetch(WEB)).svid.spiffe_id == WEB


async def discovery_status(endpoint: TlsEndpoint) -> Status:
    """What the first request for the mesh gets."""
    try:
        async with (
            calling(endpoint) as channel,
            opened(AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources, endpoint) as stream,
        ):
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            await stream.recv_message()
            await stream.cancel()
    except ControlRefused as error:
        return Status[error.code]
    return Status.OK


# --- tokens as text -----------------------------------------------------------------------------------------------


def test_a_token_survives_the_line_breaks_of_a_mail() -> None:
    token = JoinToken(address="10.0.0.1:15012", pin=b"p" * 32, identity=WEB, token_id="a1", secret="s" * 43)
    text = token.encoded()
    assert JoinToken.parse(f"  {text[:70]}\n  {text[70:]}\n") == token


@pytest.mark.parametrize(
    "text", ["", "abc", "hbone1.", "hbone1.e30", "hbone1.\u00e9", "hbone2.e30", "hbone1." + "A" * 9000]
)
def test_what_is_no_token_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        JoinToken.parse(text)
    assert caught.value.fix


def test_a_token_that_lost_its_end_is_damaged() -> None:
    token = JoinToken(address="10.0.0.1:15012", pin=b"p" * 32, identity=WEB, token_id="a1", secret="s" * 43)
    with pytest.raises(UsageError, match="damaged"):
        JoinToken.parse(token.encoded()[:-9])


# --- settings of the client's side --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://istiod.istio-system.svc:15012", ("istiod.istio-system.svc", 15012)),
        ("istiod.istio-system.svc", ("istiod.istio-system.svc", 15012)),
        ("10.0.0.1:443", ("10.0.0.1", 443)),
        ("[fd00::1]:15012", ("fd00::1", 15012)),
        ("[fd00::1]", ("fd00::1", 15012)),
        ("localhost:15012/", ("localhost", 15012)),
    ],
)
def test_addresses_of_control_planes(text: str, expected: tuple[str, int]) -> None:
    assert parse_control_address(text) == expected


@pytest.mark.parametrize("text", ["", "http://x:1", "fd00::1", "a:b", "a:0", "https://"])
def test_what_is_no_address_of_a_control_plane(text: str) -> None:
    with pytest.raises(InvalidEndpoint):
        parse_control_address(text)


def test_a_token_file_is_read_for_each_call_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    token = BearerToken(str(path))
    assert token.value() == "first"
    path.write_text("second")
    assert token.value() == "second"
    path.write_text("\n")
    with pytest.raises(InvalidEndpoint, match="empty"):
        token.value()
    assert BearerToken("a.b.c").value() == "a.b.c"


def test_unreadable_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidEndpoint, match="cannot be read"):
        Roots(str(tmp_path / "none.pem")).pem()
    (tmp_path / "bad.pem").write_text("-----BEGIN nothing")
    bad = TlsEndpoint(host="127.0.0.1", port=1, roots=Roots(str(tmp_path / "bad.pem")))
    with pytest.raises(InvalidEndpoint, match="no PEM certificates"):
        bad.context()


def test_the_servers_chain_ends_in_the_root_that_tokens_pin() -> None:
    authority = make_authority()
    assert anchor_of(authority) == authority.roots[0]
    assert isinstance(anchor_of(authority), x509.Certificate)
