"""What the tests against real peers share: processes that end with the test, certificates, free ports."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.identity.spiffe import parse_trust_domain
from tests.interop.certificates import MeshPki
from tests.interop.pairs import Ground, PairOpener, to_envoy, to_us
from tests.support.envoy import require_envoy


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


@pytest.fixture
def ports() -> Ports:
    return Ports(random.Random())


@pytest.fixture
def pki(tmp_path: Path) -> MeshPki:
    """The mesh's CA."""
    return MeshPki(tmp_path / "pki")


@pytest.fixture
def rogue_pki(tmp_path: Path) -> MeshPki:
    """Another CA that claims the same trust domain."""
    return MeshPki(tmp_path / "rogue")


@pytest.fixture
def foreign_pki(tmp_path: Path) -> MeshPki:
    """The CA of another trust domain."""
    return MeshPki(tmp_path / "foreign", parse_trust_domain("other.local"))


@pytest.fixture
def ground(processes: Processes, pki: MeshPki, ports: Ports, tmp_path: Path) -> Ground:
    """Skips the test where there is no Envoy."""
    require_envoy()
    tunnel = ports.free(ports.free_host())
    return Ground(processes=processes, pki=pki, ports=ports, tunnel=tunnel, directory=tmp_path)


@pytest.fixture(params=[to_us, to_envoy], ids=["envoy to us", "us to envoy"])
def opener(request: pytest.FixtureRequest) -> PairOpener:
    """Both directions, one after the other."""
    opener: PairOpener = request.param
    return opener
