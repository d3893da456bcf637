"""Leases on disk, so that a restart of the control plane takes nobody out of the mesh.

A lease is on disk before it is acknowledged, and gone from there when its stream ends. After a restart those on disk
are in force again, without a stream: their programs come back within seconds and claim them, under the same name and
addresses. What nobody has claimed by then ends. A member of a WorkloadGroup is given such a time whenever its
connection is lost, as istiod does: a machine that restarts is the same workload again.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import orjson

from hbone.addr import parse_ip
from hbone.control.lease import Holder, Lease, RegistrationRefused, ServiceWish, Wish
from hbone.control.publish import Mesh
from hbone.control.registry import Registry
from hbone.control.store import StateStore
from hbone.discovery.model import Workload
from hbone.discovery.store import Source
from hbone.errors import HboneError
from hbone.times import Clock

log = logging.getLogger("hbone.control")

GROUP_GRACE_S: Final = 10.0  # istiod's PILOT_WORKLOAD_ENTRY_GRACE_PERIOD
CLAIM_WITHIN_S: Final = 25.0  # a client's longest pause between two attempts is 22.5 s (control/backoff.py)


class Registrations:
    """Of one control plane. `restore` first; `run` is its life; `keep` before it stops."""

    def __init__(
        self, store: StateStore, registry: Registry, mesh: Mesh, clock: Clock, *, group_grace_s: float = GROUP_GRACE_S
    ) -> None:
        self._store = store
        self._registry = registry
        self._mesh = mesh
        self._clock = clock
        self._stopping = False
        self._group_grace_s = group_grace_s
        self._graces: set[asyncio.TimerHandle] = set()

    async def restore(self) -> int:
        """Put what is on disk in force again; how many."""
        rows = await self._store.read(lambda database: database.execute(_ALL).fetchall())
        restored = 0
        for uid, content in rows:
            try:
                wish, holder = _decode(orjson.loads(content))
                _, update = self._registry.restore(wish, holder)
            except (RegistrationRefused, HboneError, KeyError, TypeError, ValueError) as error:
                log.warning("registration not restored", extra={"workload": uid, "error": str(error)[:300]})
                self._store.write_later(_delete(uid))
                continue
            self._mesh.apply(update, Source.REGISTRATIONS)
            restored += 1
        return restored

    async def put(self, lease: Lease, *, instead_of: Lease | None = None) -> None:
        """On disk when this returns; raises StoreFailed."""
        content = orjson.dumps(_encode(lease)).decode()
        now = self._clock.wall()
        row = (lease.workload.uid, str(lease.holder.uid), content, now)
        gone = instead_of.workload.uid if instead_of is not None else lease.workload.uid

        def work(database: sqlite3.Connection) -> None:
            database.execute(_DELETE, (gone,))
            database.execute(_PUT, row)

        await self._store.write(work)

    def release(self, lease: Lease) -> bool:
        """The stream has ended: so does the lease, unless it is we who stop. Whether it did."""
        if self._stopping:
            return False
        if lease.wish.group and self._group_grace_s:
            self._lose(lease)
            return False
        self._end(lease)
        return True

    def _lose(self, lease: Lease) -> None:
        lost, update = self._registry.lose(lease)
        if not update.workloads:
            return
        self._mesh.apply(update, Source.REGISTRATIONS)
        log.info("group member lost", extra={"workload": lost.workload.uid, "ends_in_s": self._group_grace_s})

        def end() -> None:
            self._graces.discard(timer)
            if self._registry.is_lost(lost):
                self._end(lost)
                log.info("registration ended", extra={"workload": lost.workload.uid})

        timer = asyncio.get_running_loop().call_later(self._group_grace_s, end)
        self._graces.add(timer)

    def _end(self, lease: Lease) -> None:
        update = self._registry.release(lease)
        if update.removed:
            self._store.write_later(_delete(lease.workload.uid))
        self._mesh.apply(update, Source.REGISTRATIONS)

    def regroup(self, groups: Mapping[str, Workload]) -> None:
        """The groups are these now: their members change with them."""
        self._mesh.apply(self._registry.regroup(groups), Source.REGISTRATIONS)

    def keep(self) -> None:
        """From now on streams end because we stop: leases stay as they are, for the next start."""
        self._stopping = True
        for timer in self._graces:
            timer.cancel()
        self._graces.clear()

    async def run(self) -> None:
        """What nobody has claimed in time ends."""
        await asyncio.sleep(CLAIM_WITHIN_S)
        for lease in self._registry.unclaimed():
            log.info("registration not claimed again", extra={"workload": lease.workload.uid})
            self._end(lease)


_ALL = "SELECT uid, wish FROM registrations ORDER BY at"
_DELETE = "DELETE FROM registrations WHERE uid = ?"
_PUT = "INSERT OR REPLACE INTO registrations (uid, holder_uid, wish, at) VALUES (?, ?, ?, ?)"


def _delete(uid: str) -> Any:
    def work(database: sqlite3.Connection) -> int:
        return database.execute(_DELETE, (uid,)).rowcount

    return work


def _encode(lease: Lease) -> dict[str, Any]:
    wish, holder = lease.wish, lease.holder
    return {
        "namespace": wish.namespace,
        "service_account": wish.service_account,
        "name": wish.name,
        "addresses": [str(ip) for ip in lease.workload.addresses],
        "hbone_port": wish.hbone_port,
        "services": [
            {"hostname": one.hostname, "ports": [[service, target] for service, target in one.ports.items()]}
            for one in wish.services
        ],
        "node": wish.node,
        "group": wish.group,
        "holder": {
            "uid": holder.uid,
            "label": holder.label,
            "trusted": holder.trusted,
            "addresses": [str(ip) for ip in holder.addresses],
        },
    }


def _decode(values: dict[str, Any]) -> tuple[Wish, Holder]:
    services = tuple(
        ServiceWish(hostname=one["hostname"], ports={int(service): int(target) for service, target in one["ports"]})
        for one in values["services"]
    )
    wish = Wish(
        namespace=values["namespace"],
        service_account=values["service_account"],
        name=values["name"],
        addresses=tuple(parse_ip(text) for text in values["addresses"]),
        hbone_port=values["hbone_port"],
        services=services,
        node=values["node"],
        group=values.get("group", ""),
    )
    found = values["holder"]
    holder = Holder(
        uid=found["uid"],
        label=found["label"],
        trusted=found["trusted"],
        addresses=frozenset(parse_ip(text) for text in found["addresses"]),
    )
    return wish, holder
