"""What an agent tells its workers, and whom else it tells nothing."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hbone.app.workers.feed import Feeds, Forwarder, certificates_of
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, UnixEndpoint
from hbone.control.local_ca import LocalCa
from hbone.control.publish import Mesh
from hbone.control.subscribe import Subscription
from hbone.discovery.store import Source
from hbone.discovery.xds import AUTHORIZATION_TYPE, NodeInfo, Reject, Update
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import SystemClock
from hbone.net.tasks import Tasks
from tests.support.controlplane import Served, serving, spiffe

WEB = spiffe("web", "web")


def ours() -> frozenset[int]:
    return frozenset({os.getpid()})


@asynccontextmanager
async def feeding(feeds: Feeds, directory: Path, pids: Callable[[], frozenset[int]] = ours) -> AsyncGenerator[Feeds]:
    await feeds.start(directory, pids)
    try:
        yield feeds
    finally:
        await feeds.close()


class Slow:
    """A worker's sink that takes nothing before it is allowed to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.allowed = asyncio.Event()

    async def take(self, updates: Sequence[Update], removed: Sequence[str]) -> Sequence[Reject]:
        if updates:
            self.asked.set()
            await self.allowed.wait()
        return ()


async def test_a_worker_s_certificate_comes_from_the_control_plane_behind_the_agent(tmp_path: Path) -> None:
    async with serving(Served(directory=tmp_path)) as served:
        feeds = Feeds({Source.XDS: Mesh()}, certificates_of(CaClient(served.endpoint, ttl_s=600)), SystemClock())
        async with feeding(feeds, tmp_path):
            client = CaClient(UnixEndpoint(feeds.paths[Source.XDS]), ttl_s=600)
            credentials = await client.fetch(WEB)
            assert credentials.svid.spiffe_id == WEB
            with pytest.raises(ControlRefused) as refused:
                await client.fetch(SpiffeId.parse("spiffe://other.example/ns/a/sa/b"))
            assert refused.value.code == "UNAUTHENTICATED"


async def test_a_control_plane_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    feeds = Feeds(
        {Source.XDS: Mesh()},
        certificates_of(CaClient(UnixEndpoint(tmp_path / "nobody.sock"), ttl_s=600)),
        SystemClock(),
    )
    async with feeding(feeds, tmp_path):
        with pytest.raises(ControlRefused) as refused:
            await CaClient(UnixEndpoint(feeds.paths[Source.XDS]), ttl_s=600).fetch(WEB)
        assert (refused.value.code, refused.value.passing) == ("UNAVAILABLE", True)


async def test_a_process_that_is_no_worker_gets_nothing(tmp_path: Path) -> None:
    async with serving(Served(directory=tmp_path)) as served:
        feeds = Feeds({Source.XDS: Mesh()}, certificates_of(LocalCa(served.plane.issuer)), SystemClock())
        async with feeding(feeds, tmp_path, pids=lambda: frozenset({os.getppid()})):
            with pytest.raises(ControlRefused, match="UNAUTHENTICATED"):
                await CaClient(UnixEndpoint(feeds.paths[Source.XDS]), ttl_s=600).fetch(WEB)


async def test_what_is_pushed_counts_as_taken_only_when_every_worker_has_it_in_force(tmp_path: Path) -> None:
    async with serving(Served(directory=tmp_path)) as served, Tasks("test") as tasks:
        feeds = Feeds({Source.XDS: Mesh()}, certificates_of(LocalCa(served.plane.issuer)), SystemClock())
        async with feeding(feeds, tmp_path):
            endpoint, sinks = UnixEndpoint(feeds.paths[Source.XDS]), (Slow(), Slow())
            for sink in sinks:
                subscription = Subscription(
                    endpoint, NodeInfo(id="n", metadata={}), {AUTHORIZATION_TYPE: sink}, random.Random(1)
                )
                tasks.start(subscription.run(), name="worker")
                await subscription.wait_synced()
            forwarder = Forwarder(feeds.feed(Source.XDS), AUTHORIZATION_TYPE)
            update = Update(name="a/b", body=b"anything", version="1")
            taking = asyncio.ensure_future(forwarder.take([update], ()))
            for sink in sinks:
                await sink.asked.wait()
                assert not taking.done()
                sink.allowed.set()
            assert await taking == []
