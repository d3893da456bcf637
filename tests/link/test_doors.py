"""A whole control plane, as `hbone control` makes it: its doors for other machines and for processes of this one."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hbone.addr import SocketAddress
from hbone.app.control import Control
from hbone.app.doors import WORKLOAD_SOCKET
from hbone.app.place import Place
from hbone.app.tokens import Wanted, desk
from hbone.config.load import SettingsFile, load_control
from hbone.config.model import ControlSettings
from hbone.config.refs import AccountRef
from hbone.control.caplane import JWT_KEY
from hbone.control.channel import ControlRefused, UnixEndpoint, opened
from hbone.control.join import Member, enrol
from hbone.control.tokens import JoinToken
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.errors import InvalidConfiguration, UsageError
from hbone.net.clock import SystemClock
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest
from hbone.proto.sds_grpc import SecretDiscoveryServiceStub
from hbone.proto.secret_pb2 import Secret
from hbone.proto.sotw_pb2 import DiscoveryRequest
from tests.support.controlplane import spiffe

WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
CLOCK = SystemClock()
TLS = {"listeners": {"control_tls": "127.0.0.1:0"}}
RULE = {"attest": [{"as": "shop/web", "uid": os.geteuid()}]}


@asynccontextmanager
async def running(directory: Path, **settings: object) -> AsyncGenerator[tuple[Control, Place]]:
    place = Place(environment={}, state_dir=directory / "state")
    async with Control(ControlSettings.model_validate(settings), place) as control:
        yield control, place


async def token_for(place: Place, account: str = "shop/web") -> JoinToken:
    wanted = Wanted(account=AccountRef.parse(account), node="", ttl_s=60)
    return JoinToken.parse((await desk(place).create(wanted)).token)


async def joined(place: Place, directory: Path) -> Member:
    return await enrol(await token_for(place), directory, CLOCK, ttl_s=3600)


async def test_a_machine_joins_by_a_token_of_the_control_plane(tmp_path: Path) -> None:
    async with running(tmp_path, **TLS) as (control, place):
        member = await joined(place, tmp_path / "vm")
        assert member.svid.spiffe_id == WEB
        audit = control.journal_path.read_text()
        assert "join token created" in audit
        assert "join token used" in audit
        (view,) = await desk(place).all()
        assert (view.state, view.spiffe_id) == ("used", str(WEB))


async def test_a_used_token_is_used_after_a_restart_too(tmp_path: Path) -> None:
    async with running(tmp_path, **TLS) as (_, place):
        token = await token_for(place)
        await enrol(token, tmp_path / "vm", CLOCK, ttl_s=60)
    async with running(tmp_path, **TLS) as (control, place):
        assert control.doors.listener is not None
        address = control.doors.listener.address
        assert isinstance(address, SocketAddress)
        moved = JoinToken(
            address=str(address), pin=token.pin, identity=token.identity, token_id=token.token_id, secret=token.secret
        )
        with pytest.raises(ControlRefused, match="used up"):
            await enrol(moved, tmp_path / "other", CLOCK, ttl_s=60)


async def test_revocation_cuts_the_streams_of_a_machine_and_refuses_its_renewal(tmp_path: Path) -> None:
    async with running(tmp_path, **TLS) as (control, place):
        member = await joined(place, tmp_path / "vm")
        channel = member.endpoint.channel()
        try:
            discovery = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources
            with pytest.raises(Exception, match=r"(?i)lost|closed|reset|terminated"):
                async with opened(discovery, member.endpoint) as stream:
                    await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
                    assert await stream.recv_message() is not None
                    await control.ca.revoke(WEB, "keyCompromise")
                    async with asyncio.timeout(2):
                        while await stream.recv_message() is not None:
                            pass
                    raise ConnectionError("closed")
        finally:
            channel.close()
        await member.fetch(WEB)  # the one it has
        with pytest.raises(ControlRefused, match="UNAUTHENTICATED"):
            await member.fetch(WEB)


async def test_processes_get_identities_where_a_rule_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, **RULE) as (control, place):
        path = place.state / WORKLOAD_SOCKET
        assert stat.S_IMODE(path.stat().st_mode) == 0o666  # who gets what, the kernel's word decides
        assert stat.S_IMODE((place.state / JWT_KEY).stat().st_mode) == 0o600
        assert f"unix://{path}" in "\n".join(control.summary())
        for socket in (path, control.socket_path):
            assert set(await secrets(socket, "default", "ROOTCA")) == {"default", "ROOTCA"}
        named = await secrets(control.socket_path, str(DB))  # we run it: we may name what we like
        assert str(DB) in named


async def test_lists_are_served_once_something_was_revoked(tmp_path: Path) -> None:
    async with running(tmp_path, **RULE) as (control, _):
        before = (await secrets(control.socket_path, "ROOTCA"))["ROOTCA"].validation_context
        assert not before.crl.inline_bytes
        await control.ca.revoke(DB, "superseded")
        after = (await secrets(control.socket_path, "ROOTCA"))["ROOTCA"].validation_context
        assert after.crl.inline_bytes.count(b"BEGIN X509 CRL") == 2  # the root's and the intermediate's


async def test_without_listeners_there_is_no_way_in_for_others(tmp_path: Path) -> None:
    async with running(tmp_path) as (control, place):
        assert control.doors.listener is None
        assert not (place.state / WORKLOAD_SOCKET).exists()
        with pytest.raises(ControlRefused, match="other machines cannot reach this control plane"):
            await token_for(place)


async def test_a_port_that_is_taken_starts_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "a", **TLS) as (control, _):
        assert control.doors.listener is not None
        taken = {"listeners": {"control_tls": str(control.doors.listener.address)}}
        with pytest.raises(UsageError):
            async with running(tmp_path / "b", **taken):
                pass
        assert not (tmp_path / "b" / "state" / "control.sock").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listeners: {control_plaintext: '0.0.0.0:15010'}", "tokens would go over the network in clear"),
        ("attest: [{as: shop/web}]", "every process would have this identity"),
        ("jwt_issuers: [{issuer: a, jwks: b, audiences: []}]", "tokens for anybody would be taken"),
        ("jwt_issuers: [{issuer: a, jwks: b}, {issuer: a, jwks: c}]", "given twice"),
        ("jwt_issuers: [{issuer: a}]", "jwks"),
        ("attest: [{as: web, uid: 1}]", "NAMESPACE/ACCOUNT"),
    ],
)
def test_settings_that_would_let_too_many_in_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidConfiguration, match=problem):
        load_control(SettingsFile(name="control.yaml", text=text))


def test_istios_variable_for_node_accounts_is_a_list_with_commas() -> None:
    found = load_control(None, {"CA_TRUSTED_NODE_ACCOUNTS": "istio-system/ztunnel, kube-system/other"}).settings
    assert [str(one) for one in found.node_accounts] == ["istio-system/ztunnel", "kube-system/other"]


async def secrets(socket: Path, *names: str) -> dict[str, Secret]:
    channel = UnixEndpoint(socket).channel()
    try:
        answer = await SecretDiscoveryServiceStub(channel).FetchSecrets(
            DiscoveryRequest(resource_names=names), timeout=5
        )
    finally:
        channel.close()
    return {found.name: found for found in (Secret.FromString(one.value) for one in answer.resources)}
