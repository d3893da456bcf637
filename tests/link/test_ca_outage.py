"""The CA is away: certificates that are valid serve on, a node restarts from its cache, and nobody storms back."""

import asyncio
import random
import stat
from pathlib import Path

import pytest

from hbone.control.ca_client import CaClient
from hbone.control.credentials import Credentials
from hbone.control.node_cache import CachedSource, NodeCache
from hbone.control.renewals import MAX_CONCURRENT, Priority, Renewals
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.discovery.xds import Update
from hbone.errors import InvalidConfiguration, Unreachable
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from hbone.net.clock import SystemClock, new_key
from hbone.proto.admin_pb2 import RevokeRequest
from tests.support.camesh import CaMesh, Load, MeshNode, echo_app
from tests.support.controlplane import FakeClock, make_authority, spiffe

A = spiffe("web", "a")
SERVES_AGAIN_S = 2.0


async def answers(node: MeshNode) -> bool:
    async with await node.connect() as tcp:
        try:
            await tcp.send(b"hello")
            return await tcp.exactly(5) == b"hello"
        except OSError:
            return False


@pytest.mark.slow
async def test_traffic_does_not_notice_an_outage_of_the_ca_and_a_node_restarts_meanwhile(tmp_path: Path) -> None:
    async with CaMesh(tmp_path, ttl_s=12) as mesh, echo_app("127.0.2.1") as app:
        await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address), cache_dir=tmp_path / "cache-a")
        c = await mesh.node("web/c", "127.0.2.3", to=str(app.address))
        async with Load(c) as load:
            await mesh.until(lambda: load.done > 5)
            serial = a.serial
            await mesh.stop()
            began = asyncio.get_running_loop().time()
            await a.stop()
            await a.start()
            assert await answers(a)
            assert asyncio.get_running_loop().time() - began < SERVES_AGAIN_S
            assert a.serial == serial, "from the cache"
            await asyncio.sleep(4)  # the half-life of everybody's certificate passes
            await mesh.start()
            await mesh.until(lambda: a.serial != serial)
            done = load.done
            await mesh.until(lambda: load.done > done + 10)
        assert load.failures == []


async def test_a_node_that_restarts_without_a_control_plane_still_knows_who_is_revoked(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, echo_app("127.0.2.1") as app:
        server = await mesh.node("shop/b", "127.0.2.1", cache_dir=tmp_path / "cache-b")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address))
        c = await mesh.node("web/c", "127.0.2.3", to=str(app.address))
        assert await answers(a)
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A)))
        await mesh.stop()
        port = server.node.dataplane.address("inbound").port
        await server.stop()
        server.listen_on(port)
        await server.start()
        assert await answers(c)
        assert not await answers(a)


# the cache itself


class Source:
    """A CA that can be away, or refuse."""

    def __init__(self) -> None:
        self.authority = make_authority()
        self.error: Exception | None = None

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        if self.error is not None:
            raise self.error
        key = new_key()
        issued = self.authority.issue(key.public_key(), spiffe_id, ttl_s=60, now=SystemClock().wall(), serial=7)
        return Credentials(svid=X509Svid.of(issued.chain, key), bundle=self.authority.bundle)


AWAY = Unreachable("the CA is away")


async def test_only_the_first_request_of_a_process_is_answered_from_the_cache(tmp_path: Path) -> None:
    source, cache = Source(), NodeCache.open(tmp_path / "cache")
    kept = await CachedSource(source, cache, SystemClock()).fetch(A)
    for path in cache.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    source.error = AWAY
    restarted = CachedSource(source, cache, SystemClock())
    assert (await restarted.fetch(A)).svid == kept.svid
    with pytest.raises(Unreachable):  # from now on the keeper waits for the CA, as without a cache
        await restarted.fetch(A)
    with pytest.raises(Unreachable):
        await restarted.fetch(spiffe("web", "other"))


