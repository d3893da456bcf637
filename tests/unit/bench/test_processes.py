"""Processes that we start end with us; `/proc` tells what they used."""

import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from hbone.addr import SocketAddress
from hbone.bench import procfs
from hbone.bench.faults import NotReady, SampleFailed
from hbone.bench.figures import Lane
from hbone.bench.ports import FIRST, LAST, LOOPBACK, Ports, bindable
from hbone.bench.processes import Processes

PYTHON = sys.executable
FOREVER = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}]).wait()"


def ends(pidfd: int) -> bool:
    """Does the process end now? A descriptor of a process is readable once it has, reaped or not."""
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


def test_leaving_by_an_exception_ends_a_process_and_its_children(tmp_path: Path) -> None:
    def use() -> None:
        with Processes(tmp_path) as processes:
            parent = processes.spawn("parent", [PYTHON, "-c", PARENT])
            parent.read_line(10)  # the child's: it shares the pipe
            members.extend(map(os.pidfd_open, procfs.tree(parent.pid)))
            raise KeyboardInterrupt

    members: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        use()
    assert len(members) == 2
    assert all(ends(pidfd) for pidfd in members)


def test_a_bench_that_is_killed_takes_its_servers_with_it(tmp_path: Path) -> None:
    bench = (
        "import pathlib, sys, time; from hbone.bench.processes import Processes\n"
        "with Processes(pathlib.Path(sys.argv[1])) as processes:\n"
        f"    print(processes.serve('server', [sys.executable, '-c', {FOREVER!r}]).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([PYTHON, "-c", bench, str(tmp_path)], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        server = os.pidfd_open(int(killed.stdout.readline()))
        killed.kill()
    assert ends(server)


def test_a_process_that_ignores_the_request_is_made_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbone.bench.processes.STOP_LIMIT_S", 0.05)
    with Processes(tmp_path) as processes:
        started = processes.spawn("stubborn", [PYTHON, "-c", STUBBORN])
        started.read_line(10)
    assert not started.running()


def test_a_program_that_fails_is_a_failed_sample_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(SampleFailed, match="no such target"):
        processes.run("load", [PYTHON, "-c", "import sys; sys.exit('no such target')"], limit_s=10)


def test_a_program_that_does_not_end_in_time_is_a_failed_sample(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(SampleFailed, match="did not end within"):
        processes.run("load", [PYTHON, "-c", FOREVER], limit_s=0.05)


def test_a_server_that_ends_before_it_is_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        server = processes.serve("server", [PYTHON, "-c", "print('address in use')"])
        with pytest.raises(NotReady, match="address in use"):
            server.wait_until(lambda: False, 10)


def test_a_listening_port_is_seen_without_connecting_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert procfs.listens("127.0.0.1", port)
        assert not procfs.listens("127.0.0.2", port)
    assert not procfs.listens("127.0.0.1", port)


def test_our_own_cpu_time_and_memory_are_found() -> None:
    me = (os.getpid(),)
    assert procfs.cpu_s(me) > 0
    assert procfs.peak_rss_kib(me) >= procfs.rss_kib(me) > 1000


def test_the_memory_of_a_lane_does_not_change_with_what_else_runs_its_program(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        command = [PYTHON, "-c", f"import asyncio, ssl; {FOREVER}"]
        proxy = processes.spawn("proxy", command)
        proxy.read_line(10)
        lane = Lane(candidate="hbone", entries={}, targets={}, processes=processes, proxies=(proxy,))
        alone_mib = lane.rss_mib()
        for _ in range(3):
            processes.spawn("other", command).read_line(10)
        assert lane.rss_mib() == pytest.approx(alone_mib, abs=0.3)


def test_a_process_that_is_gone_uses_nothing() -> None:
    gone = (2**22 + 1,)  # above the kernel's largest pid
    assert procfs.cpu_s(gone) == 0
    assert procfs.rss_kib(gone) == 0
    procfs.forget_peak(gone)


def test_ports_are_free_different_and_below_the_range_of_source_ports() -> None:
    ports = Ports(Random(1))
    addresses = {ports.free() for _ in range(20)}
    assert len(addresses) == 20
    assert all(FIRST <= address.port < LAST and address.ip == LOOPBACK for address in addresses)


def test_a_taken_port_is_not_bindable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not bindable(SocketAddress.of(server.getsockname()))


def test_a_host_of_its_own_is_a_loopback_address() -> None:
    assert Ports(Random(1)).free_host().is_loopback


def test_a_host_of_its_own_is_found_while_an_hbone_up_runs_here() -> None:
    """It has the port of tunnels on every address. In a network of the test's own: nobody else's `up` is to meet it."""
    beside_up = (
        "import socket; from random import Random; from hbone.bench.ports import Ports\n"
        "with socket.create_server(('0.0.0.0', 15008)): ports = Ports(Random(1)); print(ports.free(ports.free_host()))"
    )
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode != 0:
        pytest.skip("needs namespaces of users, and ip")
    found = subprocess.run([*command, PYTHON, "-c", beside_up], capture_output=True, text=True, check=True).stdout
    assert SocketAddress.parse(found.strip()).ip.is_loopback
