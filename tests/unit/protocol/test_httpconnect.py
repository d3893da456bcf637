"""HTTP/1.1 CONNECT as a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.addr import HostPort, SocketAddress
from hbone.protocol.httpconnect import ESTABLISHED, HttpViolation, parse_head, refusal, too_large


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("CONNECT 10.0.0.1:80 HTTP/1.1", SocketAddress.parse("10.0.0.1:80")),
        ("CONNECT [::1]:80 HTTP/1.1", SocketAddress.parse("[::1]:80")),
        ("CONNECT Cart.Shop:80 HTTP/1.0", HostPort("cart.shop", 80)),
    ],
)
def test_the_target_is_the_authority_and_headers_do_not_matter(line: str, target: object) -> None:
    assert parse_head(f"{line}\r\nhost: elsewhere\r\nproxy-authorization: x\r\n\r\n".encode()) == target


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://a/ HTTP/1.1", 405),
        ("connect a:80 HTTP/1.1", 405),
        ("CONNECT a HTTP/1.1", 400),
        ("CONNECT a:0 HTTP/1.1", 400),
        ("CONNECT user@a:80 HTTP/1.1", 400),
        ("CONNECT a:80/path HTTP/1.1", 400),
        ("CONNECT  a:80 HTTP/1.1", 400),
        ("CONNECT a:80", 400),
        ("CONNECT a:80 HTTP/2", 400),
        ("", 400),
    ],
)
def test_anything_else_is_answered_with_a_status_and_the_reason(line: str, status: int) -> None:
    with pytest.raises(HttpViolation) as caught:
        parse_head(f"{line}\r\n\r\n".encode())
    answer = caught.value.reply
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-length: %d" % len(body) in head
    assert caught.value.what.encode() in body
    assert (b"allow: CONNECT" in head) == (status == 405)


def test_a_head_that_is_too_large_is_431() -> None:
    assert b"HTTP/1.1 431 " in too_large().reply


@pytest.mark.parametrize("status", [400, 403, 405, 431, 502, 504])
def test_every_status_that_we_send_has_its_words(status: int) -> None:
    assert refusal(status, "näheres").endswith("näheres\n".encode())


def test_success_has_no_body_and_no_length() -> None:
    assert ESTABLISHED == b"HTTP/1.1 200 Connection established\r\n\r\n"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_violation(text: bytes) -> None:
    try:
        parse_head(text + b"\r\n\r\n")
    except HttpViolation:
        pass