async def test_a_cached_certificate_that_has_ended_or_is_refused_is_not_used(tmp_path: Path) -> None:
    source, cache = Source(), NodeCache.open(tmp_path / "cache")
    await CachedSource(source, cache, SystemClock()).fetch(A)
    source.error = AWAY
    with pytest.raises(Unreachable):
        await CachedSource(source, cache, FakeClock(SystemClock().wall() + 3600)).fetch(A)
    async with CaMesh(tmp_path) as mesh:
        await mesh.admin.revoke(RevokeRequest(spiffe_id=str(A)))
        with pytest.raises(Exception, match="was revoked"):
            await CachedSource(CaClient(mesh.endpoint, ttl_s=60), cache, SystemClock()).fetch(A)
    assert cache.credentials(A) is None, "dropped"


async def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    source, cache = Source(), NodeCache.open(tmp_path / "cache")
    await CachedSource(source, cache, SystemClock()).fetch(A)
    cache.save_resources(TRUST_BUNDLE_TYPE, {"x": Update("x", "1", b"body")})
    assert cache.resources(TRUST_BUNDLE_TYPE) == (Update("x", "1", b"body"),)
    for content in (b"", b"{}", b'{"chain": 7}', b"\xff" * 50):
        for path in cache.directory.iterdir():
            path.write_bytes(content)
        assert cache.credentials(A) is None
        assert cache.resources("type.googleapis.com/other") == ()
    (cache.directory / "hbone.control.v1.TrustBundle.pb").write_bytes(b"\xff\xff")
    assert cache.resources(TRUST_BUNDLE_TYPE) == ()
    cache.directory.chmod(0o755)
    with pytest.raises(InvalidConfiguration, match="chmod 0700"):
        NodeCache.open(cache.directory)


# when the CA is back


def storm(away_s: float, identities: int = 200, ttl_s: float = 3600.0) -> list[float]:
    """When the renewals of a fleet come, in seconds after the CA is back: it went just before their half-life."""
    clock, rng = FakeClock(), random.Random(11)
    authority = make_authority(clock)
    key = new_key()
    fleet: list[tuple[Renewals, SpiffeId]] = []
    for number in range(identities):
        renewals, spiffe_id = Renewals(clock, rng), spiffe("fleet", f"w{number}")
        renewals.need(spiffe_id, Priority.WARM_UP)
        issued = authority.issue(key.public_key(), spiffe_id, ttl_s=ttl_s, now=clock.wall(), serial=number + 1)
        assert renewals.take_due() == [spiffe_id]
        renewals.issued(spiffe_id, Credentials(svid=X509Svid.of(issued.chain, key), bundle=authority.bundle))
        fleet.append((renewals, spiffe_id))
    clock.advance(ttl_s * 0.44)
    back = clock.at + away_s
    came: list[float] = []
    while len(came) < identities:
        clock.advance(0.1)
        for renewals, spiffe_id in fleet:
            if renewals.take_due():
                if clock.at < back:
                    renewals.failed(spiffe_id, AWAY)
                else:
                    came.append(clock.at - back)
                    renewals.forget(spiffe_id)
    return came


@pytest.mark.parametrize("away_s", [600.0, 1200.0])
def test_renewals_after_an_outage_are_spread_over_more_than_ten_seconds(away_s: float) -> None:
    came = sorted(storm(away_s))
    assert came[-1] - came[0] >= 10
    busiest = max(sum(1 for other in came if one <= other < one + 1) for one in came)
    assert busiest <= 20, f"{busiest} of 200 in one second"


def test_one_nodes_identities_come_a_few_at_a_time() -> None:
    clock = FakeClock()
    renewals = Renewals(clock, random.Random(3))
    for number in range(200):
        renewals.need(spiffe("fleet", f"w{number}"), Priority.REAL_TIME)
    assert len(renewals.take_due()) == MAX_CONCURRENT
    assert renewals.take_due() == []
