"""Where a listener gets its socket."""

import pytest

from hbone.addr import SocketAddress
from hbone.config.listen import (
    InheritedListen,
    InvalidListen,
    Listen,
    TcpListen,
    UnixListen,
    listens_collide,
    parse_listen,
)


def tcp(text: str) -> TcpListen:
    host, _, port = text.rpartition(":")
    return TcpListen(SocketAddress(SocketAddress.parse(f"{host}:1").ip, int(port)))


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:15080", tcp("127.0.0.1:15080")),
        ("localhost:80", tcp("127.0.0.1:80")),
        ("[::]:15008", tcp("[::]:15008")),
        ("127.0.0.1:0", tcp("127.0.0.1:0")),
        ("unix:/run/x.sock", UnixListen("/run/x.sock")),
        ("fd:3", InheritedListen(3)),
    ],
)
def test_the_forms_of_a_listener_are_read_and_written(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen
    assert parse_listen(str(listen)) == listen


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("15080", "127.0.0.1:15080"),
        (":8080", "127.0.0.1:8080"),
        ("127.0.0.1", "127.0.0.1:15080"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("unix:x.sock", "unix:/run/hbone/name.sock"),
        ("unix:/" + "x" * 107, "107 bytes"),
        ("::1:80", "[::1]:80"),
        ("127.0.0.1:70000", "65535"),
        ("shop.example:80", "IP address of this machine"),
        ("fd:2", "fd:3"),
        ("fd:x", "fd:3"),
    ],
)
def test_what_is_no_listener_is_refused_with_what_to_write(text: str, fix: str) -> None:
    with pytest.raises(InvalidListen) as caught:
        parse_listen(text)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("a", "b", "collide"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("0.0.0.0:80", "127.0.0.2:80", True),
        ("[::]:80", "127.0.0.2:80", True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("fd:3", "fd:3", True),
        ("fd:3", "unix:/a", False),
    ],
)
def test_two_listeners_collide_when_the_second_could_not_be_bound(a: str, b: str, collide: bool) -> None:
    assert listens_collide(parse_listen(a), parse_listen(b)) is collide
    assert listens_collide(parse_listen(b), parse_listen(a)) is collide
