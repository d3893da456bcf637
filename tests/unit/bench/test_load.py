"""Our own load generators against real servers, in one process each as they run in a benchmark."""

import json
import sys
from pathlib import Path
from random import Random

from hbone.addr import SocketAddress
from hbone.bench.load.burst import burst
from hbone.bench.load.handshakes import frame, opening
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.bench.procfs import listens
from tests.support.targets import http_server, resetter

MODULE = (sys.executable, "-m")


def test_a_burst_counts_only_whole_answers() -> None:
    with http_server() as target:
        seen = burst(str(target.ip), target.port, 20)
    assert seen["failed"] == 0
    assert 0 < seen["p50_s"] <= seen["seconds"]


def test_a_burst_at_a_server_that_resets_counts_every_connection_as_failed() -> None:
    with resetter(after_bytes=1) as target:
        assert burst(str(target.address.ip), target.address.port, 5)["failed"] == 5


def hold_server(processes: Processes) -> SocketAddress:
    address = Ports(Random()).free()
    server = processes.serve("hold", [*MODULE, "hbone.bench.load.hold", str(address.ip), str(address.port)])
    server.wait_until(lambda: listens(str(address.ip), address.port), 10)
    return address


def test_idle_connections_are_proven_and_held(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        address = hold_server(processes)
        holder = processes.spawn("idle", [*MODULE, "hbone.bench.load.idle", str(address.ip), str(address.port), "150"])
        assert json.loads(holder.read_line(10)) == {"held": 150}
        assert holder.running()


def test_idle_connections_that_are_refused_are_not_counted(tmp_path: Path) -> None:
    nowhere = Ports(Random()).free()
    with Processes(tmp_path) as processes:
        holder = processes.spawn("idle", [*MODULE, "hbone.bench.load.idle", str(nowhere.ip), str(nowhere.port), "3"])
        assert json.loads(holder.read_line(10)) == {"held": 0}


def test_a_new_tunnel_opens_with_the_preface_settings_and_a_connect() -> None:
    first = opening("127.0.0.1:80")
    assert first.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(0x4, 0, 0, b""))
    assert first[24 + 9 + 3] == 0x1  # the type of the second frame: HEADERS
