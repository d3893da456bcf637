"""Discovery and registration over the control socket: real gRPC between one control plane and several clients."""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from hbone.control.attest_unix import Grant
from hbone.control.channel import ControlRefused, UnixEndpoint, calling
from hbone.control.lease import ServiceWish, Wish
from hbone.control.register import Registration
from hbone.control.registry import LOOPBACK_POOL
from hbone.control.subscribe import AddressSink, Subscription
from hbone.discovery.model import MeshState, Protocol, Service, Workload
from hbone.discovery.store import Change, Source, Store, Update
from hbone.discovery.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE, Interest, NodeInfo, Reject
from hbone.discovery.xds import Update as ResourceUpdate
from hbone.errors import Unreachable
from hbone.net.tasks import Tasks
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest
from tests.support.controlplane import Served, serving
from tests.support.tcp import eventually

STRANGER = os.geteuid() + 1
LIMIT_S = 10


def workload(name: str, last_octet: int, **more: Any) -> Workload:
    return Workload(
        uid=f"c//Pod/shop/{name}", name=name, namespace="shop", addresses=(ip_address(f"10.0.0.{last_octet}"),), **more
    )


WEB = workload("web", 1)
DB = workload("db", 2)
SERVICE = Service(name="web", namespace="shop", hostname="web.shop.svc.cluster.local", ports={80: 8080})


