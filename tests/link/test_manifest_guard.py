"""A directory of manifests that is suddenly empty: a mistake, unless the operator says that it is meant."""

from pathlib import Path

import pytest

from hbone.app.sources import FileSources, MeshFiles, Protected
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Source

ENTRY = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: 10.0.0.1, serviceAccount: cart}
"""


class Files:
    """What is in force of a directory."""

    def __init__(self, directory: Path, *, allow_empty: bool) -> None:
        self.names: list[str] = []
        self.directory = directory
        sources = FileSources(manifests=directory, defaults=Defaults(), allow_empty=allow_empty)
        self.files = MeshFiles(sources, self._apply)

    def _apply(self, _: Source, loaded: Protected) -> None:
        self.names = [workload.name for workload in loaded.state.workloads]

    async def reload(self) -> list[str]:
        for _, watch in self.files._watches:  # pyright: ignore[reportPrivateUsage]  # as a change on disk does
            await watch.reload()
        return [str(problem) for problem in self.files.problems()]


async def test_an_emptied_directory_keeps_the_mesh_and_says_what_to_do(tmp_path: Path) -> None:
    files = Files(tmp_path, allow_empty=False)
    await files.files.load()
    (tmp_path / "mesh.yaml").write_text(ENTRY)
    assert await files.reload() == []
    (tmp_path / "mesh.yaml").unlink()
    (problem,) = await files.reload()
    assert "all 1 workloads, services and policies would be removed" in problem
    assert "allow_empty_mesh: true" in problem
    assert files.names == ["cart"]
    (tmp_path / "other.yaml").write_text(ENTRY.replace("cart", "web"))
    assert await files.reload() == []
    assert files.names == ["web"], "another mesh is a change like any other"


@pytest.mark.parametrize("content", ["", "# nothing any more\n"])
async def test_with_the_setting_an_empty_mesh_is_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "mesh.yaml").write_text(ENTRY)
    files = Files(tmp_path, allow_empty=True)
    await files.files.load()
    (tmp_path / "mesh.yaml").write_text(content)
    assert await files.reload() == []
    assert files.names == []
