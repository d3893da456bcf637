"""Which addresses are our own."""

import pytest

from hbone.discovery.listeners import NOWHERE, USUAL, OwnListeners
from tests.unit.discovery.builders import ip, sock


@pytest.mark.parametrize(
    ("bound", "to", "taken"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "10.1.2.3:80", True),
        ("0.0.0.0:80", "10.1.2.3:81", False),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[fd00::1]:80", True),
        ("[::]:80", "10.1.2.3:80", True),
        ("[::1]:80", "127.0.0.1:80", False),
        ("[::1]:80", "[::1]:80", True),
    ],
)
def test_a_listener_takes_its_own_address_and_a_wildcard_all(bound: str, to: str, taken: bool) -> None:
    target = sock(to)
    assert OwnListeners(frozenset({sock(bound)})).take(target.ip, target.port) is taken


def test_ztunnel_s_ports_are_ours_wherever_they_are() -> None:
    assert all(USUAL.take(ip(host), port) for host in ("10.0.0.1", "fd00::1") for port in (15001, 15006, 15008))
    assert not USUAL.take(ip("127.0.0.1"), 15021)


def test_nobody_is_at_home_before_the_ports_are_taken() -> None:
    assert not NOWHERE.take(ip("127.0.0.1"), 15008)
