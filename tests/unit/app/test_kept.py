"""What large manifests said, kept for the next start: the same, or nothing."""

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hbone.app import sources
from hbone.app.kept import Kept, key_of
from hbone.app.sources import Protected, load_manifests
from hbone.discovery.manifests import Defaults
from hbone.policy.model import MeshNames

MESH = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.7, serviceAccount: cart, locality: eu/west, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms, namespace: shop}
spec: {template: {serviceAccount: cart}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.org]
  addresses: [10.9.0.0/16]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: way}}
---
apiVersion: v1
kind: Service
metadata:
  name: way
  namespace: shop
  labels: {gateway.networking.k8s.io/gateway-name: way, istio.io/waypoint-for: all}
spec: {clusterIP: 10.8.0.1, selector: {app: cart}, ports: [{port: 15008}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/web/*"], notIpBlocks: [10.1.0.0/16]}}]
    to: [{operation: {ports: ["8080"]}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
DEFAULTS, NAMES = Defaults(), MeshNames()


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that counts as large."""
    monkeypatch.setattr(sources, "KEPT_FROM_BYTES", 1)
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "all.yaml").write_text(MESH)
    return tmp_path / "mesh"


@pytest.fixture
def kept(tmp_path: Path) -> Kept[Protected]:
    return Kept(tmp_path / "manifests.kept", Protected)


def load(mesh: Path, kept: Kept[Protected], defaults: Defaults = DEFAULTS) -> Protected:
    return load_manifests(mesh, defaults, NAMES, kept)


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be parsed."""
    monkeypatch.delattr(sources, "parse_secured")


def test_an_unchanged_directory_is_not_read_again_and_says_the_same(
    mesh: Path, kept: Kept[Protected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(mesh, kept)
    kept.flush()
    assert stat.S_IMODE((tmp_path / "manifests.kept").stat().st_mode) == 0o600
    unread(monkeypatch)
    again = load(mesh, Kept(tmp_path / "manifests.kept", Protected))
    assert again == first
    assert first.groups
    assert first.policies
    assert first.state.services


@pytest.mark.parametrize("what", ["content", "name", "another file", "settings"])
def test_whatever_is_different_is_read(mesh: Path, kept: Kept[Protected], what: str) -> None:
    load(mesh, kept)
    kept.flush()
    defaults = DEFAULTS
    match what:
        case "content":
            (mesh / "all.yaml").write_text(MESH.replace("10.0.0.7", "10.0.0.8"))
        case "name":
            (mesh / "all.yaml").rename(mesh / "other.yaml")
        case "another file":
            (mesh / "more.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: web}}")
        case _:
            defaults = Defaults(network="n2")
    assert load(mesh, kept, defaults) == load_manifests(mesh, defaults, NAMES)


def test_bytes_that_move_from_one_file_to_the_next_are_another_mesh() -> None:
    assert key_of({"a": b"xy", "b": b"z"}) != key_of({"a": b"x", "b": b"yz"})
    assert key_of({"a": b"x"}, 1) != key_of({"a": b"x"}, 2)


class Evil:
    """What a hostile file would run."""

    def __init__(self, *call: object) -> None:
        self._call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self._call[0], self._call[1:]


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda _: b"",
    "garbage": lambda _: b"garbage",
    "a call": lambda place: pickle.dumps(Evil(os.mkdir, str(place))),
    "a class that a model's module uses": lambda place: pickle.dumps(Evil(Path, str(place))),
    "another value": lambda _: pickle.dumps({"no": "mesh"}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_or_hostile_file_is_as_good_as_none(
    mesh: Path, kept: Kept[Protected], tmp_path: Path, what: str
) -> None:
    first = load(mesh, kept)
    kept.flush()
    path = tmp_path / "manifests.kept"
    key = path.read_bytes()[:32]
    path.write_bytes(key + HOSTILE[what](tmp_path / "was here"))
    assert load(mesh, kept) == first
    assert not (tmp_path / "was here").exists()


def test_a_file_that_others_may_write_is_not_used(mesh: Path, kept: Kept[Protected], tmp_path: Path) -> None:
    load(mesh, kept)
    kept.flush()
    (tmp_path / "manifests.kept").chmod(0o666)
    key = (tmp_path / "manifests.kept").read_bytes()[:32]
    assert kept.load(key) is None


def test_a_small_directory_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "all.yaml").write_text(MESH)
    kept = Kept(tmp_path / "manifests.kept", Protected)
    load(tmp_path / "mesh", kept)
    kept.flush()
    assert not (tmp_path / "manifests.kept").exists()
