"""The socket as a file, who may have what, and files that are watched."""

import asyncio
import random
import socket
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from hbone.control import manifests_watch
from hbone.control.attest_unix import Grant, UnixAccess
from hbone.control.backoff import MAX_S, reconnect_after
from hbone.control.credentials import InvalidAnswer, credentials_from
from hbone.control.manifests_watch import FilesWatch
from hbone.control.publish import Mesh
from hbone.control.unixsocket import EVERYONE, ControlSocket
from hbone.discovery.model import MeshState, Service, Workload
from hbone.discovery.store import Change, Source, Store, Update
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.errors import InvalidConfiguration, Problem, UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import new_key
from tests.support.controlplane import DOMAIN, FakeClock, make_authority, spiffe

WEB = spiffe("shop", "web")

# the socket


def test_the_socket_is_for_its_owner_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "control.sock"
    control = ControlSocket.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    control.close()
    assert not path.exists()
    ControlSocket.listen(path, mode=EVERYONE).close()


def test_a_socket_that_nobody_answers_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    ControlSocket.listen(path).close()


def test_a_socket_that_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        with pytest.raises(UsageError, match="another process serves"):
            ControlSocket.listen(path)
        assert path.exists()
    first = tmp_path / "own.sock"
    control = ControlSocket.listen(first)
    with pytest.raises(UsageError, match="`hbone up` runs already"):
        ControlSocket.listen(first)
    control.close()


def test_another_file_in_its_place_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(UsageError, match="is not a socket"):
        ControlSocket.listen(path)
    assert path.read_text() == "precious"


def test_a_directory_that_everybody_writes_to_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(UsageError, match="everybody may write"):
        ControlSocket.listen(open_to_all / "control.sock")


def test_a_path_that_the_system_cannot_take_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        ControlSocket.listen(tmp_path / ("x" * 120))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        ControlSocket.listen(blocked / "control.sock")


def test_a_socket_that_a_successor_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first = ControlSocket.listen(path)
    path.unlink()
    path.write_text("somebody else's")
    first.close()
    assert path.exists()


# who may have what


def access(**grants: tuple[Grant, ...]) -> UnixAccess:
    return UnixAccess(trust_domain=DOMAIN, owner_uid=1000, grants={int(k[1:]): v for k, v in grants.items()})


@pytest.mark.parametrize(
    ("uid", "wanted", "allowed"),
    [
        (1000, "spiffe://cluster.local/ns/shop/sa/web", True),
        (0, "spiffe://cluster.local/ns/shop/sa/web", True),
        (1000, "spiffe://cluster.local/any/path", True),
        (1000, "spiffe://other/ns/shop/sa/web", False),
        (0, "spiffe://cluster.local", False),
        (0, "spiffe://cluster.local/ns/hbone-system/sa/control", False),
        (1000, "spiffe://cluster.local/ns/hbone-nodes/sa/vm-7", False),
        (1003, "spiffe://cluster.local/ns/hbone-system/sa/control", False),
        (1001, "spiffe://cluster.local/ns/shop/sa/web", True),
        (1001, "spiffe://cluster.local/ns/shop/sa/db", False),
        (1001, "spiffe://cluster.local/ns/bank/sa/web", False),
        (1001, "spiffe://cluster.local/any/path", False),
        (1002, "spiffe://cluster.local/ns/shop/sa/db", True),
        (1003, "spiffe://cluster.local/any/path", True),
        (1004, "spiffe://cluster.local/ns/shop/sa/web", False),
    ],
)
def test_the_owner_and_root_may_have_all_others_what_was_granted(uid: int, wanted: str, allowed: bool) -> None:
    rule = access(
        u1001=(Grant(namespace="shop", service_account="web"),),
        u1002=(Grant(namespace="shop", service_account="*"),),
        u1003=(Grant(namespace="*", service_account="*"),),
    )
    assert (rule.refusal(uid, SpiffeId.parse(wanted)) == "") is allowed


