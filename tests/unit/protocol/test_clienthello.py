"""The first bytes of a connection: RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1."""

import ssl

import pytest

from hbone.protocol.clienthello import (
    MAX_HELLO_BYTES,
    Alert,
    ClientHello,
    NeedMore,
    NotTls,
    alert_bytes,
    parse_client_hello,
)


def from_openssl(name: str | None = "cart.shop", alpn: list[str] | None = None) -> bytes:
    """What a real client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some builds still offer what came before
    if alpn:
        context.set_alpn_protocols(alpn)
    said, heard = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(heard, said, server_hostname=name).do_handshake()
    return said.read()


def vector(content: bytes, n: int = 2) -> bytes:
    return len(content).to_bytes(n, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(content)


def sni(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(bytes((kind,)) + vector(name)))


def message(extensions: bytes | None, legacy: bytes = b"\x03\x03") -> bytes:
    body = legacy + bytes(32) + b"\x00" + vector(b"\x13\x01") + b"\x01\x00"
    if extensions is not None:
        body += vector(extensions)
    return b"\x01" + vector(body, 3)


def records(text: bytes, size: int = 16_384) -> bytes:
    return b"".join(b"\x16\x03\x01" + vector(text[at : at + size]) for at in range(0, len(text), size))


def hello(extensions: bytes | None) -> object:
    return parse_client_hello(records(message(extensions)))


def test_a_real_client_hello_is_read() -> None:
    assert parse_client_hello(from_openssl("Cart.Shop", ["h2", "http/1.1"])) == ClientHello(
        sni="cart.shop", alpn=(b"h2", b"http/1.1"), versions=(0x0304, 0x0303)
    )


def test_neither_name_nor_protocols_are_needed() -> None:
    found = parse_client_hello(memoryview(from_openssl(None)))
    assert isinstance(found, ClientHello)
    assert found.sni is None
    assert found.alpn == ()


@pytest.mark.parametrize("extensions", [None, b""])
def test_a_hello_without_extensions_offers_its_legacy_version(extensions: bytes | None) -> None:
    assert hello(extensions) == ClientHello(sni=None, alpn=(), versions=(0x0303,))


def test_every_beginning_needs_more() -> None:
    text = from_openssl()
    for have in range(len(text)):
        assert parse_client_hello(text[:have]) == NeedMore(have)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_hello_may_be_spread_over_records(size: int) -> None:
    text = records(message(sni(b"a.b")), size)
    assert parse_client_hello(text) == ClientHello(sni="a.b", alpn=(), versions=(0x0303,))
    assert parse_client_hello(text[:-1]) == NeedMore(len(text) - 1)


def test_a_hello_in_very_many_records_is_not_waited_for() -> None:
    """Whoever waits asks again with each packet, so the work for one that never ends must stay small."""
    text = records(message(bytes(60_000)), 1)
    assert parse_client_hello(text) == NotTls("a ClientHello in more than 128 records")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "no TLS handshake record"),
        (b"SSH-2.0-OpenSSH", "no TLS handshake record"),
        (b"\x16\x02", "no TLS handshake record"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "no TLS handshake record"),
        (b"\x16\x03\x01\x00\x00", "record of 0 bytes"),
        (b"\x16\x03\x01\x40\x01", "record of 16385 bytes"),
        (b"\x16\x03\x01\x00\x04\x02", "handshake message 2, not a ClientHello"),
        (b"\x16\x03\x01\x00\x04\x01" + (MAX_HELLO_BYTES + 1).to_bytes(3, "big"), "ClientHello of 65537 bytes"),
        (records(b"\x01\x00\x00\x05hello"), "a length beyond its end"),
        (records(message(b"\x00\x00\x00\xff")), "a length beyond its end"),
        (records(message(sni(b"a") + sni(b"b"))), "extension 0 twice"),
        (records(message(sni(b""))), "server name"),
        (records(message(sni(b"."))), "server name"),
        (records(message(sni(b"a b"))), "server name"),
        (records(message(sni(b"a\xff"))), "server name"),
        (records(message(sni(b"a\n"))), "server name"),
        (records(message(extension(16, vector(b"\x00")))), "empty ALPN name"),
    ],
)
def test_what_is_not_a_client_hello_is_named(text: bytes, why: str) -> None:
    found = parse_client_hello(text)
    assert isinstance(found, NotTls)
    assert why in found.why


def test_a_name_of_another_kind_and_unknown_extensions_are_passed_over() -> None:
    assert hello(sni(b"x", kind=1) + extension(0xFAFA, b"grease")) == ClientHello(sni=None, alpn=(), versions=(0x0303,))


def test_a_final_dot_is_dropped() -> None:
    assert hello(sni(b"A.B.")) == ClientHello(sni="a.b", alpn=(), versions=(0x0303,))


def test_an_alert_is_a_record_of_two_bytes() -> None:
    assert alert_bytes(Alert.UNRECOGNIZED_NAME) == b"\x15\x03\x03\x00\x02\x02\x70"  # RFC 6066 §3
