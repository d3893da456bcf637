import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.errors import UsageError
from hbone.net.sockets import (
    KeepAlive,
    accept,
    bind_listener,
    bind_unix_listener,
    close_with_reset,
    is_own_address,
    local_address,
    local_of,
    original_destination,
    peer_of,
    tune,
    upstream_failure,
)
from tests.support.tlspeer import tcp_pair


def test_a_reset_is_seen_as_a_reset() -> None:
    near, far = tcp_pair()
    close_with_reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()
    close_with_reset(far)  # harmless


def test_both_ends_have_addresses_and_a_unix_socket_counts_as_local(tmp_path: Path) -> None:
    near, far = tcp_pair()
    assert peer_of(near) == local_of(far)
    near.close()
    far.close()
    one, two = socket.socketpair(socket.AF_UNIX)
    assert str(peer_of(one)) == "127.0.0.1:0"
    assert str(local_of(two)) == "127.0.0.1:0"
    tune(one, KeepAlive())
    one.close()
    two.close()
    gone = socket.socket()
    with pytest.raises(OSError):
        peer_of(gone)
    gone.close()


def test_probes_are_set_as_asked() -> None:
    near, far = tcp_pair()
    tune(near, KeepAlive(idle_s=11, interval_s=7, probes=3))
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 11
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    tune(far, None)
    assert not far.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    near.close()
    far.close()


def test_a_taken_port_is_an_error_with_its_remedy() -> None:
    first = bind_listener(SocketAddress.of(("127.0.0.1", 0)))
    with pytest.raises(UsageError, match="ss -ltnp"):
        bind_listener(local_of(first))
    first.close()
    with pytest.raises(UsageError, match="use an address that this machine has"):
        bind_listener(SocketAddress.of(("192.0.2.1", 0)))


def test_a_unix_listener_is_for_its_owner_and_replaces_only_what_is_dead(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    first = bind_unix_listener(path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="another process listens there"):
        bind_unix_listener(path)
    first.close()
    bind_unix_listener(path).close()
    with pytest.raises(UsageError, match="create the directory first"):
        bind_unix_listener(str(tmp_path / "missing" / "sock"))


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file", "link to nowhere"])
def test_what_is_no_socket_is_never_replaced_by_one(tmp_path: Path, kind: str) -> None:
    path, precious = tmp_path / "place", tmp_path / "precious"
    precious.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link to a file":
            path.symlink_to(precious)
        case _:
            path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="it is no socket; choose another path"):
        bind_unix_listener(str(path))
    assert precious.read_text() == "precious"
    assert path.is_symlink() or path.is_dir() or path.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours_to_write_to_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="permission denied; choose a directory that this user may write to"):
        bind_unix_listener(str(tmp_path / "sock"))


def test_a_connection_that_was_not_redirected_has_no_original_destination() -> None:
    near, far = tcp_pair()
    assert original_destination(far) is None
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ECONNREFUSED, "start what should listen"),
        (errno.EHOSTUNREACH, "check the route"),
        (errno.ENETUNREACH, "check the route"),
        (errno.EADDRNOTAVAIL, "free local ports"),
    ],
)
def test_failed_connects_come_with_a_remedy(number: int, fix: str) -> None:
    assert fix in str(upstream_failure(number, SocketAddress.parse("10.0.0.1:80")))


@pytest.mark.parametrize(
    ("text", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.1", False), ("2001:db8::1", False)],
)
def test_this_machine_knows_its_own_addresses(text: str, own: bool) -> None:
    assert is_own_address(parse_ip(text)) is own


def test_an_address_by_which_this_machine_reaches_others_is_its_own() -> None:
    assert is_own_address(local_address())


def test_an_accepted_socket_is_what_the_standard_library_makes_of_it() -> None:
    with bind_listener(SocketAddress.of(("127.0.0.1", 0))) as listening:
        listening.setblocking(True)
        near = socket.create_connection(listening.getsockname())
        with near as caller, contextlib.closing(accept(listening, listening.family)) as ours:
            assert (ours.family, ours.type, ours.proto) == (socket.AF_INET, socket.SOCK_STREAM, listening.proto)
            assert ours.getpeername() == caller.getsockname()
            assert not os.get_inheritable(ours.fileno())
            caller.sendall(b"x")
            assert ours.recv(1) == b"x"