def test_who_has_no_right_at_all_may_not_connect() -> None:
    rule = access(u1001=(Grant(namespace="shop", service_account="web"),), u1002=())
    assert [rule.may_connect(uid) for uid in (0, 1000, 1001, 1002, 1003)] == [True, True, True, False, False]
    assert [rule.is_trusted(uid) for uid in (0, 1000, 1001)] == [True, True, False]


# what a CA may answer


def test_answers_that_are_no_certificate_for_us_are_refused() -> None:
    clock = FakeClock()
    authority, key = make_authority(clock), new_key()
    good = authority.issue(key.public_key(), WEB, ttl_s=60, now=clock.wall(), serial=5).response()
    assert credentials_from(good, key, WEB).svid.spiffe_id == WEB
    for chain, why in (
        ([], "an empty chain"),
        (good[:1], "a chain without root"),
        (["x", "y"], "not PEM"),
        ([good[0], "no root"], "not PEM"),
    ):
        with pytest.raises(InvalidAnswer, match=why):
            credentials_from(chain, key, WEB)
    with pytest.raises(InvalidAnswer, match="does not belong"):
        credentials_from(good, new_key(), WEB)
    with pytest.raises(InvalidAnswer, match=r"returned a certificate of .*web"):
        credentials_from(good, key, spiffe("shop", "db"))


def test_reconnects_wait_longer_and_never_in_step() -> None:
    rng = random.Random(1)
    assert all(0.025 <= reconnect_after(0, rng) <= 0.075 for _ in range(100))
    far = [reconnect_after(1000, rng) for _ in range(100)]
    assert max(far) <= 1.5 * MAX_S
    assert max(far) - min(far) > MAX_S / 2


# the published mesh

A = Workload(uid="a", name="a", namespace="shop")
B = Workload(uid="b", name="b", namespace="shop")
S = Service(name="s", namespace="shop", hostname="s.shop")


def test_what_is_in_the_store_is_what_is_published() -> None:
    store = Store()
    store.apply(Update(workloads=(A,)), Source.MANIFESTS)
    mesh = Mesh(store)
    told: list[Change] = []
    end = mesh.on_change(told.append)
    mesh.apply(Update(services=(S,)), Source.REGISTRATIONS)
    mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(B,)))
    assert set(mesh.catalogues[ADDRESS_TYPE].versions()) == {"b", S.key}
    mesh.apply(Update(removed=(S.key,)), Source.REGISTRATIONS)
    assert set(mesh.catalogues[ADDRESS_TYPE].versions()) == {"b"}
    assert len(told) == 3
    mesh.replace_all(Source.MANIFESTS, MeshState(workloads=(B,)))  # nothing new
    end()
    mesh.apply(Update(workloads=(A,)), Source.MANIFESTS)
    assert len(told) == 3


# files that are watched


