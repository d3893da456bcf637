"""PROXY protocol v2: §2.2 of its specification."""

from hbone.addr import SocketAddress
from hbone.identity.spiffe import SpiffeId
from hbone.protocol.proxyv2 import SIGNATURE, proxy_header

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
V4 = SocketAddress.parse("10.0.0.1:258")
V4_TO = SocketAddress.parse("10.0.0.2:80")
V6 = SocketAddress.parse("[fd00::1]:1")


def test_ipv4_addresses_and_the_identity() -> None:
    text = str(CART).encode()
    assert proxy_header(V4, V4_TO, CART) == (
        SIGNATURE + b"\x21\x11" + (12 + 3 + len(text)).to_bytes(2, "big")
        + bytes((10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 0, 80))
        + b"\xd0" + len(text).to_bytes(2, "big") + text
    )  # fmt: skip


def test_ipv6_without_identity() -> None:
    header = proxy_header(V6, V6, None)
    assert header[12:16] == b"\x21\x21\x00\x24"
    assert len(header) == 16 + 36


def test_addresses_of_two_families_are_left_out() -> None:
    header = proxy_header(V4, V6, CART)
    assert header[12:14] == b"\x21\x01"
    assert header[16:17] == b"\xd0"
