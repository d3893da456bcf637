"""What the tests against real peers share: processes that end with the test, certificates, free ports."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbone.bench.pki import BenchPki
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.identity.spiffe import parse_trust_domain


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as running:
        yield running


@pytest.fixture
def ports() -> Ports:
    return Ports(random.Random())


@pytest.fixture
def pki(tmp_path: Path) -> BenchPki:
    """The mesh's CA."""
    return BenchPki(tmp_path / "pki")


@pytest.fixture
def rogue_pki(tmp_path: Path) -> BenchPki:
    """Another CA that claims the same trust domain."""
    return BenchPki(tmp_path / "rogue")


@pytest.fixture
def foreign_pki(tmp_path: Path) -> BenchPki:
    """The CA of another trust domain."""
    return BenchPki(tmp_path / "foreign", parse_trust_domain("other.local"))
