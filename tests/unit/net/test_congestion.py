"""Connections that stay on this machine are not paced; those that leave it are as the administrator wants them."""

import socket
from collections.abc import Generator

import pytest

from hbone.net import congestion

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="needs Linux")


@pytest.fixture(autouse=True)
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose default is BBR, whatever this one's is."""
    monkeypatch.setattr(congestion, "system_paces", lambda: True)


@pytest.fixture
def pair() -> Generator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    with near, far:
        yield near, far


def control_of(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_a_connection_to_this_machine_is_not_paced(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    congestion.unpace_if_local(near)
    assert control_of(near) == "reno"


def test_what_a_listener_accepts_is_as_the_listener_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        congestion.unpace(listening)
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert control_of(accepted) == "reno"


def test_where_nothing_is_paced_nothing_is_changed(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion, "system_paces", lambda: False)
    near, _ = pair
    before = control_of(near)
    congestion.unpace_if_local(near)
    congestion.unpace(near)
    assert control_of(near) == before


@pytest.mark.parametrize(
    ("local", "remote", "stays"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.64.0.9", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("::1", "::1", True),
        ("fd00::7", "fd00::7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("192.0.2.1", "127.0.0.1", False),
        ("fd00::7", "fd00::8", False),
    ],
)
def test_which_connections_stay(local: str, remote: str, stays: bool) -> None:
    assert congestion.stays_here(local, remote) is stays


def test_unix_sockets_and_those_that_are_gone_are_let_be() -> None:
    one, two = socket.socketpair()
    with one, two:
        congestion.unpace_if_local(one)
        congestion.unpace(one)
    with socket.socket() as unconnected:
        congestion.unpace_if_local(unconnected)


def test_the_system_is_asked_by_a_socket_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    congestion.system_paces.cache_clear()
    with socket.socket() as sock:
        assert congestion.system_paces() is control_of(sock).startswith("bbr")
