"""CONNECT: RFC 9113 §8.5 and what ztunnel sends and answers."""

import pytest

from hbone.addr import HostPort, SocketAddress
from hbone.errors import InvalidTarget
from hbone.protocol.baggage import Baggage, Forwarded, TraceParent
from hbone.protocol.connect import NotConnect, parse_request, request_headers, response_headers, response_status
from hbone.protocol.connectrequest import ConnectRequest
from tests.support.h2frames import CONNECT, OK, Fields

TARGET = SocketAddress.parse("10.0.0.1:80")
FULL = ConnectRequest(
    authority=TARGET,
    baggage=Baggage(namespace="shop"),
    forwarded=Forwarded(SocketAddress.parse("10.0.0.9:5"), "cart.shop"),
    traceparent=TraceParent(1, 2),
    forwarded_network="",
)


def test_a_request_has_ztunnels_headers_in_ztunnels_order() -> None:
    assert request_headers(FULL) == [
        (b":method", b"CONNECT"),
        (b":authority", b"10.0.0.1:80"),
        (b"baggage", b"k8s.namespace.name=shop"),
        (b"forwarded", b'for="10.0.0.9:5";host=cart.shop'),
        (b"traceparent", b"00-00000000000000000000000000000001-0000000000000002-00"),
        (b"x-forwarded-network", b""),
    ]


def test_what_is_not_known_is_not_sent() -> None:
    bare = ConnectRequest(authority=TARGET, baggage=Baggage())
    assert request_headers(bare) == list(CONNECT)


@pytest.mark.parametrize("request_", [FULL, ConnectRequest(authority=HostPort("cart.shop", 8080))])
def test_a_request_reads_what_it_writes(request_: ConnectRequest) -> None:
    assert parse_request(request_headers(request_)).whole() == request_


def test_baggage_lines_are_joined_and_of_other_headers_the_first_counts() -> None:
    read = parse_request(
        (
            *CONNECT,
            (b"baggage", b"service.name=a"),
            (b"baggage", b"cloud.region=r"),
            (b"forwarded", b"host=a"),
            (b"forwarded", b"host=b"),
            (b"x-forwarded-network", b"net\xff"),
        )
    ).whole()
    assert read.baggage == Baggage(service="a", region="r")
    assert read.forwarded == Forwarded(host="a")
    assert read.forwarded_network == "net\\xff"


@pytest.mark.parametrize("method", [b"GET", b"connect", b"", b"\xff" * 100])
def test_another_method_is_not_a_connect_and_answered_400(method: bytes) -> None:
    with pytest.raises(NotConnect) as caught:
        parse_request(((b":method", method), CONNECT[1]))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "authority",
    [b"", b"10.0.0.1", b"host", b"host:", b"host:0", b"host:70000", b"u@h:1", b"\xff:1", b"a" * 400 + b":1"],
)
def test_an_authority_without_host_and_port_is_answered_400(authority: bytes) -> None:
    with pytest.raises(InvalidTarget, match=":authority") as caught:
        parse_request(((b":method", b"CONNECT"), (b":authority", authority)))
    assert caught.value.status == 400
    assert len(str(caught.value)) < 300


def test_a_request_without_authority_is_answered_400_if_it_comes_so_far() -> None:
    with pytest.raises(InvalidTarget):
        parse_request(CONNECT[:1])


def test_an_answer_is_its_status_and_may_say_who_answered() -> None:
    assert response_headers(401) == ((b":status", b"401"),)
    assert response_headers(200, Baggage()) == OK
    assert response_headers(200, Baggage(zone="z")) == (*OK, (b"baggage", b"cloud.availability_zone=z"))
    assert response_headers(200, Baggage(zone="z")) is response_headers(200, Baggage(zone="z"))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (OK, 200),
        ((*OK, (b"date", b"x"), (b"baggage", b"service.name=a")), 200),
        (((b":status", b"503"),), 503),
        (((b":status", b"x"),), 0),
        (((b":status", b"2" * 9000),), 0),
        ((), 0),
    ],
)
def test_the_status_of_an_answer_is_read(fields: Fields, status: int) -> None:
    assert response_status(fields) == status
