"""What the control socket does when there is too much, or something is wrong on our own side."""

import asyncio
import contextlib
import random
import shutil
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from grpclib.client import Channel, Stream

from hbone.ca.authority import CertificateAuthority
from hbone.control import ads_service, manifests_watch
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, calling
from hbone.control.issue import Issuer
from hbone.control.manifests_watch import FilesWatch
from hbone.control.server import ControlPlane, ControlServer
from hbone.control.unixsocket import ControlSocket
from hbone.discovery.model import MeshState, Workload
from hbone.discovery.store import Source, Update
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.errors import Unreachable
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.support.controlplane import Served, serving, spiffe

WEB = spiffe("shop", "web")
LIMIT_S = 20


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with serving(Served(directory=tmp_path)) as up:
        yield up


async def test_connections_over_the_limit_are_closed_and_the_others_go_on(tmp_path: Path) -> None:
    served = Served(directory=tmp_path, max_connections=1)
    async with serving(served), calling(served.endpoint) as channel:
        stub = AggregatedDiscoveryServiceStub(channel)
        async with stub.DeltaAggregatedResources.open() as stream:
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            first = await stream.recv_message()
            assert first is not None
            with pytest.raises(Unreachable, match=r"closed|lost|reset|pipe"):
                await CaClient(served.endpoint, ttl_s=60).fetch(WEB)
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, response_nonce=first.nonce))
            served.mesh.apply(Update(workloads=(Workload(uid="a", name="a", namespace="n"),)), Source.MANIFESTS)
            assert await stream.recv_message() is not None
            await stream.cancel()


async def test_hundreds_that_come_at_one_moment_are_all_let_in(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):  # before the server's loop has had a turn
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect(str(served.endpoint.path))
    await CaClient(served.endpoint, ttl_s=60).fetch(WEB)


async def test_a_fault_of_our_own_is_an_internal_error_to_the_caller_and_a_traceback_in_the_log(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def no_authority() -> CertificateAuthority:
        raise RuntimeError("a bug")

    plane = ControlPlane(
        issuer=Issuer(no_authority, clock=served.clock, rng=random.Random(1)),
        mesh=served.mesh,
        registry=served.plane.registry,
        callers=served.plane.callers,
        clock=served.clock,
    )
    await served.server.close()
    served.server = ControlServer(plane)
    await served.server.start(ControlSocket.listen(served.endpoint.path))
    with pytest.raises(ControlRefused, match="INTERNAL: internal error") as caught:
        await CaClient(served.endpoint, ttl_s=60).fetch(WEB)
    assert caught.value.passing
    assert "a bug" not in str(caught.value)
    assert "a bug" in caplog.text


def discovery(channel: Channel) -> "Stream[DeltaDiscoveryRequest, DeltaDiscoveryResponse]":
    return AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources.open()


async def test_a_subscriber_that_never_answers_makes_nothing_grow_and_may_come_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ads_service, "_FORGET_ABOVE", 10)
    monkeypatch.setattr(ads_service, "_GIVE_UP_ABOVE", 50)
    catalogue = served.mesh.catalogues[ADDRESS_TYPE]
    stays = Workload(uid="stays", name="stays", namespace="n")

    async def never_answer() -> None:
        async with calling(served.endpoint) as channel, discovery(channel) as stream:
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            assert await stream.recv_message() is not None
            for n in range(200):
                passing = Workload(uid=f"w{n}", name=f"w{n}", namespace="n")
                served.mesh.apply(Update(workloads=(passing,)), Source.MANIFESTS)
                served.mesh.apply(Update(removed=(passing.uid,)), Source.MANIFESTS)
                await asyncio.sleep(0)
            served.mesh.apply(Update(workloads=(stays,)), Source.MANIFESTS)
            while await stream.recv_message() is not None:
                pass

    with pytest.raises(ControlRefused, match="too far behind"):
        async with asyncio.timeout(LIMIT_S):
            await never_answer()
    assert catalogue.removals_remembered < 60
    async with calling(served.endpoint) as channel, discovery(channel) as stream:
        held = {"w3": "a version"}
        await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, initial_resource_versions=held))
        whole = await stream.recv_message()
        assert whole is not None
        assert [one.name for one in whole.resources] == ["stays"]
        assert list(whole.removed_resources) == ["w3"]
        await stream.cancel()


async def test_removals_are_forgotten_once_every_subscriber_was_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ads_service, "_FORGET_ABOVE", 10)
    catalogue = served.mesh.catalogues[ADDRESS_TYPE]
    async with calling(served.endpoint) as channel:
        async with AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources.open() as stream:
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            first = await stream.recv_message()
            assert first is not None
            for n in range(30):  # the subscriber does not answer: its removals must wait for it
                passing = Workload(uid=f"w{n}", name=f"w{n}", namespace="n")
                served.mesh.apply(Update(workloads=(passing,)), Source.MANIFESTS)
                served.mesh.apply(Update(removed=(passing.uid,)), Source.MANIFESTS)
            assert catalogue.removals_remembered > 20
            await stream.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, response_nonce=first.nonce))
            second = await stream.recv_message()
            assert second is not None
            assert len(second.removed_resources) > 20
            await stream.cancel()
        kept = Workload(uid="kept", name="kept", namespace="n")
        served.mesh.apply(Update(workloads=(kept,)), Source.MANIFESTS)
        assert catalogue.removals_remembered == 0


async def test_a_directory_that_goes_away_keeps_its_last_state_and_is_read_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests_watch, "_RETRY_S", 0.01)
    directory = tmp_path / "mesh"
    seen: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    def load(path: Path) -> MeshState:
        names = sorted(file.name for file in path.iterdir())
        return MeshState(workloads=tuple(Workload(uid=name, name=name, namespace="n") for name in names))

    watch = FilesWatch(directory, load, lambda state: seen.put_nowait(tuple(w.name for w in state.workloads)))
    (directory / "a").mkdir(parents=True)
    task = asyncio.create_task(watch.run(), name="watch")
    try:
        async with asyncio.timeout(LIMIT_S):
            turn = 0
            while seen.empty():  # the watch may not be set up yet when the first change is made
                turn += 1
                (directory / f"b{turn}").touch()
                await asyncio.sleep(0.2)
            shutil.rmtree(directory)
            while not watch.problems:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
            while not seen.empty():
                assert "a" in seen.get_nowait() or watch.problems
            (tmp_path / "away").mkdir()
            (tmp_path / "away" / "c").touch()
            (tmp_path / "away").rename(directory)
            assert await seen.get() == ("c",)
            assert watch.problems == ()
            while not (directory / "d").exists() or await seen.get() != ("c", "d"):
                (directory / "d").touch()
    finally:
        task.cancel()
        await asyncio.wait([task])
