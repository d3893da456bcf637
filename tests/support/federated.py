"""Meshes of several trust domains in one process, as an operator would set them up: settings, manifests, bundles.

async with Town(tmp_path) as town:
    x = await town.mesh("x.test")
    y = await town.mesh("y.test")
    await town.exchange(x, y)
"""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.camesh import CaMesh, MeshNode


class TownMesh(CaMesh):
    """Its workloads are in manifests, which the control plane reads before it serves anybody."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.manifests = directory / "manifests"
        self.manifests.mkdir(parents=True)
        super().__init__(directory, manifests=self.manifests, **settings)

    def write(self, name: str, *documents: dict[str, Any]) -> None:
        """A file of manifests; it is in force soon."""
        text = "\n---\n".join(json.dumps(one) for one in documents)  # JSON is YAML
        place = self.manifests / f"{name}.yaml"
        (self.manifests / f".{name}").write_text(text)
        (self.manifests / f".{name}").rename(place)

    def place(self, node: MeshNode) -> None:
        namespace, _, name = node.account.partition("/")
        ports = {"hbone": node.node.dataplane.address("inbound").port}
        spec = {"address": node.ip, "serviceAccount": name, "ports": ports}
        self.write(f"{namespace}-{name}", _manifest("WorkloadEntry", namespace, name, spec))

    def serve_from(self, other: CaMesh, node: MeshNode, host: str, port: int) -> None:
        """A workload of another mesh, under a name of this one."""
        namespace, _, name = node.account.partition("/")
        endpoint = {
            "address": node.ip,
            "serviceAccount": name,
            "ports": {"hbone": node.node.dataplane.address("inbound").port, "tcp": port},
        }
        spec = {
            "hosts": [host],
            "addresses": ["240.0.0.1"],
            "ports": [{"number": 80, "name": "tcp", "protocol": "TCP"}],
            "resolution": "STATIC",
            "location": "MESH_INTERNAL",
            "endpoints": [endpoint],
            "subjectAltNames": [f"spiffe://{other.trust_domain}/ns/{namespace}/sa/{name}"],
        }
        self.write(host, _manifest("ServiceEntry", namespace, name, spec))

    def allow(self, namespace: str, *principals: str) -> None:
        """Only these may come into that namespace."""
        rules = [{"from": [{"source": {"principals": list(principals)}}]}]
        self.write(f"policy-{namespace}", _manifest("AuthorizationPolicy", namespace, "only", {"rules": rules}))

    def bundle_file(self) -> Path:
        """What an operator carries over to the others."""
        path = self.directory / "bundle.json"
        path.write_text(self.control.ca.document())
        return path


class Town:
    """All of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = AsyncExitStack()

    async def mesh(self, domain: str, **settings: Any) -> TownMesh:
        return await self._stack.enter_async_context(
            TownMesh(self._directory / domain, trust_domain=domain, **settings)
        )

    async def exchange(self, *meshes: TownMesh) -> None:
        """Each of them trusts all others."""
        files = {mesh.trust_domain: mesh.bundle_file() for mesh in meshes}
        for mesh in meshes:
            federation = [{"trust_domain": name, "bundle": file} for name, file in files.items()]
            await mesh.restart(federation=[one for one in federation if one["trust_domain"] != mesh.trust_domain])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def _manifest(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    group = "security" if kind == "AuthorizationPolicy" else "networking"
    return {
        "apiVersion": f"{group}.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
