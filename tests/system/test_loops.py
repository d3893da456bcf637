"""Calls to a node's own listeners by an address of the machine that is not loopback: no round trip without end."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hbone.bench.processes import Processes
from tests.interop.certificates import MeshPki
from tests.support.netns import Namespace, NoNamespaces, two_machines
from tests.support.node import Node

pytestmark = [pytest.mark.system, pytest.mark.slow]

HERE, THERE = "10.98.0.1", "10.98.0.2"
LIMIT_S = 10.0
OUTBOUND, FORWARD = 15001, 9000


@pytest.fixture
def machines() -> Iterator[tuple[Namespace, Namespace]]:
    with ExitStack() as undo:
        try:
            made = undo.enter_context(two_machines((f"{HERE}/24",), (f"{THERE}/24",)))
        except NoNamespaces as reason:
            pytest.skip(str(reason))
        yield made


@pytest.mark.parametrize("port", [OUTBOUND, FORWARD], ids=["captured", "a local port that leads to itself"])
@pytest.mark.parametrize("bound", ["0.0.0.0", HERE])
def test_a_call_to_a_listener_of_ours_ends_at_once(
    bound: str, port: int, machines: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    here, there = machines
    off = dict.fromkeys(("inbound", "inbound_plaintext", "socks", "admin", "readiness", "metrics"), "off")
    config: dict[str, object] = {
        "workload": "web/client/client",
        "ca": str(MeshPki(tmp_path / "pki").directory),
        "listeners": {**off, "outbound": f"{bound}:{OUTBOUND}"},
        "forwards": [{"listen": f"{bound}:{FORWARD}", "to": f"{HERE}:{FORWARD}"}],
        "local_xds": str(tmp_path / "mesh.json"),
    }
    plain = {"uid": "p", "name": "p", "namespace": "shop", "workloadIps": [HERE], "protocol": "TCP"}
    (tmp_path / "mesh.json").write_text(json.dumps({"workloads": [plain]}))
    with Processes(tmp_path) as processes:
        node = Node(config, processes)
        with here.entered():
            node.start()
        with (
            there.entered(),
            pytest.raises(ConnectionResetError),  # by the connect, or by what is read
            socket.create_connection((HERE, port), LIMIT_S) as caller,
        ):
            caller.recv(1)
        line = node.only_access()
        assert "recursive call to ourselves" in line.error, line
