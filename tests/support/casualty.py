"""A CA that is killed again and again: `python -m tests.support.casualty DIRECTORY TIMES SEED` (see test_ca_killed).

Each round a child issues certificates, revokes, rotates and registers as fast as it can, and writes down what it was
told is done. Its parent kills it at a random moment, opens the state, and checks that everything that was written down
is there.
"""

import asyncio
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

from hbone.ca.csr import new_request
from hbone.ca.generations import Phase, State
from hbone.control import audit, records
from hbone.control.caplane import CaPlace, CaPlane
from hbone.control.issue import CertificateRequest, Issuer
from hbone.control.lease import Holder, ServiceWish, Wish
from hbone.control.publish import Mesh
from hbone.control.registrations import Registrations
from hbone.control.registry import Registry
from hbone.control.revoker import Serial
from hbone.control.rotation import Rotation, RotationParts
from hbone.control.statedir import intrusions
from hbone.control.trust_resource import decode
from hbone.discovery.store import Source
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import SystemClock, new_key, system_rng

DOMAIN = TrustDomain("cluster.local")
KEY = new_key()
WISH = Wish(namespace="shop", service_account="cart", hbone_port=15008, services=(ServiceWish(ports={80: 8080}),))
HOLDER = Holder(uid=1000, label="casualty", trusted=True)
MAX_LEASES = 10
IDENTITIES = [SpiffeId.for_workload(DOMAIN, "shop", f"w{n}") for n in range(4)]


def place(directory: Path) -> CaPlace:
    return CaPlace(directory=directory, trust_domain=DOMAIN, clock=SystemClock(), rng=system_rng())


async def work(directory: Path, out: int) -> None:
    """Until killed."""
    ca = await CaPlane.open(place(directory))
    issuer = Issuer(lambda: ca.authorities.signing, clock=SystemClock(), rng=system_rng(), ledger=ca.ledger)
    parts = RotationParts(
        store=ca.store,
        authorities=ca.authorities,
        trust=ca.trust,
        clock=SystemClock(),
        subscribers=lambda: (),
        revision=lambda: 0,
    )
    rotation = Rotation(parts)

    async def issue(identity: SpiffeId) -> None:
        while True:
            request = CertificateRequest(csr=new_request(new_key(), identity), impersonated=str(identity))
            issued = await issuer.issue(request, caller="casualty", refusal=lambda _: "")
            os.write(out, b"issued %x\n" % issued.certificate.serial_number)

    async def revoke() -> None:
        while True:
            found = await ca.store.read(lambda database: records.find(database, records.Wanted(limit=5, revoked=False)))
            for one in found:
                await ca.revoke(Serial(serial=one.serial), "superseded")
                os.write(out, b"revoked %x\n" % one.serial)
            await asyncio.sleep(0)

    async def rotate() -> None:
        while True:
            await rotation.forward()
            while ca.authorities.now.phase is not Phase.NONE:
                await rotation.force()
                os.write(out, f"signs {ca.authorities.now.active.number}\n".encode())
            await rotation.renew_intermediate()

    desk = Desk(ca)
    await desk.registrations.restore()

    async def register() -> None:
        """A few leases at any time. That one ends is said before, since nobody is told when it is on disk."""
        held = list(desk.registry.leases())
        while True:
            lease, update = desk.registry.register(WISH, HOLDER)
            desk.mesh.apply(update, Source.REGISTRATIONS)
            await desk.registrations.put(lease)
            os.write(out, f"registered {lease.workload.uid}\n".encode())
            held.append(lease)
            while len(held) > MAX_LEASES:
                gone = held.pop(0)
                os.write(out, f"released {gone.workload.uid}\n".encode())
                desk.registrations.release(gone)

    await asyncio.gather(*(issue(identity) for identity in IDENTITIES), revoke(), rotate(), register())


class Desk:
    """Registrations of a CA's state, as a control plane has them."""

    def __init__(self, ca: CaPlane) -> None:
        self.mesh = Mesh()
        self.registry = Registry(self.mesh.store, DOMAIN)
        self.registrations = Registrations(ca.store, self.registry, self.mesh, SystemClock())


async def check_leases(ca: CaPlane, said: list[str]) -> None:
    """What was registered and not released is in force again, and nothing that nobody registered."""
    desk = Desk(ca)
    await desk.registrations.restore()
    found = {workload.uid for workload in desk.mesh.store.workloads()}
    released: set[str] = set()
    wanted: set[str] = set()
    for line in said:
        word, uid = line.split()
        if word == "registered":
            wanted.add(uid)
            released.discard(uid)  # a name is used again
        elif word == "released":
            wanted.discard(uid)
            released.add(uid)
    assert wanted <= found, f"lost: {wanted - found}"
    assert len(found) <= MAX_LEASES + 4, found  # one on its way in, some on their way out


async def check(directory: Path, said: list[str]) -> None:
    """Open what is left, and find everything that was acknowledged."""
    async with await CaPlane.open(place(directory)) as ca:
        for line in said:
            word, value = line.split()
            if word in {"registered", "released"}:
                continue
            if word == "signs":
                assert ca.authorities.now.active.number >= int(value), line
                continue
            serial = int(value, 16)
            record = await ca.store.read(partial(records.with_serial, serial=serial))
            assert record is not None, f"{line} was lost"
            assert word == "issued" or record.revoked_at is not None, f"{line} was lost"
            if word == "revoked":
                assert record.key_sha256 in ca.trust.bundle.revocations.keys, line
        await check_leases(ca, said)
        generations = ca.authorities.now
        assert len(generations.in_state(State.ACTIVE)) == 1
        assert all(one.authority.key_fits for one in generations.by_number.values())
        decode(DOMAIN, ca.trust.current.message().SerializeToString())
        ca.authorities.signing.issue(KEY.public_key(), IDENTITIES[0], ttl_s=60, now=SystemClock().wall(), serial=1)
        faults = await ca.store.read(audit.first_fault)
        assert faults is None, f"the audit log breaks at {faults}"
        check_result = await ca.store.read(lambda database: database.execute("PRAGMA integrity_check").fetchone()[0])
        assert check_result == "ok", check_result
        wanted = {one.stem for one in (directory / "ca" / "keys").iterdir()}
        assert all(len(stem) == 64 for stem in wanted), f"half a key: {wanted}"
    for path in (directory, directory / "ca", directory / "ca" / "keys"):
        assert intrusions(path, "0700") == []
    for path in [directory / "control.db", directory / "audit.jsonl", *(directory / "ca" / "keys").iterdir()]:
        assert intrusions(path, "0600") == []


def one_round(directory: Path, rng: random.Random) -> int:
    """How much was acknowledged before the end."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            asyncio.run(work(directory, write))
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(rng.uniform(0.0, 0.25))
    os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as said:
        lines = [line for line in said.read().split("\n")[:-1] if line]
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"
    asyncio.run(check(directory, lines))
    return len(lines)


def main() -> None:
    directory, times, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    acknowledged = sum(one_round(directory, rng) for _ in range(times))
    sys.stdout.write(f"{times} kills, {acknowledged} acknowledged, none lost\n")


if __name__ == "__main__":
    main()
