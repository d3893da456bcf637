"""Malformed messages: RFC 9113 §8.1.1, §8.2, §8.3, §8.5."""

import pytest

from hbone.protocol.messages import fault_in_request, fault_in_response, fault_in_trailers, is_interim
from tests.support.h2frames import CONNECT, OK, Fields

GET: Fields = ((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a"))


@pytest.mark.parametrize(
    "fields",
    [
        CONNECT,
        (*CONNECT, (b"baggage", b"a=b,c d"), (b"te", b"trailers"), (b"x", b"")),
        ((b":method", b"CONNECT"), (b":authority", b"not an address")),  # the node says 400
        ((b":method", b"CONNECT"), (b":authority", b"")),
        GET,
    ],
)
def test_a_well_formed_request_is_passed_on_even_if_it_is_not_for_us(fields: Fields) -> None:
    assert fault_in_request(fields) is None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ((), "no :method"),
        (((b":method", b""), (b":authority", b"a:1")), "no :method"),
        (((b":method", b"CONNECT"),), "CONNECT without :authority"),
        ((*CONNECT, (b":scheme", b"https")), "CONNECT with :scheme or :path"),
        ((*CONNECT, (b":path", b"/")), "CONNECT with :scheme or :path"),
        ((*CONNECT, (b":protocol", b"connect-tcp")), "extended CONNECT was not announced"),
        (GET[:2], "b'GET' without :scheme or :path"),
        ((GET[0], (b":path", b"/")), "b'GET' without :scheme or :path"),
        ((*CONNECT, (b":authority", b"b:2")), "b':authority' twice"),
        ((*CONNECT, (b":status", b"200")), "pseudo-header b':status'"),
        (((b"x", b"y"), *CONNECT), "b':method' after an ordinary field"),
        ((*CONNECT, (b"X", b"y")), "field name b'X'"),
        ((*CONNECT, (b"", b"y")), "field name b''"),
        ((*CONNECT, (b"a b", b"y")), "field name b'a b'"),
        ((*CONNECT, (b"a\xff", b"y")), "field name"),
        ((*CONNECT, (b"a:b", b"y")), "field name"),
        ((*CONNECT, (b"x", b"a\r\nb")), "value of b'x'"),
        ((*CONNECT, (b"x", b"a\0")), "value of b'x'"),
        ((*CONNECT, (b"x", b" a")), "value of b'x'"),
        ((*CONNECT, (b"x", b"a\t")), "value of b'x'"),
        (((b":method", b"CON\nNECT"), (b":authority", b"a:1")), "value of b':method'"),
        ((*CONNECT, (b"connection", b"close")), "one connection of HTTP/1"),
        ((*CONNECT, (b"proxy-connection", b"x")), "one connection of HTTP/1"),
        ((*CONNECT, (b"keep-alive", b"x")), "one connection of HTTP/1"),
        ((*CONNECT, (b"transfer-encoding", b"chunked")), "one connection of HTTP/1"),
        ((*CONNECT, (b"upgrade", b"h2c")), "one connection of HTTP/1"),
        ((*CONNECT, (b"te", b"gzip")), "one connection of HTTP/1"),
    ],
)
def test_a_malformed_request_is_named(fields: Fields, fault: str) -> None:
    assert fault in (fault_in_request(fields) or "")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ((), "no :status"),
        (((b":status", b"20"),), ":status b'20'"),
        (((b":status", b"2000"),), ":status b'2000'"),
        (((b":status", b"abc"),), ":status b'abc'"),
        (((b":status", b"101"),), "101"),
        ((*OK, *OK), "b':status' twice"),
        ((*OK, (b":method", b"GET")), "pseudo-header b':method'"),
    ],
)
def test_a_malformed_response_is_named(fields: Fields, fault: str) -> None:
    assert fault in (fault_in_response(fields) or "")


def test_a_response_may_have_any_status_and_fields() -> None:
    assert fault_in_response((*OK, (b"date", b"x"), (b"server", b"envoy"))) is None
    assert fault_in_response(((b":status", b"599"),)) is None


def test_trailers_have_no_pseudo_headers() -> None:
    assert fault_in_trailers(((b"x", b"y"),)) is None
    assert fault_in_trailers(OK) == "pseudo-header b':status'"  # §8.1


@pytest.mark.parametrize(("status", "interim"), [(b"100", True), (b"103", True), (b"200", False), (b"401", False)])
def test_a_1xx_is_interim(status: bytes, interim: bool) -> None:
    assert is_interim(((b":status", status),)) is interim