class Watcher:
    """A node's view of the mesh: its store, and waiting until it looks as it should."""

    def __init__(self, endpoint: UnixEndpoint, name: str = "n1", interest: Interest = Interest.WILDCARD) -> None:
        self.store = Store()
        self.applied: list[Update] = []
        self._changed = asyncio.Event()
        node = NodeInfo(id=name, metadata={"NODE_NAME": name})
        self.subscription = Subscription(
            endpoint,
            node,
            {ADDRESS_TYPE: AddressSink(self._apply)},
            random.Random(1),
            interests={ADDRESS_TYPE: interest},
        )

    def _apply(self, update: Update) -> Change:
        self.applied.append(update)
        self._changed.set()
        return self.store.apply(update, Source.XDS)

    async def until(self, condition: Callable[[Store], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition(self.store):
                self._changed.clear()
                await self._changed.wait()

    async def until_names(self, *names: str) -> None:
        await self.until(lambda store: sorted(w.name for w in store.workloads()) == sorted(names))


@asynccontextmanager
async def watching(
    endpoint: UnixEndpoint, name: str = "n1", interest: Interest = Interest.WILDCARD
) -> AsyncGenerator[Watcher]:
    watcher = Watcher(endpoint, name, interest)
    task = asyncio.create_task(watcher.subscription.run(), name=f"watcher {name}")
    try:
        yield watcher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with serving(Served(directory=tmp_path)) as up:
        yield up


async def until(condition: Callable[[], bool]) -> None:
    """For facts on the server's side that nobody announces: looks again whenever the loop has nothing better to do."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


# discovery


async def test_a_subscriber_gets_the_whole_mesh_and_then_each_change(served: Served) -> None:
    served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(WEB, DB), services=(SERVICE,)))
    async with watching(served.endpoint) as node:
        async with asyncio.timeout(LIMIT_S):
            await node.subscription.wait_synced()
        assert node.store.workloads() == (DB, WEB)
        assert node.store.services() == (SERVICE,)
        before = len(node.applied)
        served.mesh.apply(Update(workloads=(workload("cache", 3),)), Source.MANIFESTS)
        await node.until_names("cache", "db", "web")
        served.mesh.apply(Update(removed=(DB.uid, SERVICE.key)), Source.MANIFESTS)
        await node.until_names("cache", "web")
        assert node.store.services() == ()
        assert [len(update.workloads) for update in node.applied[before:]] == [1, 0]


async def test_a_change_of_one_workload_sends_that_one_alone(served: Served) -> None:
    many = tuple(workload(f"w{n}", n) for n in range(1, 200))
    served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=many))
    async with watching(served.endpoint) as node:
        await node.until(lambda store: len(store.workloads()) == len(many))
        before = len(node.applied)
        served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(*many[1:], workload("new", 250))))
        await node.until(lambda store: store.workload("c//Pod/shop/new") is not None)
        (update,) = node.applied[before:]
        assert [w.name for w in update.workloads] == ["new"]
        assert update.removed == ("c//Pod/shop/w1",)


async def test_state_survives_the_control_plane_and_only_differences_come_after_it(served: Served) -> None:
    served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(WEB, DB)))
    async with watching(served.endpoint) as node:
        await node.until_names("db", "web")
        await served.stop()
        await until(lambda: not node.subscription.connected)
        assert [w.name for w in node.store.workloads()] == ["db", "web"]
        served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(WEB, workload("cache", 3))))
        before = len(node.applied)
        await until(lambda: node.subscription.error is not None)
        await served.restart()
        await node.until_names("cache", "web")
        updates = node.applied[before:]
        assert [w.name for update in updates for w in update.workloads] == ["cache"]
        assert [name for update in updates for name in update.removed] == [DB.uid]
        assert node.subscription.error is None


async def test_a_subscriber_that_starts_first_finds_the_control_plane_later(tmp_path: Path) -> None:
    async with watching(UnixEndpoint(tmp_path / "control.sock")) as node:
        await until(lambda: isinstance(node.subscription.error, Unreachable))
        async with serving(Served(directory=tmp_path)) as served:
            served.mesh.apply(Update(workloads=(WEB,)), Source.MANIFESTS)
            await node.until_names("web")


async def test_a_rejected_resource_is_shown_on_both_sides_and_the_rest_is_in_force(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hbone.discovery.catalogue import Resource
    from hbone.proto import workload_pb2 as pb

    bad = pb.Address(workload=pb.Workload(uid="bad", namespace="shop", addresses=[b"abc"])).SerializeToString()
    served.mesh.catalogues[ADDRESS_TYPE].update([Resource(name="bad", body=bad)])
    served.mesh.apply(Update(workloads=(WEB,)), Source.MANIFESTS)
    async with watching(served.endpoint) as node:
        await node.until_names("web")
        await until(lambda: any(view.nacks for one in served.server.subscribers() for view in one.types))
        (subscriber,) = served.server.subscribers()
        (view,) = subscriber.types
        assert (subscriber.node, subscriber.caller) == ("n1", f"uid {os.geteuid()} (pid {os.getpid()})")
        assert view.nack is not None
        assert view.nack.message == "bad: failed to parse address, had 3 bytes"
        assert [r.name for r in node.subscription.views()[0].rejected] == ["bad"]
        served.mesh.catalogues[ADDRESS_TYPE].update([], ["bad"])
        served.mesh.apply(Update(workloads=(DB,)), Source.MANIFESTS)
        await node.until_names("db", "web")
        async with asyncio.timeout(LIMIT_S):
            await node.subscription.wait_synced()


async def test_a_subscriber_that_never_answers_holds_up_nobody_and_gets_the_newest_at_last(
    served: Served,
) -> None:
    served.mesh.apply(Update(workloads=(WEB,)), Source.MANIFESTS)
    async with calling(served.endpoint) as channel, watching(served.endpoint) as node:
        stub = AggregatedDiscoveryServiceStub(channel)
        async with stub.DeltaAggregatedResources.open() as silent:
            await silent.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))
            first = await silent.recv_message()
            assert first is not None
            for turn in range(50):
                served.mesh.apply(Update(workloads=(workload("web", 1, node=f"n{turn}"),)), Source.MANIFESTS)
            await node.until(lambda store: store.workload(WEB.uid) == workload("web", 1, node="n49"))
            stuck = next(one for one in served.server.subscribers() if one.node == "")
            assert stuck.types[0].unanswered == 1
            await silent.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, response_nonce=first.nonce))
            second = await silent.recv_message()
            assert second is not None
            assert len(second.resources) == 1
            assert b"n49" in second.resources[0].resource.value
            await silent.end()


async def test_a_subscriber_that_does_not_read_is_no_burden(served: Served) -> None:
    served.mesh.replace_all(
        Source.MANIFESTS,
        MeshState(workloads=tuple(workload(f"w{n}", n % 250 + 1, node="x" * 4000) for n in range(5000))),
    )
    async with calling(served.endpoint) as channel:
        opened = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources.open()
        async with opened as deaf:
            await deaf.send_message(DeltaDiscoveryRequest(type_url=ADDRESS_TYPE))  # 20 MB are more than its window
            async with watching(served.endpoint) as node:
                await node.until(lambda store: len(store.workloads()) == 5000)
            await deaf.cancel()
    await until(lambda: served.server.subscribers() == ())


async def test_a_stream_that_ends_is_forgotten(served: Served) -> None:
    async with watching(served.endpoint) as node:
        async with asyncio.timeout(LIMIT_S):
            await node.subscription.wait_synced()
        assert len(served.server.subscribers()) == 1
    await until(lambda: served.server.subscribers() == ())


async def test_policies_are_served_as_a_type_so_that_a_ztunnel_becomes_ready(served: Served) -> None:
    async with calling(served.endpoint) as channel:
        opened = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources.open()
        async with opened as stream:
            for type_url in (ADDRESS_TYPE, AUTHORIZATION_TYPE, "type.googleapis.com/unknown.Type"):
                await stream.send_message(DeltaDiscoveryRequest(type_url=type_url))
            answered = {(await stream.recv_message()).type_url for _ in range(2)}  # type: ignore[union-attr]
            assert answered == {ADDRESS_TYPE, AUTHORIZATION_TYPE}
            await until(lambda: any(one.unknown_types for one in served.server.subscribers()))
            await stream.end()


async def test_on_demand_brings_only_what_was_asked_for(served: Served) -> None:
    served.mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(WEB, DB), services=(SERVICE,)))
    async with watching(served.endpoint, interest=Interest.ON_DEMAND) as node, asyncio.timeout(LIMIT_S):
        await node.subscription.demand(ADDRESS_TYPE, "/10.0.0.1")
        assert [w.name for w in node.store.workloads()] == ["web"]
        await node.subscription.demand(ADDRESS_TYPE, "/10.9.9.9")  # there is none: answered all the same
        await node.subscription.demand(ADDRESS_TYPE, "/10.0.0.1")  # known by now
        await node.subscription.demand(ADDRESS_TYPE, SERVICE.key)
        assert node.store.services() == (SERVICE,)
        await served.restart()
        served.mesh.apply(Update(workloads=(workload("web", 1, node="moved"),)), Source.MANIFESTS)
        await node.until(lambda store: store.workloads()[0].node == "moved")
        assert [w.name for w in node.store.workloads()] == ["web"]


async def test_a_stranger_sees_nothing_of_the_mesh(tmp_path: Path) -> None:
    async with serving(Served(directory=tmp_path, owner_uid=STRANGER)) as served:
        served.mesh.apply(Update(workloads=(WEB,)), Source.MANIFESTS)
        async with watching(served.endpoint) as node:
            await until(lambda: isinstance(node.subscription.error, ControlRefused))
            assert node.store.workloads() == ()


# registration

EXPOSE = Wish(
    namespace="shop", service_account="web", hbone_port=15008, services=(ServiceWish(ports={80: 8080}),), node="laptop"
)


async def test_an_exposed_port_is_known_to_every_node_until_its_program_ends(served: Served) -> None:
    async with watching(served.endpoint) as one, watching(served.endpoint, "n2") as two:
        async with Registration(served.endpoint, EXPOSE, random.Random(1)) as registration:
            granted = registration.granted
            assert granted.addresses[0] in LOOPBACK_POOL
            assert granted.hostnames == ("web.shop.mesh.internal",)
            assert str(granted.spiffe_id) == "spiffe://cluster.local/ns/shop/sa/web"
            for node in (one, two):
                await node.until_names("web")
                service = node.store.service_named("web.shop.mesh.internal")
                assert service is not None
                (endpoint,) = node.store.endpoints(service)
                assert endpoint.workload.addresses == granted.addresses
                assert endpoint.workload.protocol is Protocol.HBONE
                assert dict(endpoint.ports) == {80: 8080}
            assert [lease.workload.name for lease in served.server.leases()] == ["web"]
        for node in (one, two):
            await node.until_names()
            assert node.store.services() == ()
    assert served.server.leases() == ()


async def test_a_program_that_only_calls_others_has_an_address_and_speaks_plain_tcp(served: Served) -> None:
    wish = Wish(namespace="dev", service_account="me")
    async with Registration(served.endpoint, wish, random.Random(1)) as registration:
        found = served.mesh.store.workload_at("", registration.granted.addresses[0])
        assert found is not None
        assert (found.protocol, found.services) == (Protocol.TCP, {})


async def test_another_hbone_port_reaches_the_nodes(served: Served) -> None:
    wish = Wish(namespace="shop", service_account="web", hbone_port=31008)
    async with watching(served.endpoint) as node, Registration(served.endpoint, wish, random.Random(1)):
        await node.until_names("web")
        assert node.store.workloads()[0].hbone_port == 31008


async def test_two_programs_behind_one_name_are_two_endpoints(served: Served) -> None:
    wish = Wish(
        namespace="shop",
        service_account="web",
        hbone_port=15008,
        services=(ServiceWish(hostname="front.shop.mesh.internal", ports={80: 8080}),),
    )
    async with Registration(served.endpoint, wish, random.Random(1)) as first:
        async with Registration(served.endpoint, wish, random.Random(1)) as second:
            assert (first.granted.name, second.granted.name) == ("web", "web-2")
            assert first.granted.addresses != second.granted.addresses
            service = served.mesh.store.service_named("front.shop.mesh.internal")
            assert service is not None
            assert len(served.mesh.store.endpoints(service)) == 2
        await until(lambda: len(served.server.leases()) == 1)
        assert served.mesh.store.service_named("front.shop.mesh.internal") is not None
    await until(lambda: served.mesh.store.services() == ())


BAD_WISHES = {
    "a name that is taken": (Wish(namespace="shop", service_account="x", name="taken"), "ALREADY_EXISTS.*is taken"),
    "an address that is taken": (
        Wish(namespace="shop", service_account="x", addresses=(IPv4Address("10.0.0.1"),)),
        "ALREADY_EXISTS.*10.0.0.1 is taken.*c//Pod/shop/web",
    ),
    "no namespace": (Wish(namespace="", service_account="x"), "INVALID_ARGUMENT"),
    "no service account": (Wish(namespace="shop", service_account=""), "INVALID_ARGUMENT"),
    "a bad name": (
        Wish(namespace="shop", service_account="x", name="No_Good"),
        "INVALID_ARGUMENT.*no name for a workload",
    ),
    "port 70000": (
        Wish(namespace="shop", service_account="x", hbone_port=70000),
        "INVALID_ARGUMENT.*70000 is not a port",
    ),
    "a service without ports": (
        Wish(namespace="shop", service_account="x", services=(ServiceWish(ports={}),)),
        "INVALID_ARGUMENT.*0 ports",
    ),
    "a bad host name": (
        Wish(namespace="shop", service_account="x", services=(ServiceWish(hostname="a b", ports={80: 80}),)),
        "INVALID_ARGUMENT.*not a host name",
    ),
    "the unspecified address": (
        Wish(namespace="shop", service_account="x", addresses=(IPv4Address("0.0.0.0"),)),
        "INVALID_ARGUMENT.*0.0.0.0",
    ),
}


@pytest.mark.parametrize("name", BAD_WISHES)
async def test_a_registration_that_cannot_be_had_is_refused_with_the_reason(served: Served, name: str) -> None:
    served.mesh.apply(Update(workloads=(WEB,)), Source.MANIFESTS)
    wish, expected = BAD_WISHES[name]
    async with Registration(
        served.endpoint, Wish(namespace="shop", service_account="t", name="taken"), random.Random(1)
    ):
        with pytest.raises(ControlRefused, match=expected):
            async with Registration(served.endpoint, wish, random.Random(1)):
                pass
        assert [lease.workload.name for lease in served.server.leases()] == ["taken"]


async def test_a_granted_user_registers_its_own_identities_names_and_loopback_addresses_only(tmp_path: Path) -> None:
    grants = {os.geteuid(): (Grant(namespace="shop", service_account="web"),)}
    async with serving(Served(directory=tmp_path, owner_uid=STRANGER, grants=grants)) as served:
        async with Registration(served.endpoint, EXPOSE, random.Random(1)):
            pass
        for wish, expected in (
            (Wish(namespace="bank", service_account="web"), "PERMISSION_DENIED.*may not have"),
            (
                Wish(namespace="shop", service_account="web", addresses=(IPv4Address("10.1.1.1"),)),
                "may not register the address 10.1.1.1",
            ),
            (
                Wish(
                    namespace="shop",
                    service_account="web",
                    services=(ServiceWish(hostname="pay.bank.mesh.internal", ports={80: 80}),),
                ),
                "may not register the host name pay.bank.mesh.internal",
            ),
        ):
            with pytest.raises(ControlRefused, match=expected):
                async with Registration(served.endpoint, wish, random.Random(1)):
                    pass


async def test_a_registration_is_taken_again_after_a_restart_with_the_same_name_and_address(served: Served) -> None:
    async with Registration(served.endpoint, EXPOSE, random.Random(1)) as registration:
        granted = registration.granted
        await served.stop()
        await until(lambda: not registration.held)
        assert served.mesh.store.workloads() == ()
        await served.restart()
        await until(lambda: registration.held)
        assert registration.granted == granted
        assert served.mesh.store.workload(granted.uid) is not None


async def test_a_program_that_is_killed_leaves_no_workload(served: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(served.endpoint.path))
    writer.close()
    await writer.wait_closed()
    del reader
    registration = Registration(served.endpoint, EXPOSE, random.Random(1))
    await registration.__aenter__()
    await registration._tasks.close()  # pyright: ignore[reportPrivateUsage]  # no farewell, as after SIGKILL
    await until(lambda: served.mesh.store.workloads() == ())


async def test_without_a_control_plane_a_registration_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no control plane answers"):
        async with Registration(UnixEndpoint(tmp_path / "none.sock"), EXPOSE, random.Random(1)):
            pass


async def test_a_fault_of_ours_with_one_response_does_not_end_the_subscription(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that silently hears nothing any more, of revocations too, would be the worst of all."""
    store = Store()
    sink = AddressSink(lambda update: store.apply(update, Source.XDS))
    stumbled: list[str] = []

    class Stumbling:
        async def take(self, updates: Sequence[ResourceUpdate], removed: Sequence[str]) -> Sequence[Reject]:
            if any(update.name == "stone" for update in updates) and not stumbled:
                stumbled.append("stone")
                raise KeyError("a bug")
            return await sink.take(updates, removed)

    subscription = Subscription(
        served.endpoint, NodeInfo(id="n", metadata={}), {ADDRESS_TYPE: Stumbling()}, random.Random(1)
    )
    async with Tasks("test") as tasks:
        tasks.keep(subscription.run, name="discovery")
        await subscription.wait_synced()
        served.mesh.apply(Update(workloads=(Workload(uid="stone", name="stone", namespace="n"),)), Source.MANIFESTS)
        await eventually(lambda: store.workload("stone") is not None)
    assert "a bug" in caplog.text