class Watched:
    """A file whose words are the names of workloads; the word "bad" makes it invalid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.taken = asyncio.Event()
        self.watch = FilesWatch(path, self._load, self._apply)

    def _load(self, path: Path) -> MeshState:
        file = path / "mesh.txt" if path.is_dir() else path
        words = file.read_text().split()
        if "bad" in words:
            raise InvalidConfiguration([Problem(what="bad", fix="write good", file=str(file), line=1)])
        return MeshState(workloads=tuple(Workload(uid=word, name=word, namespace="n") for word in words))

    def _apply(self, state: MeshState) -> None:
        self.names = [workload.name for workload in state.workloads]
        self.taken.set()

    async def wait_names(self, *names: str) -> None:
        async with asyncio.timeout(20):
            while self.names != list(names):
                self.taken.clear()
                await self.taken.wait()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncGenerator[Watched]:
    (tmp_path / "mesh.txt").write_text("a")
    made = Watched(tmp_path)
    task = asyncio.create_task(made.watch.run(), name="watch")
    yield made
    task.cancel()
    await asyncio.wait([task])


async def test_a_first_load_that_is_invalid_is_raised(tmp_path: Path) -> None:
    (tmp_path / "mesh.txt").write_text("bad")
    watched = Watched(tmp_path)
    with pytest.raises(InvalidConfiguration):
        await watched.watch.load()
    assert watched.names == []


async def test_an_invalid_state_never_replaces_a_valid_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "mesh.txt"
    file.write_text("a b")
    watched = Watched(tmp_path)
    await watched.watch.load()
    for text in ("a bad", "bad"):
        file.write_text(text)
        await watched.watch.reload()
        assert watched.names == ["a", "b"]
        assert [problem.what for problem in watched.watch.problems] == ["bad"]
    assert caplog.text.count("manifest not taken") == 1  # said once
    file.unlink()
    await watched.watch.reload()
    assert watched.names == ["a", "b"]
    assert watched.watch.problems
    file.write_text("c")
    await watched.watch.reload()
    assert watched.names == ["c"]
    assert watched.watch.problems == ()


async def test_a_fault_of_ours_with_one_state_leaves_the_watch_over_the_next(tmp_path: Path) -> None:
    file = tmp_path / "mesh.txt"
    file.write_text("a")
    watched = Watched(tmp_path)
    await watched.watch.load()

    def stumble(path: Path) -> MeshState:
        if "b" in file.read_text():
            raise RuntimeError("a bug")
        return watched._load(path)  # pyright: ignore[reportPrivateUsage]

    watched.watch = FilesWatch(tmp_path, stumble, watched._apply)  # pyright: ignore[reportPrivateUsage]
    task = asyncio.create_task(watched.watch.run(), name="watch")
    try:
        file.write_text("b")
        async with asyncio.timeout(20):
            while not watched.watch.problems:  # noqa: ASYNC110 -- there is no event for it
                await asyncio.sleep(0.01)
        assert watched.names == ["a"]
        file.write_text("c")
        await watched.wait_names("c")
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_change_that_a_guard_speaks_against_is_kept_out_until_it_does_not(tmp_path: Path) -> None:
    file = tmp_path / "mesh.txt"
    file.write_text("a b")
    watched = Watched(tmp_path)

    def guard(held: MeshState, loaded: MeshState) -> list[Problem]:
        gone = bool(held.workloads) and not loaded.workloads
        return [Problem(what="nothing is left", fix="put it back")] if gone else []

    watched.watch = FilesWatch(tmp_path, watched._load, watched._apply, guard)  # pyright: ignore[reportPrivateUsage]
    file.write_text("")
    await watched.watch.load()
    assert watched.names == [], "an empty beginning is nobody's mistake"
    for text, names in (("a b", ["a", "b"]), ("", ["a", "b"]), ("c", ["c"])):
        file.write_text(text)
        await watched.watch.reload()
        assert watched.names == names
        assert bool(watched.watch.problems) is (text == "")


async def test_a_change_on_disk_is_taken_also_when_the_file_is_replaced(watched: Watched) -> None:
    turn = 0

    async def write_until_seen() -> None:
        # the watch may not be set up yet when the first change is made
        nonlocal turn
        while True:
            turn += 1
            new = watched.path / ".new"
            new.write_text(f"w{turn}")
            new.rename(watched.path / "mesh.txt")
            await asyncio.sleep(0.3)

    writer = asyncio.create_task(write_until_seen(), name="writer")
    try:
        async with asyncio.timeout(20):
            await watched.taken.wait()
    finally:
        writer.cancel()
        await asyncio.wait([writer])
    (watched.path / "mesh.txt").write_text("last one")
    await watched.wait_names("last", "one")


async def test_a_change_that_is_never_announced_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made after the files were read and before the watch stood."""
    monkeypatch.setattr(manifests_watch, "LOOK_AGAIN_MS", 50)
    (tmp_path / "mesh.txt").write_text("a")
    watched = Watched(tmp_path)
    await watched.watch.load()
    (tmp_path / "mesh.txt").write_text("a b")
    task = asyncio.create_task(watched.watch.run(), name="watch")
    try:
        await watched.wait_names("a", "b")
    finally:
        task.cancel()
        await asyncio.wait([task])
