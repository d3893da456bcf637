"""A machine joins: token in, files on disk, certificates from then on; against a real control plane."""

import asyncio
import socket
import stat
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from hbone.control.channel import ControlRefused
from hbone.control.join import CREDENTIALS, MEMBER, ROOTS, Member, enrol, same_mesh
from hbone.control.lease import Wish
from hbone.control.nodes import node_identity
from hbone.control.pinning import WrongPin
from hbone.control.register import Registration
from hbone.control.tokens import JoinToken, TokenWish
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.errors import InvalidConfiguration, Unreachable, UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import SystemClock, system_rng
from hbone.times import WallTime
from tests.support.controlplane import DOMAIN, make_authority, spiffe
from tests.support.remote import Remote, Wanted, remote

WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
CLOCK = SystemClock()


async def token_for(up: Remote, identity: SpiffeId = WEB) -> JoinToken:
    return (await up.tokens.create(TokenWish(identity=identity)))[0]


async def joined(up: Remote, directory: Path, identity: SpiffeId = WEB) -> Member:
    return await enrol(await token_for(up, identity), directory, CLOCK, ttl_s=3600)


async def test_a_token_becomes_a_membership_in_files_that_nobody_else_reads(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        assert member.svid.spiffe_id == WEB
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "vm").iterdir()}
        assert modes == {MEMBER: 0o600, CREDENTIALS: 0o600, ROOTS: 0o600}
        assert stat.S_IMODE((tmp_path / "vm").stat().st_mode) == 0o700


