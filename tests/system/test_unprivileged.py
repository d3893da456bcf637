"""Everything that is promised to work without rights, as a user that has none."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbone.addr import SocketAddress
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


# --- beside a control plane of somebody else -------------------------------------------------------------------------


@pytest.fixture
def granted(sandbox: Sandbox) -> Iterator[tuple[Sandbox, dict[str, str]]]:
    """A user, and what tells programs of theirs where the control plane of root is, which lets them be shop/*."""
    uid = sandbox.user.uid
    if uid is None:
        pytest.skip("one user is needed who runs the control plane, and another one: run as root")
    sandbox.directory.chmod(0o755)
    socket = sandbox.directory / "run" / "control.sock"
    with Sandbox() as root:
        grants = f"grants: [{{uid: {uid}, as: [shop/*]}}]"
        config = root.write("control.yaml", f"socket: {socket}\n{grants}\n")
        up(root, "--control-config", str(config))
        yield sandbox, {"HBONE_SOCKET": str(socket)}


def test_a_user_is_whom_the_operator_grants_and_nobody_else(granted: tuple[Sandbox, dict[str, str]]) -> None:
    sandbox, env = granted
    sandbox.run("cert", "issue", "--as", "shop/cart", "--out", "cart", env=env).expect(0)
    other = sandbox.run("cert", "issue", "--as", "web/front", "--out", "front", env=env).expect(1)
    assert f"uid {sandbox.user.uid} may not have spiffe://cluster.local/ns/web/sa/front" in other.err
    for words in (("ca", "status"), ("cert", "revoke", "spiffe://cluster.local/ns/shop/sa/cart"), ("token", "list")):
        done = sandbox.run(*words, env=env)
        assert done.code in {1, 2}, f"{words}: {done.text}"


def test_programs_of_a_granted_user_reach_each_other(granted: tuple[Sandbox, dict[str, str]]) -> None:
    sandbox, env = granted
    with echo() as target:
        exposed = sandbox.start("expose", "--as", "shop/cart", f"80:{target.address}", env=env)
        exposed.wait_for("tunnels arrive at")
        forwarded = sandbox.start("forward", "--as", "shop/web", "127.0.0.1:0:cart.shop:80", env=env)
        found = re.search(r"([0-9.]+:[0-9]+) leads to", forwarded.wait_for("leads to"))
        assert found is not None
        assert exchange(SocketAddress.parse(found[1])) == b"ping"


def test_grants_at_a_socket_that_others_cannot_reach_are_told(sandbox: Sandbox) -> None:
    sandbox.state.mkdir(mode=0o700)
    if sandbox.user.uid is not None:
        os.chown(sandbox.state, sandbox.user.uid, sandbox.user.uid)
    config = sandbox.write("control.yaml", "grants: [{uid: 1, as: shop/cart}]\n")
    done = sandbox.run("control", "--config", str(config), "--listen", "off")
    assert_refused(done, "other users cannot reach the control socket", "is closed to them", "set `socket:")
