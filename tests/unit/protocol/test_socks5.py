"""SOCKS5 as a server: lengths, targets, refusals."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.addr import HostPort, SocketAddress
from hbone.protocol.socks5 import (
    Reply,
    SocksViolation,
    answer_greeting,
    greeting_bytes,
    parse_request,
    reply,
    request_bytes,
)

V4 = b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"
V6 = b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50"


def name(host: bytes, port: int = 80) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host + struct.pack("!H", port)


def test_a_greeting_that_offers_no_authentication_is_answered_with_it() -> None:
    assert greeting_bytes(b"\x05\x02") == 4
    assert answer_greeting(b"\x05\x02\x01\x00") == b"\x05\x00"


@pytest.mark.parametrize("greeting", [b"\x05\x01\x02", b"\x05\x00", b"\x04\x01\x00"])
def test_any_other_greeting_is_refused_with_ff(greeting: bytes) -> None:
    with pytest.raises(SocksViolation) as caught:
        answer_greeting(greeting)
    assert caught.value.reply == b"\x05\xff"


@pytest.mark.parametrize(
    ("request_", "target"),
    [
        (V4, SocketAddress.parse("10.0.0.1:80")),
        (V6, SocketAddress.parse("[::1]:80")),
        (b"\x05\x01\x00\x04" + bytes(10) + b"\xff\xff\x0a\x00\x00\x01\x00\x50", SocketAddress.parse("10.0.0.1:80")),
        (name(b"Cart.Shop."), HostPort("cart.shop", 80)),
        (name(b"10.0.0.1"), SocketAddress.parse("10.0.0.1:80")),
        (name(b"::1", 65535), SocketAddress.parse("[::1]:65535")),
        (name(b"a" * 63 + b"." + b"b" * 63), HostPort("a" * 63 + "." + "b" * 63, 80)),
    ],
)
def test_targets_are_addresses_or_names(request_: bytes, target: object) -> None:
    assert request_bytes(request_[:5]) == len(request_)
    assert parse_request(request_) == target


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"\x04\x01\x00\x01\x00", Reply.FAILED),
        (b"\x05\x02\x00\x01\x00", Reply.COMMAND_UNKNOWN),
        (b"\x05\x03\x00\x01\x00", Reply.COMMAND_UNKNOWN),
        (b"\x05\x01\x00\x02\x00", Reply.ADDRESS_UNKNOWN),
    ],
)
def test_a_request_that_we_do_not_serve_is_refused_by_its_head(head: bytes, code: Reply) -> None:
    with pytest.raises(SocksViolation) as caught:
        request_bytes(head)
    assert caught.value.reply == reply(code)


@pytest.mark.parametrize(
    "request_", [name(b"a b"), name(b""), name(b"\xff"), name(b"a", 0), name(b"-a"), name(b"a" * 64), V4[:-2] + b"\0\0"]
)
def test_an_impossible_target_is_a_general_failure(request_: bytes) -> None:
    with pytest.raises(SocksViolation) as caught:
        parse_request(request_)
    assert caught.value.reply == reply(Reply.FAILED)


def test_a_reply_names_no_address() -> None:
    assert reply(Reply.SUCCEEDED) == b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


@given(st.binary(min_size=5, max_size=300))
def test_no_bytes_raise_anything_but_a_violation(text: bytes) -> None:
    try:
        size = request_bytes(text[:5])
        if len(text) >= size:
            parse_request(text[:size])
    except SocksViolation:
        pass