async def test_a_restart_needs_no_token_and_no_control_plane(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        first = await joined(up, tmp_path / "vm")
    again = Member.load(tmp_path / "vm", CLOCK)
    assert again is not None
    assert (await again.fetch(WEB)).svid.serial == first.svid.serial


async def test_a_control_plane_that_is_away_is_said_with_a_remedy_for_another_machine(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
    wish = Wish(namespace="shop", service_account="web", hbone_port=15008)
    with pytest.raises(Unreachable, match="no control plane answers at 127") as caught:
        async with Registration(member.endpoint, wish, system_rng()):
            pass
    assert "address and port" in caught.value.fix
    assert "hbone up" not in caught.value.fix, "that would be one of this machine"


WISH = Wish(namespace="shop", service_account="web", hbone_port=15008)


async def until_held(registration: Registration) -> None:
    async with asyncio.timeout(15):
        while not registration.held:  # noqa: ASYNC110 - of the other end's making
            await asyncio.sleep(0.01)


async def test_a_machine_goes_on_as_what_it_was_while_the_control_plane_is_away_and_is_registered_as_that(
    tmp_path: Path,
) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        async with Registration(member.endpoint, WISH, system_rng()) as registration:
            granted = registration.granted
            member.keep_grant(WISH, granted)
        port = up.address.port
        assert member.granted(replace(WISH, hbone_port=7)) is None
    kept = member.granted(WISH)
    assert kept == granted
    async with Registration(member.endpoint, WISH, system_rng(), kept=kept) as registration:
        assert registration.granted == granted
        assert not registration.held
        async with remote(tmp_path, Wanted(port=port, authority=up.authority)) as back:
            await until_held(registration)
            (workload,) = back.mesh.store.workloads()
            assert (workload.name, workload.addresses) == (granted.name, granted.addresses)


async def test_a_control_plane_that_is_silent_is_waited_for_a_moment_only_by_who_was_registered_before(
    tmp_path: Path,
) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        async with Registration(member.endpoint, WISH, system_rng()) as registration:
            granted = registration.granted
    with socket.create_server(("127.0.0.1", up.address.port)):  # accepts, and says nothing
        began = asyncio.get_running_loop().time()
        async with Registration(member.endpoint, WISH, system_rng(), kept=granted) as registration:
            assert registration.granted == granted
            assert asyncio.get_running_loop().time() - began < 5
        with pytest.raises(Unreachable, match="did not answer"):
            async with Registration(member.endpoint, WISH, system_rng(), deadline_s=0.2):
                pass


async def test_a_control_plane_that_refuses_counts_more_than_what_was_kept(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        async with Registration(member.endpoint, WISH, system_rng()) as registration:
            granted = registration.granted
        other = replace(WISH, service_account="db")
        with pytest.raises(ControlRefused, match="may have its own identity only"):
            async with Registration(member.endpoint, other, system_rng(), kept=granted):
                pass


async def test_a_member_is_told_how_it_becomes_another(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        assert same_mesh(member, await token_for(up)) is None
        refusal = same_mesh(member, await token_for(up, DB))
    assert refusal is not None
    assert f"remove {tmp_path / 'vm'}" in refusal.fix


async def test_the_kept_certificate_gets_its_successor_which_is_kept_then(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        await joined(up, tmp_path / "vm")
        member = Member.load(tmp_path / "vm", CLOCK)
        assert member is not None
        kept = await member.fetch(WEB)
        renewed = await member.fetch(WEB)
        assert renewed.svid.serial != kept.svid.serial
        assert member.svid == renewed.svid
        later = Member.load(tmp_path / "vm", CLOCK)
        assert later is not None
        assert later.svid.serial == renewed.svid.serial


async def test_a_node_gets_what_is_placed_on_it_by_its_own_certificate(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm", node_identity(DOMAIN, "vm-1"))
        assert member.membership.node == "vm-1"
        with pytest.raises(ControlRefused, match="no workload of"):
            await member.fetch(DB)
        placed = Workload(uid="a", name="db-0", namespace="shop", service_account="db", node="vm-1", addresses=())
        up.mesh.apply(Update(workloads=(placed,)), Source.MANIFESTS)
        assert (await member.fetch(DB)).svid.spiffe_id == DB


async def test_a_member_registers_itself_and_is_gone_when_it_goes(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        wish = Wish(namespace="shop", service_account="web", hbone_port=15008)
        async with Registration(member.endpoint, wish, system_rng()) as registration:
            (workload,) = up.mesh.store.workloads()
            assert workload.identity == WEB
            assert registration.granted.addresses == workload.addresses
            assert workload.addresses[0] in (ip_address("127.0.0.1"), *workload.addresses)
        async with asyncio.timeout(5):
            while up.mesh.store.workloads():  # noqa: ASYNC110 - what the server does when a stream has ended
                await asyncio.sleep(0)


async def test_a_stranger_at_the_address_gets_neither_token_nor_member(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with remote(tmp_path / "a") as ours, remote(tmp_path / "b") as stranger:
        token = replace(await token_for(ours), address=str(stranger.address))
        with pytest.raises(WrongPin, match="not the control plane that this token is of"):
            await enrol(token, tmp_path / "vm", CLOCK, ttl_s=60)
        assert not (tmp_path / "vm" / MEMBER).exists()
        (record,) = await ours.tokens.all()
        assert not record.used_by


async def test_what_is_no_control_plane_is_said(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        token = await token_for(up)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            silent.close()
            with pytest.raises(Unreachable, match="cannot be reached"):
                await enrol(replace(token, address=f"127.0.0.1:{port}"), tmp_path / "vm", CLOCK, ttl_s=60)

        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-x\r\n")
            writer.close()

        other = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with other:
            port = other.sockets[0].getsockname()[1]
            with pytest.raises(Unreachable, match="no control plane"):
                await enrol(replace(token, address=f"127.0.0.1:{port}"), tmp_path / "vm", CLOCK, ttl_s=60)


async def test_new_roots_are_kept_for_the_next_connection(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        member = await joined(up, tmp_path / "vm")
        member.trust(up.authority.bundle.merged(make_authority().bundle))
        assert (tmp_path / "vm" / ROOTS).read_text().count("BEGIN CERTIFICATE") == 2
        await member.fetch(WEB)
        assert (await member.fetch(WEB)).svid.spiffe_id == WEB


class _Later(SystemClock):
    """Two hours from now."""

    def wall(self) -> WallTime:
        return WallTime(super().wall() + 7200)


async def test_what_is_kept_and_of_no_use_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        await joined(up, tmp_path / "vm")
    with pytest.raises(UsageError, match="certificate ended at") as caught:
        Member.load(tmp_path / "vm", _Later())
    assert "join again with a new token" in caught.value.fix
    (tmp_path / "vm" / CREDENTIALS).chmod(0o644)
    with pytest.raises(InvalidConfiguration, match="lets others in"):
        Member.load(tmp_path / "vm", CLOCK)
    (tmp_path / "vm" / CREDENTIALS).chmod(0o600)
    (tmp_path / "vm" / CREDENTIALS).write_text("nothing")
    with pytest.raises(UsageError, match="damaged"):
        Member.load(tmp_path / "vm", CLOCK)
    (tmp_path / "vm" / ROOTS).unlink()
    (tmp_path / "vm" / MEMBER).write_text("{}")
    with pytest.raises(UsageError, match="damaged"):
        Member.load(tmp_path / "vm", CLOCK)
    assert Member.load(tmp_path / "elsewhere", CLOCK) is None
