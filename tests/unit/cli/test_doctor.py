"""`hbone doctor` and its checks."""

import json
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hbone import native
from hbone.cli.checks import machine, network, software
from hbone.cli.checks.finding import Finding, Status, failure, warning
from hbone.cli.commands import doctor as command
from hbone.cli.main import cli
from hbone.config.model import Listeners


def one(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    return found


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["doctor", *arguments])
    return result.exit_code, result.output


def test_the_report_is_for_people_or_for_machines(tmp_path: Path) -> None:
    code, text = run("--state-dir", str(tmp_path / "state"))
    assert "state directory" in text
    code_again, machine_text = run("--state-dir", str(tmp_path / "state"), "-o", "json")
    value = json.loads(machine_text)
    assert value["ok"] is (code_again == 0)
    assert code == code_again
    assert {"python", "tls", "event loop", "clock", "open files", "state directory"} <= {
        check["name"] for check in value["checks"]
    }


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    run("--state-dir", str(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "works"), [(Status.OK, True), (Status.WARNING, True), (Status.FAILURE, False)])
def test_only_what_keeps_hbone_from_working_fails(
    status: Status, works: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(name="thing", status=status, found="broken", means="so what", fix="mend it")
    assert command.answer([finding], "table") is works
    assert ("fix: mend it" in capsys.readouterr().out) is (status is not Status.OK)


def test_every_check_that_is_not_well_has_a_meaning_and_a_fix() -> None:
    checks = (software.python, software.tls, software.fast_tls, software.event_loop, software.aes, machine.clock)
    more = (machine.open_files, machine.tools, machine.user_namespaces, network.loopback, network.ipv6, network.ports)
    for check in (*checks, *more, network.privileged_ports):
        for finding in check():
            assert finding.status is Status.OK or (finding.means and finding.fix)


def test_a_python_built_without_optimizations_is_a_warning_that_says_what_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "plain_interpreter", lambda: True)
    found = one(software.python())
    assert found.status is Status.WARNING
    assert "optimizations" in found.found
    assert "--enable-optimizations" in found.fix
    monkeypatch.setattr(native, "plain_interpreter", lambda: False)
    assert one(software.python()).status is Status.OK


def test_the_tls_check_shakes_hands_for_real() -> None:
    found = one(software.tls()).found
    assert "TLSv1.3" in found
    assert "AES" in found


def test_a_free_port_is_free_and_a_taken_one_names_its_holder() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        listeners = Listeners.model_validate(
            dict.fromkeys(Listeners.model_fields, "off") | {"socks": f"127.0.0.1:{port}"}
        )
        assert one(network.ports(listeners)).status is Status.OK
        taken.listen()
        finding = one(network.ports(listeners))
    assert finding.status in {Status.WARNING, Status.OK}  # OK when these tests run inside a process called hbone
    assert str(os.getpid()) in finding.found
    assert network.holder_of(1) is None


def test_a_port_that_may_not_be_bound_is_a_warning() -> None:
    listeners = Listeners.model_validate(dict.fromkeys(Listeners.model_fields, "off") | {"socks": "192.0.2.1:15080"})
    finding = one(network.ports(listeners))
    assert finding.status is Status.WARNING
    assert "HBONE_SOCKS" in finding.fix


def test_a_state_directory_is_there_and_private_or_can_be_made(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert one(machine.state(private)).status is Status.OK
    assert one(machine.state(tmp_path / "a" / "b")).found.endswith("will be made")


def test_a_state_directory_that_others_can_read_fails_as_hbone_up_will_with_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    finding = one(machine.state(tmp_path))
    assert finding.status is Status.FAILURE
    assert finding.fix == f"chmod 700 {tmp_path}"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_state_directory_that_is_a_file_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert one(machine.state(path)).status is Status.FAILURE
    assert one(machine.state(path / "below")).status is Status.FAILURE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_directory_that_is_not_ours_fails(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert one(machine.state(closed)).status is Status.FAILURE
    assert one(machine.state(closed / "below")).status is Status.FAILURE


def test_a_running_control_plane_is_seen_and_a_dead_socket_too(tmp_path: Path) -> None:
    assert "not running" in one(machine.running_control_plane(tmp_path)).found
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control.sock"))
        assert one(machine.running_control_plane(tmp_path)).status is Status.WARNING
        server.listen()
        assert one(machine.running_control_plane(tmp_path)).found.startswith("running")


def test_a_socket_path_that_is_too_long_fails(tmp_path: Path) -> None:
    assert one(machine.running_control_plane(tmp_path / ("x" * 100))).status is Status.FAILURE


def test_a_clock_behind_the_installation_fails() -> None:
    assert one(machine.clock(now=1_000_000_000.0)).status is Status.FAILURE


def test_few_open_files_are_a_warning() -> None:
    finding = one(machine.open_files((256, 1024)))
    assert finding.status is Status.WARNING
    assert "ulimit -n 1024" in finding.fix


def test_the_knob_that_forbids_namespaces_is_named(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "unprivileged_userns_clone").write_text("0\n")
    finding = one(machine.user_namespaces("raise SystemExit(1)", tmp_path))
    assert "kernel.unprivileged_userns_clone" in finding.found
    assert finding.fix == "sysctl kernel.unprivileged_userns_clone=1"


def test_missing_tools_are_warnings_that_name_the_package(tmp_path: Path) -> None:
    assert [finding.fix for finding in machine.tools((str(tmp_path),))] == [
        "install the package nftables",
        "install the package iproute2",
    ]


def test_findings_are_json() -> None:
    for finding in (failure("a", "b", means="c", fix="d"), warning("a", "b", means="c", fix="d")):
        assert set(json.loads(json.dumps(finding.as_json()))) == {"name", "status", "found", "means", "fix"}
