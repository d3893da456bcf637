"""Certificates over the control socket: real gRPC, real peer credentials."""

import asyncio
import json
import os
import sqlite3
import stat
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.client import Channel
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError

from hbone.ca.csr import new_request
from hbone.control.attest_unix import Grant
from hbone.control.ca_client import CaClient
from hbone.control.ca_service import IssueLimits
from hbone.control.channel import ControlRefused, UnixEndpoint, calling
from hbone.control.limiter import CallerLimits
from hbone.control.records import Wanted, find
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.errors import Unreachable
from hbone.identity.verify import PeerSide, verify_peer
from hbone.net.clock import SystemClock, new_key
from hbone.proto.citadel_grpc import IstioCertificateServiceStub
from hbone.proto.citadel_pb2 import IstioCertificateRequest, IstioCertificateResponse
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest
from hbone.protocol.limits import Rate
from hbone.times import WallTime
from tests.support.controlplane import FakeClock, Served, make_authority, serving, spiffe

WEB = spiffe("shop", "web")
STRANGER = os.geteuid() + 1  # an owner that is not us


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with serving(Served(directory=tmp_path)) as up:
        yield up


async def create(
    served: Served, csr: str, *, ttl_s: int = 0, impersonated: str = ""
) -> IstioCertificateResponse | Status:
    """The raw answer, or its status."""
    request = IstioCertificateRequest(csr=csr, validity_duration=ttl_s)
    if impersonated:
        request.metadata["ImpersonatedIdentity"] = impersonated
    channel = served.endpoint.channel()
    try:
        return await IstioCertificateServiceStub(channel).CreateCertificate(request, timeout=10)
    except GRPCError as error:
        return error.status
    finally:
        channel.close()


async def test_a_process_of_the_same_user_gets_an_svid_that_its_peers_accept(served: Served) -> None:
    credentials = await CaClient(served.endpoint, ttl_s=3600).fetch(WEB)
    assert credentials.svid.spiffe_id == WEB
    now = SystemClock().wall()
    assert (
        verify_peer(
            credentials.svid.chain, credentials.bundle, expected=frozenset({WEB}), side=PeerSide.SERVER, now=now
        )
        == WEB
    )
    assert 3500 < credentials.svid.not_after - now <= 3600


async def test_what_was_issued_stands_in_the_audit_log_which_only_its_owner_reads(served: Served) -> None:
    first = await CaClient(served.endpoint, ttl_s=3600).fetch(WEB)
    second = await CaClient(served.endpoint, ttl_s=3600).fetch(spiffe("shop", "db"))
    await served.ca.close()  # the copy on disk is complete then
    lines = [json.loads(line) for line in served.audit_path.read_text().splitlines()]
    lines = [line for line in lines if line["event"] == "issued"]
    assert [line["serial"] for line in lines] == [f"{one.svid.serial:x}" for one in (first, second)]
    assert lines[0]["spiffe_id"] == str(WEB)
    assert lines[0]["caller"] == f"uid {os.geteuid()} (pid {os.getpid()})"
    for path in (served.audit_path, served.ca.store.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"PRIVATE" not in path.read_bytes()


async def test_without_metadata_the_name_inside_the_request_counts(served: Served) -> None:
    answer = await create(served, new_request(new_key(), WEB))
    assert isinstance(answer, IstioCertificateResponse)
    leaf = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert len(answer.cert_chain) == 3
    assert answer.cert_chain[-1].count("BEGIN CERTIFICATE") == 1


async def test_a_stranger_gets_nothing_and_the_reason(tmp_path: Path) -> None:
    async with serving(Served(directory=tmp_path, owner_uid=STRANGER)) as served:
        with pytest.raises(ControlRefused, match=f"UNAUTHENTICATED.*uid {os.geteuid()} may not have {WEB}") as caught:
            await CaClient(served.endpoint, ttl_s=60).fetch(WEB)
        assert caught.value.code == "UNAUTHENTICATED"
        assert not caught.value.passing


async def test_a_granted_user_gets_what_was_granted_and_no_more(tmp_path: Path) -> None:
    grants = {os.geteuid(): (Grant(namespace="shop", service_account="*"),)}
    async with serving(Served(directory=tmp_path, owner_uid=STRANGER, grants=grants)) as served:
        client = CaClient(served.endpoint, ttl_s=60)
        assert (await client.fetch(WEB)).svid.spiffe_id == WEB
        with pytest.raises(ControlRefused, match="may not have"):
            await client.fetch(spiffe("bank", "web"))


async def test_no_control_plane_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no control plane answers at .*; start `hbone up` first"):
        await CaClient(UnixEndpoint(tmp_path / "none.sock"), ttl_s=60).fetch(WEB)


def csr(key: object, *names: x509.GeneralName, ca: bool = False) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]  # any key


