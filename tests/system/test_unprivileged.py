"""Everything that is promised to work without rights, as a user that has none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.programs import exchange, expose, forward, up
from tests.support.cafiles import ca_files
from tests.support.commands import Done, Sandbox, User, unprivileged
from tests.support.targets import echo

PRIVILEGED_PORT = 443


@pytest.fixture(scope="module")
def nobody() -> User:
    try:
        return unprivileged()
    except LookupError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def sandbox(nobody: User) -> Iterator[Sandbox]:
    with Sandbox(nobody) as made:
        yield made


def lock(path: Path) -> Path:
    """Readable by nobody but root."""
    path.chmod(0)
    return path


def assert_refused(done: Done, *words: str) -> None:
    done.expect(2)
    assert done.err.count("error: ") == 1, done.err
    for word in words:
        assert word in done.err, f"{word!r} is missing in:\n{done.err}"


def test_the_demo_passes_and_leaves_nothing_behind(sandbox: Sandbox) -> None:
    demo = sandbox.start("demo")
    assert "claims hold" in demo.wait().expect(0).out
    assert demo.family() == []
    assert sandbox.left_behind() == []


def test_a_mesh_of_one_machine_carries_traffic(sandbox: Sandbox) -> None:
    mesh = up(sandbox)
    with echo() as target:
        exposed = expose(sandbox, "shop/cart", 80, target.address)
        forwarded, address = forward(sandbox, "web/client", "cart.shop:80")
        assert exchange(address) == b"ping"
        for process in (forwarded, exposed, mesh):
            process.stop().expect(0)


def test_doctor_finds_that_hbone_works(sandbox: Sandbox) -> None:
    assert "hbone works here" in sandbox.run("doctor").expect(0).out


def test_a_privileged_port_is_told_with_what_would_allow_it(sandbox: Sandbox) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= PRIVILEGED_PORT:
        pytest.skip(f"everybody may have ports from {first} on here (net.ipv4.ip_unprivileged_port_start)")
    done = sandbox.run("up", "--inbound", f"127.0.0.1:{PRIVILEGED_PORT}")
    words = (f"--inbound: cannot listen on 127.0.0.1:{PRIVILEGED_PORT}: permission denied", "choose a port above 1023")
    assert_refused(done, *words, "sysctl net.ipv4.ip_unprivileged_port_start")
    assert not sandbox.state.exists()


def test_a_manifest_that_may_not_be_read_is_told(sandbox: Sandbox) -> None:
    lock(sandbox.write("mesh/a.yaml", ""))
    assert_refused(sandbox.run("up", "mesh"), "mesh/a.yaml: permission denied; make it readable for this user")


@pytest.mark.parametrize("place", ["mesh", "mesh/below"])
def test_a_directory_of_manifests_that_may_not_be_read_is_told_and_not_taken_for_an_empty_one(
    sandbox: Sandbox, place: str
) -> None:
    sandbox.write("mesh/below/a.yaml", "")
    locked = lock(sandbox.work / place)
    done = sandbox.run("up", "mesh")
    locked.chmod(0o755)
    assert_refused(done, f"error: {place}: permission denied; make it readable for this user")
    assert not sandbox.state.exists()


def test_settings_that_may_not_be_read_are_told(sandbox: Sandbox) -> None:
    lock(sandbox.write("node.yaml", ""))
    done = sandbox.run("node", "--config", "node.yaml")
    assert_refused(done, "node.yaml: permission denied; make it readable for this user")


def test_a_ca_whose_key_may_not_be_read_is_told(sandbox: Sandbox) -> None:
    lock(ca_files(sandbox.work / "ca") / "ca-key.pem")
    if os.geteuid() == 0:
        (sandbox.work / "ca").chmod(0o755)
    done = sandbox.run("node", "--workload", "shop/cart", "--ca", "ca")
    assert_refused(done, "ca/ca-key.pem", "ermission denied", "permissions")


@pytest.mark.parametrize(
    "command", [("up",), ("forward", "--as", "web/client", "0:cart.shop:80")], ids=lambda it: it[0]
)
def test_a_state_directory_that_is_closed_to_us_is_told(sandbox: Sandbox, command: tuple[str, ...]) -> None:
    sandbox.state.mkdir(mode=0)
    done = sandbox.run(*command)
    assert_refused(done, str(sandbox.state))


def test_a_home_that_is_not_there_and_cannot_be_made_is_told_with_the_option_that_helps(sandbox: Sandbox) -> None:
    done = sandbox.run("up", env={"HOME": "/nonexistent", "HBONE_STATE_DIR": ""})
    assert_refused(done, "the state directory /nonexistent/.local/state/hbone", "give a --state-dir")


def test_doctor_finds_loopback_addresses_that_can_be_bound_and_not_be_used(sandbox: Sandbox) -> None:
    """As in a new network namespace: lo is there, and down."""
    new = ("unshare", "--user", "--map-root-user", "--net")
    if shutil.which("unshare") is None or sandbox.start_program((*new, "true")).wait().code != 0:
        pytest.skip("needs namespaces of users (`hbone doctor` says why there are none)")
    done = sandbox.start_program((*new, *sandbox.command, "doctor")).wait().expect(1)
    assert "127.0.0.2 cannot be used: Network is unreachable" in done.out
    assert "ip link set lo up" in done.out
