"""Registrations and restarts of the control plane."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

from hbone.control.caplane import DATABASE
from hbone.control.lease import Holder, ServiceWish, Wish
from hbone.control.publish import Mesh
from hbone.control.register import Registration
from hbone.control.registrations import Registrations
from hbone.control.registry import Registry
from hbone.control.store import StateStore
from hbone.discovery.store import Change, Source, Update
from hbone.net.clock import SystemClock, system_rng
from tests.support.camesh import CaMesh
from tests.support.controlplane import DOMAIN

WISH = Wish(namespace="shop", service_account="cart", hbone_port=15008, services=(ServiceWish(ports={80: 8080}),))
OWNER = Holder(uid=1000, label="uid 1000", trusted=True)


def names(mesh: CaMesh) -> list[str]:
    return [workload.name for workload in mesh.control.mesh.store.workloads()]


async def test_a_restart_of_the_control_plane_takes_nobody_out_of_the_mesh(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, Registration(mesh.endpoint, WISH, system_rng()) as registration:
        granted = registration.granted
        seen: list[Change] = []
        await mesh.stop()
        await mesh.start()
        assert names(mesh) == ["cart"], "at once, before its program is back"
        mesh.control.mesh.on_change(seen.append)
        await mesh.until(lambda: registration.held)
        assert registration.granted == granted
        assert names(mesh) == ["cart"]
        assert not any(one.after is None for change in seen for one in change.workloads)


async def test_a_program_that_goes_takes_its_lease_along_for_good(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh:
        async with Registration(mesh.endpoint, WISH, system_rng()):
            assert names(mesh) == ["cart"]
        await mesh.until(lambda: names(mesh) == [])
        await mesh.restart()
        assert names(mesh) == []


async def test_what_was_acknowledged_is_on_disk(tmp_path: Path) -> None:
    async with CaMesh(tmp_path) as mesh, Registration(mesh.endpoint, WISH, system_rng()):
        database = sqlite3.connect(mesh.state / DATABASE)
        assert database.execute("SELECT uid FROM registrations").fetchall() == [
            ("Kubernetes/hbone/Registration/shop/cart",)
        ]
        database.close()


async def test_a_restart_of_the_control_plane_keeps_the_members_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "vms.yaml").write_text(
        "{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {name: vms, namespace: shop},"
        " spec: {template: {serviceAccount: cart, weight: 7}}}"
    )
    member = replace(WISH, group="vms", services=())
    async with CaMesh(tmp_path, manifests=tmp_path / "mesh", group_grace_s=0.3) as mesh:
        async with Registration(mesh.endpoint, member, system_rng()) as registration:
            granted = registration.granted
            await mesh.restart()
            (workload,) = mesh.control.mesh.store.workloads()
            assert (workload.uid, workload.capacity, workload.addresses) == (granted.uid, 7, granted.addresses)
            await mesh.until(lambda: registration.held)
            assert registration.granted == granted
        await mesh.until(lambda: names(mesh) == [])
        await mesh.restart()
        assert names(mesh) == [], "its end is on disk"


class Desk:
    """Registrations over a store, as a restart finds them."""

    def __init__(self, store: StateStore) -> None:
        self.mesh = Mesh()
        self.registry = Registry(self.mesh.store, DOMAIN)
        self.registrations = Registrations(store, self.registry, self.mesh, SystemClock())

    def register(self, wish: Wish, holder: Holder = OWNER) -> None:
        lease, update = self.registry.register(wish, holder)
        self.mesh.apply(update, Source.REGISTRATIONS)
        self.lease = lease


async def test_only_its_holder_claims_a_restored_lease_and_others_get_another_name(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "control.db")
    first = Desk(store)
    first.register(WISH)
    await first.registrations.put(first.lease)
    again = Desk(store)
    assert await again.registrations.restore() == 1
    assert [lease.workload for lease in again.registry.unclaimed()] == [first.lease.workload]
    again.register(WISH, Holder(uid=7, label="uid 7", trusted=True))
    assert again.lease.workload.name == "cart-2"
    again.register(again.registry.unclaimed()[0].wish)
    assert again.lease.workload == first.lease.workload
    assert again.registry.unclaimed() == ()
    store.close()


async def test_what_cannot_be_restored_is_said_and_dropped(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "control.db")
    put = "INSERT INTO registrations (uid, holder_uid, wish, at) VALUES (?, 0, ?, 0)"
    await store.write(lambda database: database.execute(put, ("broken", "{}")).rowcount)
    desk = Desk(store)
    assert await desk.registrations.restore() == 0
    count = "SELECT count(*) FROM registrations"
    async with asyncio.timeout(5):
        while await store.read(lambda database: database.execute(count).fetchone()[0]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    store.close()


async def test_a_lease_that_is_released_while_the_server_stops_is_kept(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "control.db")
    desk = Desk(store)
    desk.register(WISH)
    await desk.registrations.put(desk.lease)
    desk.registrations.keep()
    assert not desk.registrations.release(desk.lease)
    assert await Desk(store).registrations.restore() == 1
    assert desk.registry.release(desk.lease) != Update()
    store.close()
