"""The keeper: waiters, rotations, outages; with a source that the test works by hand."""

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

from hbone.control.credentials import Credentials
from hbone.control.issue import Issuer
from hbone.control.local_ca import LocalCa
from hbone.control.renew import IdentityKeeper
from hbone.control.renewals import Priority
from hbone.errors import HboneError, IdentityUnavailable, Unreachable
from hbone.identity.spiffe import SpiffeId
from tests.support.controlplane import FakeClock, make_authority, spiffe

WEB = spiffe("shop", "web")
LIMIT_S = 10


class Source:
    """A real CA in this process whose line can be cut."""

    def __init__(self, clock: FakeClock) -> None:
        authority = make_authority(clock)
        issuer = Issuer(lambda: authority, clock=clock, rng=random.Random(5))
        self._ca = LocalCa(issuer, ttl_s=3600)
        self.fault: Exception | None = None
        self.asked: asyncio.Queue[SpiffeId] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        self.asked.put_nowait(spiffe_id)
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return await self._ca.fetch(spiffe_id)


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.source = Source(self.clock)
        self.keeper = IdentityKeeper(self.source, self.clock, random.Random(1))

    async def wait_asked(self) -> SpiffeId:
        async with asyncio.timeout(LIMIT_S):
            return await self.source.asked.get()

    async def pass_until_due(self, spiffe_id: SpiffeId = WEB) -> None:
        (view,) = [view for view in self.keeper.views() if view.spiffe_id == spiffe_id]
        self.clock.advance(view.renewal_in_s)
        self.keeper.wake()
        await self.wait_asked()


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    made = Rig()
    async with made.keeper:
        yield made


async def test_many_callers_wait_for_one_request(rig: Rig) -> None:
    rig.source.open.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(rig.keeper.get(WEB)) for _ in range(20)]
        await rig.wait_asked()
        rig.source.open.set()
    assert len({id(task.result()) for task in waiting}) == 1
    assert rig.source.asked.empty()
    assert rig.keeper.current(WEB) is waiting[0].result()


async def test_a_rotation_is_told_to_subscribers_and_served_from_then_on(rig: Rig) -> None:
    told: asyncio.Queue[Credentials] = asyncio.Queue()
    end = rig.keeper.on_rotation(lambda _, credentials: told.put_nowait(credentials))
    first = await rig.keeper.get(WEB)
    assert await told.get() is first
    await rig.pass_until_due()
    async with asyncio.timeout(LIMIT_S):
        second = await told.get()
    assert rig.keeper.current(WEB) is second
    assert second.svid.serial != first.svid.serial
    end()
    end()  # twice does no harm


async def test_an_outage_leaves_the_old_certificate_in_use_and_ends_with_a_new_one(rig: Rig) -> None:
    first = await rig.keeper.get(WEB)
    rig.source.asked.get_nowait()
    rig.source.fault = Unreachable("the CA is away")
    for _ in range(5):
        await rig.pass_until_due()
        assert await rig.keeper.get(WEB) is first
    assert rig.keeper.views()[0].failing == "the CA is away"
    rig.source.fault = None
    told = asyncio.Event()
    rig.keeper.on_rotation(lambda _, __: told.set())
    await rig.pass_until_due()
    async with asyncio.timeout(LIMIT_S):
        await told.wait()
    assert (await rig.keeper.get(WEB)) is not first


async def test_a_failure_without_a_certificate_is_raised_with_its_reason_and_then_at_once(rig: Rig) -> None:
    rig.source.fault = Unreachable("the CA is away")
    with pytest.raises(IdentityUnavailable, match=f"no certificate for {WEB}: the CA is away"):
        await rig.keeper.get(WEB)
    await rig.wait_asked()
    with pytest.raises(IdentityUnavailable, match="the CA is away"):
        await rig.keeper.get(WEB)
    assert rig.source.asked.empty()


async def test_callers_after_a_sleep_past_the_end_get_a_new_certificate(rig: Rig) -> None:
    first = await rig.keeper.get(WEB)
    rig.clock.wall_at += 7200
    assert rig.keeper.current(WEB) is None
    assert (await rig.keeper.get(WEB)) is not first


async def test_a_forgotten_identity_releases_its_waiters(rig: Rig) -> None:
    rig.source.open.clear()
    waiting = asyncio.ensure_future(rig.keeper.get(WEB))
    await rig.wait_asked()
    rig.keeper.forget(WEB)
    with pytest.raises(IdentityUnavailable, match="no longer needed"):
        await waiting


async def test_a_source_that_never_answers_is_given_up_after_the_deadline() -> None:
    clock = FakeClock()
    source = Source(clock)
    source.open.clear()
    async with IdentityKeeper(source, clock, random.Random(1), deadline_s=0.01) as keeper:
        with pytest.raises(IdentityUnavailable, match=r"no answer within 0\.01 s"):
            await keeper.get(WEB)


async def test_the_line_about_a_certificate_gives_its_end_as_a_date(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hbone.control"):
        svid = (await rig.keeper.get(WEB)).svid
    (line,) = [record for record in caplog.records if record.message == "certificate issued"]
    assert line.__dict__["not_after"].timestamp() == pytest.approx(svid.not_after, abs=1)


async def test_a_bug_in_a_source_or_subscriber_costs_no_identity(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.source.fault = RuntimeError("bug")
    with pytest.raises(IdentityUnavailable, match="bug"):
        await rig.keeper.get(WEB)
    await rig.wait_asked()
    rig.source.fault = None

    def fail(*_: object) -> None:
        raise ValueError("not taken")

    rig.keeper.on_rotation(fail)
    told = asyncio.Event()
    rig.keeper.on_rotation(lambda _, __: told.set())
    await rig.pass_until_due()
    async with asyncio.timeout(LIMIT_S):
        await told.wait()
    assert rig.keeper.current(WEB) is not None
    assert "a rotation was not taken" in caplog.text


async def test_a_prefetched_identity_is_there_when_it_is_needed(rig: Rig) -> None:
    rig.keeper.prefetch(WEB)
    assert await rig.wait_asked() == WEB
    credentials = await rig.keeper.get(WEB, Priority.BACKGROUND)
    assert credentials.svid.spiffe_id == WEB
    assert rig.source.asked.empty()


async def test_closing_releases_whoever_still_waits() -> None:
    rig = Rig()
    rig.source.open.clear()
    async with rig.keeper:
        waiting = asyncio.ensure_future(rig.keeper.get(WEB))
        await rig.wait_asked()
    with pytest.raises(HboneError):
        await waiting
