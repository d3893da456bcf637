"""Workload API and SDS over a real Unix socket: who gets what, and what bad requests get."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from google.protobuf.json_format import MessageToDict
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from hbone.control.attest_process import ProcessRule
from hbone.control.jwt_svid import JwtKeys, validate
from hbone.control.local_workloads import LocalTrust
from hbone.control.sds import SECRET_TYPE
from hbone.identity.jwk import parse_key_set
from hbone.net.clock import SystemClock, new_key
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.proto.sds_grpc import SecretDiscoveryServiceStub
from hbone.proto.secret_pb2 import Secret
from hbone.proto.sotw_pb2 import DiscoveryRequest, DiscoveryResponse
from hbone.proto.workloadapi_grpc import SpiffeWorkloadAPIStub
from hbone.proto.workloadapi_pb2 import (
    JWTBundlesRequest,
    JWTSVIDRequest,
    ValidateJWTSVIDRequest,
    X509BundlesRequest,
    X509SVIDRequest,
)
from tests.support.controlplane import DOMAIN, make_authority, spiffe
from tests.support.workloads import Local, workload_socket

WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
UID = os.geteuid()
OURS = ProcessRule(identity=WEB, uid=UID)
PROGRAM = str(Path("/proc/self/exe").readlink())
HEADER = {"workload.spiffe.io": "true"}


@asynccontextmanager
async def api(local: Local) -> AsyncGenerator[SpiffeWorkloadAPIStub]:
    async with channel(local) as opened:
        yield SpiffeWorkloadAPIStub(opened)


@asynccontextmanager
async def channel(local: Local) -> AsyncGenerator[Channel]:
    opened = local.endpoint.channel()
    try:
        yield opened
    finally:
        opened.close()


async def first(method: Any, request: Any, metadata: dict[str, str] | None = None) -> Any:
    """The first message of a stream."""
    async with method.open(metadata=HEADER if metadata is None else metadata, timeout=10) as stream:
        await stream.send_message(request, end=True)
        answer = await stream.recv_message()
        assert answer is not None
        await stream.cancel()
        return answer


async def status_of(call: Any) -> Status:
    try:
        await call
    except GRPCError as error:
        return error.status
    return Status.OK


# --- X.509 --------------------------------------------------------------------------------------------------------


async def test_a_process_gets_its_certificate_key_and_roots(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        response = await first(stub.FetchX509SVID, X509SVIDRequest())
        (svid,) = response.svids
        leaf = x509.load_der_x509_certificate(svid.x509_svid[: _der_length(svid.x509_svid)])
        assert svid.spiffe_id == str(WEB)
        assert load_der_private_key(svid.x509_svid_key, None).public_key() == leaf.public_key()
        assert svid.bundle == b"".join(root.public_bytes(Encoding.DER) for root in local.authority.roots)


async def test_the_first_rule_that_fits_gives_the_default_identity(tmp_path: Path) -> None:
    rules = (
        ProcessRule(identity=spiffe("no", "body"), uid=UID + 1),
        ProcessRule(identity=DB, uid=UID, pid=os.getpid(), hint="internal"),
        OURS,
    )
    async with workload_socket(tmp_path, *rules) as local, api(local) as stub:
        response = await first(stub.FetchX509SVID, X509SVIDRequest())
        assert [(one.spiffe_id, one.hint) for one in response.svids] == [(str(DB), "internal"), (str(WEB), "")]


async def test_rules_about_program_and_control_group_are_judged_by_proc(tmp_path: Path) -> None:
    rules = (
        ProcessRule(identity=DB, program=PROGRAM, cgroup="*"),
        ProcessRule(identity=WEB, program="/no/such/program"),
    )
    async with workload_socket(tmp_path, *rules) as local, api(local) as stub:
        response = await first(stub.FetchX509SVID, X509SVIDRequest())
        assert [one.spiffe_id for one in response.svids] == [str(DB)]


async def test_without_the_header_a_call_is_invalid(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        for metadata in ({}, {"workload.spiffe.io": "True"}, {"workload.spiffe.io": "1"}):
            status = await status_of(first(stub.FetchX509SVID, X509SVIDRequest(), metadata))
            assert status is Status.INVALID_ARGUMENT
        assert await status_of(stub.FetchJWTSVID(JWTSVIDRequest(audience=["a"]))) is Status.INVALID_ARGUMENT


async def test_a_process_that_no_rule_fits_has_no_identity(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, ProcessRule(identity=WEB, uid=UID + 1)) as local, api(local) as stub:
        calls = [
            first(stub.FetchX509SVID, X509SVIDRequest()),
            first(stub.FetchX509Bundles, X509BundlesRequest()),
            first(stub.FetchJWTBundles, JWTBundlesRequest()),
            stub.FetchJWTSVID(JWTSVIDRequest(audience=["a"]), metadata=HEADER),
        ]
        for call in calls:
            assert await status_of(call) is Status.PERMISSION_DENIED


async def test_a_rotation_is_pushed_and_nothing_else(tmp_path: Path) -> None:
    async with (
        workload_socket(tmp_path, OURS) as local,
        api(local) as stub,
        stub.FetchX509SVID.open(metadata=HEADER, timeout=10) as stream,
    ):
        await stream.send_message(X509SVIDRequest(), end=True)
        before = await stream.recv_message()
        local.changed()  # nothing is another than before: not sent
        await local.rotate()
        after = await stream.recv_message()
        assert before is not None
        assert after is not None
        assert after.svids[0].x509_svid != before.svids[0].x509_svid
        assert after.svids[0].x509_svid_key != before.svids[0].x509_svid_key
        await stream.cancel()


async def test_new_roots_are_pushed_without_a_new_certificate(tmp_path: Path) -> None:
    async with (
        workload_socket(tmp_path, OURS) as local,
        api(local) as stub,
        stub.FetchX509Bundles.open(metadata=HEADER, timeout=10) as stream,
    ):
        await stream.send_message(X509BundlesRequest(), end=True)
        before = await stream.recv_message()
        local.trust = LocalTrust(bundle=local.authority.bundle.merged(make_authority().bundle))
        local.changed()
        after = await stream.recv_message()
        assert before is not None
        assert after is not None
        name = f"spiffe://{DOMAIN}"
        assert after.bundles[name].startswith(before.bundles[name])
        assert len(after.bundles[name]) > len(before.bundles[name])
        await stream.cancel()


async def test_a_ca_that_is_away_is_unavailable_not_denied(tmp_path: Path) -> None:
    async with (
        workload_socket(tmp_path, ProcessRule(identity=spiffe("shop", "x"), uid=UID)) as local,
        api(local) as stub,
    ):
        local.keeper.forget(spiffe("shop", "x"))
        local.authority = make_authority(_Past())
        assert await status_of(first(stub.FetchX509SVID, X509SVIDRequest())) is Status.UNAVAILABLE


async def test_streams_that_end_leave_nothing_behind(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local:
        async with api(local) as stub:
            for _ in range(20):
                await first(stub.FetchX509SVID, X509SVIDRequest())
        async with api(local) as stub:
            await first(stub.FetchX509Bundles, X509BundlesRequest())
        async with asyncio.timeout(5):
            while len(local.workloads.changes):  # noqa: ASYNC110 - the server tells nobody when a stream is gone
                await asyncio.sleep(0)


# --- JWT ----------------------------------------------------------------------------------------------------------


async def test_a_jwt_svid_is_accepted_by_whom_it_is_for_alone(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        response = await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db", "cache"]), metadata=HEADER)
        (svid,) = response.svids
        assert svid.spiffe_id == str(WEB)
        good = ValidateJWTSVIDRequest(audience="cache", svid=svid.svid)
        answer = await stub.ValidateJWTSVID(good, metadata=HEADER)
        assert answer.spiffe_id == str(WEB)
        assert MessageToDict(answer.claims)["aud"] == ["db", "cache"]
        bad = ValidateJWTSVIDRequest(audience="other", svid=svid.svid)
        assert await status_of(stub.ValidateJWTSVID(bad, metadata=HEADER)) is Status.INVALID_ARGUMENT
        bundles = await first(stub.FetchJWTBundles, JWTBundlesRequest())
        document = bundles.bundles[f"spiffe://{DOMAIN}"]
        keys = parse_key_set(document, use="jwt-svid")
        assert validate(svid.svid, "db", {DOMAIN: keys}, now=SystemClock().wall())[0] == WEB
        assert all(entry["use"] == "jwt-svid" and entry["kid"] for entry in json.loads(document)["keys"])


async def test_where_no_keys_of_tokens_are_known_none_is_judged(tmp_path: Path) -> None:
    """As on a node below an istiod, which tells none."""
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        (svid,) = (await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)).svids
        local.jwt = replace(local.jwt, known=())
        request = ValidateJWTSVIDRequest(audience="db", svid=svid.svid)
        assert await status_of(stub.ValidateJWTSVID(request, metadata=HEADER)) is Status.UNAVAILABLE
        assert await status_of(first(stub.FetchJWTBundles, JWTBundlesRequest())) is Status.UNAVAILABLE


async def test_bad_requests_for_jwt_svids(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        cases = {
            JWTSVIDRequest().SerializeToString(): Status.INVALID_ARGUMENT,
            JWTSVIDRequest(audience=["a"], spiffe_id="nonsense").SerializeToString(): Status.INVALID_ARGUMENT,
            JWTSVIDRequest(audience=["a"], spiffe_id=str(DB)).SerializeToString(): Status.PERMISSION_DENIED,
            JWTSVIDRequest(audience=[str(i) for i in range(99)]).SerializeToString(): Status.INVALID_ARGUMENT,
        }
        for request, expected in cases.items():
            call = stub.FetchJWTSVID(JWTSVIDRequest.FromString(request), metadata=HEADER)
            assert await status_of(call) is expected


async def test_a_new_signing_key_is_pushed_and_the_former_is_still_known(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, api(local) as stub:
        old = await stub.FetchJWTSVID(JWTSVIDRequest(audience=["db"]), metadata=HEADER)
        async with stub.FetchJWTBundles.open(metadata=HEADER, timeout=10) as stream:
            await stream.send_message(JWTBundlesRequest(), end=True)
            await stream.recv_message()
            local.jwt = local.jwt.rotated(new_key())
            local.changed()
            after = await stream.recv_message()
            assert after is not None
            assert len(parse_key_set(after.bundles[f"spiffe://{DOMAIN}"], use="jwt-svid")) == 2
            await stream.cancel()
        request = ValidateJWTSVIDRequest(audience="db", svid=old.svids[0].svid)
        assert (await stub.ValidateJWTSVID(request, metadata=HEADER)).spiffe_id == str(WEB)
        local.jwt = JwtKeys.of(DOMAIN, new_key())
        assert await status_of(stub.ValidateJWTSVID(request, metadata=HEADER)) is Status.INVALID_ARGUMENT


# --- SDS ----------------------------------------------------------------------------------------------------------


def secrets_in(response: DiscoveryResponse) -> dict[str, Secret]:
    found = [Secret.FromString(resource.value) for resource in response.resources]
    return {secret.name: secret for secret in found}


async def test_envoys_names_are_served_and_rotations_pushed(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, channel(local) as opened:
        sds = SecretDiscoveryServiceStub(opened)
        async with sds.StreamSecrets.open(timeout=10) as stream:
            await stream.send_message(DiscoveryRequest(resource_names=["default", "ROOTCA"], type_url=SECRET_TYPE))
            answer = await stream.recv_message()
            assert answer is not None
            found = secrets_in(answer)
            assert found["default"].tls_certificate.certificate_chain.inline_bytes.count(b"BEGIN CERT") == 2
            roots = found["ROOTCA"].validation_context.trusted_ca.inline_bytes
            assert roots == local.authority.bundle.pem(DOMAIN)
            ack = DiscoveryRequest(
                resource_names=["default", "ROOTCA"],
                type_url=SECRET_TYPE,
                response_nonce=answer.nonce,
                version_info=answer.version_info,
            )
            await stream.send_message(ack)
            await local.rotate()
            pushed = await stream.recv_message()
            assert pushed is not None
            assert pushed.version_info != answer.version_info
            assert pushed.nonce != answer.nonce
            await stream.cancel()


async def test_a_rejected_secret_is_not_sent_again_until_it_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with workload_socket(tmp_path, OURS) as local, channel(local) as opened:
        sds = SecretDiscoveryServiceStub(opened)
        async with sds.StreamSecrets.open(timeout=10) as stream:
            await stream.send_message(DiscoveryRequest(resource_names=["default"], type_url=SECRET_TYPE))
            answer = await stream.recv_message()
            assert answer is not None
            nack = DiscoveryRequest(resource_names=["default"], type_url=SECRET_TYPE, response_nonce=answer.nonce)
            nack.error_detail.message = "I do not like it"
            await stream.send_message(nack)
            await local.rotate()
            pushed = await stream.recv_message()
            assert pushed is not None
            assert pushed.version_info != answer.version_info  # the next one, not the same again
            assert "secret rejected" in caplog.text
            await stream.cancel()


async def test_delta_sends_what_changed_alone_and_resumes_from_versions(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, channel(local) as opened:
        sds = SecretDiscoveryServiceStub(opened)
        request = DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=["default", "ROOTCA"])
        async with sds.DeltaSecrets.open(timeout=10) as stream:
            await stream.send_message(request)
            versions = _versions(await stream.recv_message())
            assert set(versions) == {"default", "ROOTCA"}
            await local.rotate()
            pushed = _versions(await stream.recv_message())
            assert set(pushed) == {"default"}
            await stream.cancel()
        request.initial_resource_versions.update({**versions, **pushed, "default": "old"})
        async with sds.DeltaSecrets.open(timeout=10) as stream:
            await stream.send_message(request)
            assert _versions(await stream.recv_message()) == pushed
            await stream.cancel()


async def test_fetch_gives_secrets_once(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, channel(local) as opened:
        names = [str(WEB), f"spiffe://{DOMAIN}"]
        answer = await SecretDiscoveryServiceStub(opened).FetchSecrets(DiscoveryRequest(resource_names=names))
        assert list(secrets_in(answer)) == names


async def test_bad_requests_for_secrets(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local, channel(local) as opened:
        sds = SecretDiscoveryServiceStub(opened)

        async def status(names: list[str], type_url: str = SECRET_TYPE) -> Status:
            return await status_of(sds.FetchSecrets(DiscoveryRequest(resource_names=names, type_url=type_url)))

        assert await status(["default"], "type.googleapis.com/unknown.Type") is Status.INVALID_ARGUMENT
        assert await status(["nonsense"]) is Status.NOT_FOUND
        assert await status([str(DB)]) is Status.PERMISSION_DENIED
        assert await status(["spiffe://elsewhere.example"]) is Status.NOT_FOUND
        assert await status([str(number) for number in range(2000)]) is Status.RESOURCE_EXHAUSTED
        with pytest.raises(GRPCError) as caught:
            async with sds.StreamSecrets.open(timeout=10) as stream:
                await stream.send_message(DiscoveryRequest(type_url="type.googleapis.com/unknown.Type"))
                await stream.recv_message()
        assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_process_without_identity_gets_no_secret_of_envoys(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, ProcessRule(identity=WEB, uid=UID + 1)) as local, channel(local) as opened:
        call = SecretDiscoveryServiceStub(opened).FetchSecrets(DiscoveryRequest(resource_names=["default"]))
        assert await status_of(call) is Status.PERMISSION_DENIED


def _versions(response: DeltaDiscoveryResponse | None) -> dict[str, str]:
    assert response is not None
    return {resource.name: resource.version for resource in response.resources}


def _der_length(der: bytes) -> int:
    """Of the first certificate: a SEQUENCE with a length of two bytes."""
    assert der[:2] == b"\x30\x82"
    return 4 + int.from_bytes(der[2:4], "big")


class _Past(SystemClock):
    """Ten years and a day ago: what a CA made then has ended."""

    def wall(self) -> Any:
        return super().wall() - 3651 * 86_400
