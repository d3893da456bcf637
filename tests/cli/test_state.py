"""The state directory: private, of one owner, and named in every message about it; and where settings come from."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.cli.programs import exchange, expose, forward, up
from tests.support.commands import Sandbox
from tests.support.targets import echo


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_state_is_made_private_whatever_the_umask(sandbox: Sandbox) -> None:
    mesh = sandbox.start_program(("sh", "-c", 'umask 000; exec "$@"', "sh", *sandbox.command, "up"))
    mesh.wait_for("is up")
    assert mode(sandbox.state) == 0o700
    for path in sandbox.state.rglob("*"):
        private = path.is_dir() or "key" in path.name or path.suffix in {".sock", ".lock", ".jsonl", ".db"}
        assert not private or mode(path) & 0o077 == 0, f"{path.name} has mode {mode(path):04o}"


def test_no_core_dump_can_hold_a_key_whatever_the_limit(sandbox: Sandbox) -> None:
    shell = 'ulimit -S -c unlimited 2>/dev/null; exec "$@"'
    mesh = sandbox.start_program(("sh", "-c", shell, "sh", *sandbox.command, "up"), env={"HBONE_WORKERS": "2"})
    mesh.wait_for("is up")
    family = mesh.family()
    assert len(family) == 3
    for pid in family:
        (line,) = [one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in one]
        assert line.split()[4:6] == ["0", "0"]
    for pid in family:
        os.kill(pid, signal.SIGABRT)
    assert mesh.wait().code == -signal.SIGABRT
    assert list(sandbox.work.iterdir()) == []


@pytest.mark.parametrize("open_mode", [0o755, 0o777, 0o770], ids=oct)
def test_an_open_state_directory_is_refused_with_the_fix_and_doctor_says_so(sandbox: Sandbox, open_mode: int) -> None:
    sandbox.state.mkdir()
    sandbox.state.chmod(open_mode)
    fix = f"chmod 0700 {sandbox.state}"
    error = sandbox.run("up").expect(2).err
    assert f"its mode {open_mode:04o} lets others in; {fix}" in error
    assert list(sandbox.state.iterdir()) == []
    found = sandbox.run("doctor").expect(1).out
    assert f"{sandbox.state} has mode {open_mode:04o}" in found
    sandbox.state.chmod(0o700)
    up(sandbox).stop().expect(0)
    sandbox.run("doctor").expect(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_of_somebody_else_is_refused_and_doctor_says_so(sandbox: Sandbox) -> None:
    sandbox.state.mkdir(mode=0o700)
    os.chown(sandbox.state, 12345, 12345)
    assert "it belongs to user 12345; chown it to user 0, or run as user 12345" in sandbox.run("up").expect(2).err
    assert list(sandbox.state.iterdir()) == []
    assert "belongs to user 12345" in sandbox.run("doctor").expect(1).out


def test_a_file_in_place_of_the_state_directory_is_told(sandbox: Sandbox) -> None:
    sandbox.state.write_text("")
    done = sandbox.run("up").expect(2)
    assert str(sandbox.state) in done.err
    assert done.err.count("error: ") == 1
    assert "is not a directory" in sandbox.run("doctor").expect(1).out


def test_a_file_in_place_of_the_socket_is_not_removed(sandbox: Sandbox) -> None:
    sandbox.state.mkdir(mode=0o700)
    (sandbox.state / "control.sock").write_text("precious")
    done = sandbox.run("up").expect(2)
    assert "control.sock is not a socket" in done.err
    assert "fix: move it away, or give another --state-dir" in done.err
    assert (sandbox.state / "control.sock").read_text() == "precious"


def test_variables_say_where_state_and_socket_are_for_all_commands(sandbox: Sandbox) -> None:
    environment = {"HBONE_STATE_DIR": str(sandbox.directory / "s"), "HBONE_SOCKET": str(sandbox.directory / "c.sock")}
    mesh = sandbox.start("up", env=environment)
    mesh.wait_for("is up")
    assert (sandbox.directory / "c.sock").is_socket()
    assert (sandbox.directory / "s" / "ca").is_dir()
    with echo() as target:
        exposed = sandbox.start("expose", "--as", "shop/cart", f"80:{target.address}", env=environment)
        exposed.wait_for("tunnels arrive at")
        forwarded = sandbox.start("forward", "--as", "web/client", "0:cart.shop:80", env=environment)
        forwarded.wait_for("leads to")
    assert "running" in sandbox.run("doctor", env=environment).expect(0).out
    assert not sandbox.state.exists()


def test_an_option_wins_over_a_variable_and_a_variable_over_the_file(sandbox: Sandbox) -> None:
    sandbox.write(
        "node.yaml", "listeners:\n  socks: 127.0.0.1:1111\n  inbound: 127.0.0.1:2222\n  admin: 127.0.0.1:3333\n"
    )
    environment = {"HBONE_SOCKS": "127.0.0.1:4444", "HBONE_INBOUND": "127.0.0.1:5555", "HBONE_ADMIN": ""}
    arguments = ("node", "--config", "node.yaml", "--socks", "127.0.0.1:6666", "--print-config")
    printed = sandbox.run(*arguments, env=environment).expect(0).out
    found = {
        name: next(line for line in printed.splitlines() if f" {name}: " in line)
        for name in ("socks", "inbound", "admin")
    }
    assert "127.0.0.1:6666" in found["socks"]
    assert "--socks" in found["socks"]
    assert "127.0.0.1:5555" in found["inbound"]
    assert "$HBONE_INBOUND" in found["inbound"]
    assert "127.0.0.1:3333" in found["admin"]
    assert "node.yaml:4" in found["admin"]


def test_what_print_config_prints_is_a_settings_file(sandbox: Sandbox) -> None:
    printed = sandbox.run("node", "--workload", "shop/cart", "--print-config").expect(0).out
    sandbox.write("node.yaml", printed)
    again = sandbox.run("node", "--config", "node.yaml", "--print-config").expect(0).out
    assert [line.partition("#")[0].rstrip() for line in again.splitlines()] == [
        line.partition("#")[0].rstrip() for line in printed.splitlines()
    ]


def test_a_mesh_of_another_trust_domain_says_so_in_every_identity(sandbox: Sandbox) -> None:
    up(sandbox, "--trust-domain", "shop.example")
    with echo() as target:
        exposed = expose(sandbox, "shop/cart", 80, target.address)
        _, address = forward(sandbox, "web/client", "cart.shop:80")
        assert exchange(address) == b"ping"
    assert "spiffe://shop.example/ns/shop/sa/cart" in exposed.err


def test_a_damaged_database_is_told_with_the_way_out_which_keeps_the_ca(sandbox: Sandbox) -> None:
    up(sandbox).stop().expect(0)
    root = (sandbox.state / "ca" / "root-cert.pem").read_text()
    for name in ("control.db", "control.db-wal", "control.db-shm"):
        (sandbox.state / name).unlink(missing_ok=True)
    damaged = sandbox.state / "control.db"
    damaged.write_bytes(b"no database" * 1000)
    damaged.chmod(0o600)
    done = sandbox.run("up").expect(2)
    assert done.err.count("error: ") == 1
    for words in ("control.db is damaged", "restore it from a backup; or move control.db", "are taken up again"):
        assert words in done.err, done.err
    damaged.rename(sandbox.work / "damaged.db")
    up(sandbox)
    assert (sandbox.state / "ca" / "root-cert.pem").read_text() == root


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_listener_goes_with_its_process_and_never_takes_a_files_place(sandbox: Sandbox, workers: str) -> None:
    path = sandbox.work / "socks"
    wanted = {"HBONE_SOCKS": f"unix:{path}", "HBONE_WORKERS": workers}
    path.write_text("precious")
    refused = sandbox.run("up", env=wanted)
    refused.expect(2)
    assert "it is no socket; choose another path" in refused.err
    assert path.read_text() == "precious"
    path.unlink()
    mesh = sandbox.start("up", env=wanted)
    mesh.wait_for("is up")
    assert path.is_socket()
    mesh.stop().expect(0)
    assert not path.exists()