def broken_signature() -> str:
    good = x509.load_pem_x509_csr(new_request(new_key(), WEB).encode()).public_bytes(Encoding.DER)
    bad = good[:-1] + bytes([good[-1] ^ 1])
    return x509.load_der_x509_csr(bad).public_bytes(Encoding.PEM).decode()


URI = x509.UniformResourceIdentifier
BAD = {
    "empty": ("", "", 0),
    "garbage": ("not a request", "", 0),
    "garbage, identity in metadata": ("not a request", str(WEB), 0),
    "wrong signature": (broken_signature(), str(WEB), 0),
    "RSA-1024": (csr(rsa.generate_private_key(65537, 1024), URI(str(WEB))), "", 0),
    "P-521": (csr(ec.generate_private_key(ec.SECP521R1()), URI(str(WEB))), "", 0),
    "Ed25519": (csr(ed25519.Ed25519PrivateKey.generate(), URI(str(WEB))), "", 0),
    "another identity inside": (new_request(new_key(), spiffe("shop", "db")), str(WEB), 0),
    "a further DNS name": (csr(new_key(), URI(str(WEB)), x509.DNSName("shop.example")), "", 0),
    "two URI names": (csr(new_key(), URI(str(WEB)), URI(str(WEB) + "2")), "", 0),
    "no name at all": (csr(new_key()), "", 0),
    "no SPIFFE ID": (csr(new_key(), URI("https://shop.example")), "", 0),
    "empty segment": (csr(new_key()), "spiffe://cluster.local/ns//sa/web", 0),
    "oversized": (new_request(new_key(), WEB) + "x" * 20_000, "", 0),
    "lifetime over the ceiling": (new_request(new_key(), WEB), "", 91 * 86400),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_request_is_an_invalid_argument(served: Served, name: str) -> None:
    text, impersonated, ttl_s = BAD[name]
    assert await create(served, text, impersonated=impersonated, ttl_s=ttl_s) is Status.INVALID_ARGUMENT
    assert await served.ca.store.read(lambda database: find(database, Wanted())) == []
    assert isinstance(await create(served, new_request(new_key(), WEB)), IstioCertificateResponse)


@pytest.mark.parametrize("wanted", ["spiffe://other.example/ns/shop/sa/web", "spiffe://cluster.local"])
async def test_an_identity_outside_the_mesh_is_unauthenticated(served: Served, wanted: str) -> None:
    assert await create(served, csr(new_key()), impersonated=wanted) is Status.UNAUTHENTICATED


async def test_a_request_for_a_ca_certificate_gives_a_leaf(served: Served) -> None:
    answer = await create(served, csr(new_key(), URI(str(WEB)), ca=True))
    assert isinstance(answer, IstioCertificateResponse)
    leaf = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_a_ca_that_has_ended_is_an_internal_error(tmp_path: Path) -> None:
    ended = make_authority(_LongAgo())
    async with serving(Served(directory=tmp_path, authority=ended)) as served:
        assert await create(served, new_request(new_key(), WEB)) is Status.INTERNAL


class _LongAgo(SystemClock):
    def wall(self) -> WallTime:
        return WallTime(super().wall() - 11 * 365 * 86400)


async def test_a_full_disk_stops_issuing_and_loses_nothing_that_was_handed_out(served: Served) -> None:
    await served.ca.store.write(lambda database: database.execute("PRAGMA max_page_count = 1").fetchall())
    handed_out = 0
    while isinstance(answer := await create(served, new_request(new_key(), WEB)), IstioCertificateResponse):
        handed_out += 1
        assert handed_out < 500
    assert answer is Status.INTERNAL
    assert len(await served.ca.store.read(lambda database: find(database, Wanted()))) == handed_out
    await served.ca.store.write(lambda database: database.execute("PRAGMA max_page_count = 100000").fetchall())
    assert isinstance(await create(served, new_request(new_key(), WEB)), IstioCertificateResponse), "room again"


async def test_a_locked_database_stops_issuing_and_nothing_else_until_it_is_free(served: Served) -> None:
    served.mesh.apply(Update(workloads=(Workload(uid="a", name="a", namespace="n"),)), Source.MANIFESTS)
    await served.ca.store.write(lambda database: database.execute("PRAGMA busy_timeout = 50").fetchall())
    with closing(sqlite3.connect(served.directory / "control.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await create(served, new_request(new_key(), WEB)) is Status.INTERNAL
        async with (
            calling(served.endpoint) as channel,
            AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources.open() as stream,
        ):
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            assert await stream.recv_message() is not None, "discovery goes on"
            await stream.cancel()
        other.execute("ROLLBACK")
    assert await served.ca.store.read(lambda database: find(database, Wanted())) == []
    assert isinstance(await create(served, new_request(new_key(), WEB)), IstioCertificateResponse)


async def test_a_caller_that_asks_for_too_many_is_told_when_to_ask_again(tmp_path: Path) -> None:
    clock = FakeClock(SystemClock().wall())
    limits = IssueLimits(CallerLimits(Rate(burst=2, per_s=0.5)), clock)
    async with serving(Served(directory=tmp_path, limits=limits)) as served:
        client = CaClient(served.endpoint, ttl_s=60)
        for _ in range(2):
            await client.fetch(WEB)
        words = "RESOURCE_EXHAUSTED.*the limit is 2 at once and 0.5 a second; ask again in 2.0 s"
        with pytest.raises(ControlRefused, match=words):
            await client.fetch(WEB)
        clock.advance(2)
        await client.fetch(WEB)


async def raw(served: Served, path: str, body: bytes) -> Status:
    """A call with any bytes for a message."""

    class Anything:
        @staticmethod
        def FromString(_: bytes) -> None:
            return None

    channel = served.endpoint.channel()
    try:
        async with channel.request(path, Cardinality.UNARY_UNARY, Anything, Anything, timeout=10) as stream:
            await stream.send_request()
            await stream._stream.send_data(body, end_stream=True)  # pyright: ignore
            await stream.recv_initial_metadata()
            await stream.recv_trailing_metadata()
            return Status.OK
    except GRPCError as error:
        return error.status
    finally:
        channel.close()


CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
RAW = {
    "garbage": (CREATE, b"\x00\x00\x00\x00\x03\xff\xff\xff", Status.INVALID_ARGUMENT),
    "nothing": (CREATE, b"", Status.INVALID_ARGUMENT),
    "half a message": (CREATE, b"\x00\x00\x00\x00\x09abc", Status.INVALID_ARGUMENT),
    "half a prefix": (CREATE, b"\x00\x00", Status.INVALID_ARGUMENT),
    "compressed": (CREATE, b"\x01\x00\x00\x00\x00", Status.UNIMPLEMENTED),
    "a length of 4 GiB": (CREATE, b"\x00\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
    "garbage to discovery": (DELTA, b"\x00\x00\x00\x00\x03\xff\xff\xff", Status.INVALID_ARGUMENT),
    "half a message to discovery": (DELTA, b"\x00\x00\x00\x00\x09abc", Status.INVALID_ARGUMENT),
    "an unknown method": ("/istio.v1.auth.IstioCertificateService/Other", b"", Status.UNIMPLEMENTED),
}


@pytest.mark.parametrize("name", RAW)
async def test_malformed_messages_are_refused_and_disturb_nobody(
    served: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, body, expected = RAW[name]
    assert await raw(served, path, body) is expected
    assert isinstance(await create(served, new_request(new_key(), WEB)), IstioCertificateResponse)
    assert "Traceback" not in caplog.text


async def test_a_connection_that_is_not_http2_is_dropped_without_a_traceback(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    lone_continuation = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01\x09\x00\x00\x00\x00\x01x"
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", lone_continuation):
        reader, writer = await asyncio.open_unix_connection(str(served.endpoint.path))
        writer.write(garbage)
        await reader.read()  # until the server closes
        writer.close()
        await writer.wait_closed()
    assert isinstance(await create(served, new_request(new_key(), WEB)), IstioCertificateResponse)
    assert "Traceback" not in caplog.text


async def test_an_unknown_frame_type_is_ignored(served: Served) -> None:
    async with calling(served.endpoint) as channel:
        protocol = await channel.__connect__()
        protocol.connection._transport.write(b"\x00\x00\x01\x5f\x00\x00\x00\x00\x00x")  # pyright: ignore
        request = IstioCertificateRequest(csr=new_request(new_key(), WEB))
        assert (await IstioCertificateServiceStub(channel).CreateCertificate(request, timeout=10)).cert_chain


async def test_a_server_that_stops_ends_connections_that_nobody_closes(served: Served) -> None:
    channel = Channel(path=str(served.endpoint.path))
    request = IstioCertificateRequest(csr=new_request(new_key(), WEB))
    await IstioCertificateServiceStub(channel).CreateCertificate(request, timeout=10)
    async with asyncio.timeout(5):
        await served.stop()
    assert not served.endpoint.path.exists()
    channel.close()
