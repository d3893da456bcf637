"""baggage, forwarded, traceparent: as ztunnel writes them, read with tolerance."""

import random

import pytest

from hbone.addr import SocketAddress
from hbone.protocol.baggage import (
    Baggage,
    Forwarded,
    TraceParent,
    fresh_traceparent,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)

CART = Baggage(
    cluster="Kubernetes",
    namespace="shop",
    workload_type="deployment",
    workload="cart",
    service="cart",
    version="v3",
    region="eu-1",
    zone="eu-1b",
)
CART_TEXT = (
    b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,"
    b"service.name=cart,service.version=v3,cloud.region=eu-1,cloud.availability_zone=eu-1b"
)


def test_baggage_is_written_in_ztunnels_order() -> None:
    assert CART.header() == CART_TEXT


@pytest.mark.parametrize(
    ("baggage", "text"),
    [
        (Baggage(), b""),
        (Baggage(namespace="shop"), b"k8s.namespace.name=shop"),
        (Baggage(workload="x"), b""),  # of no type: there is no key for it
        (Baggage(workload_type="CronJob", workload="x"), b"k8s.cronjob.name=x"),
        (Baggage(workload_type="pod"), b""),
        (Baggage(service="a b", region="eu west"), b"service.name=a b,cloud.region=eu west"),
        (Baggage(service="a,b", version="1;2", region="\r\nx: y", zone="münchen", cluster=" a"), b""),
    ],
)
def test_what_is_empty_or_cannot_stand_in_a_member_is_left_out(baggage: Baggage, text: bytes) -> None:
    assert baggage.header() == text


def test_baggage_reads_what_it_writes() -> None:
    assert parse_baggage([CART_TEXT]) == CART
    assert parse_baggage(CART_TEXT.split(b",")) == CART  # one header line each


@pytest.mark.parametrize(
    ("values", "baggage"),
    [
        ([b"service.name=a", b"service.name=b"], Baggage(service="b")),
        ([b" service.name = a ; ttl=3 , other=1"], Baggage(service="a")),
        ([b"service.name=a=b"], Baggage(service="a")),
        ([b"k8s.job.name=j"], Baggage(workload_type="job", workload="j")),
        ([b"k8s.job.name=j,k8s.pod.name=p"], Baggage(workload_type="pod", workload="p")),
        ([b"k8s.statefulset.name=j,service.name=a"], Baggage(service="a")),
        ([b"service.name=a,service.name="], None),
        ([b"k8s.pod.name="], None),
        ([b"service.name"], None),
        ([b"unknown=1"], None),
        ([b""], None),
        ([], None),
        ([b"service.name=\xff"], None),
        ([b"service.name=a\0"], None),
        ([b"service.name=a" + b"," * 9000], None),
    ],
)
def test_baggage_from_others_is_read_as_far_as_it_makes_sense(values: list[bytes], baggage: Baggage | None) -> None:
    assert parse_baggage(values) == baggage


CLIENT = SocketAddress.parse("10.0.0.1:4321")


@pytest.mark.parametrize(
    ("forwarded", "text"),
    [
        (Forwarded(CLIENT), b'for="10.0.0.1:4321"'),
        (Forwarded(CLIENT, "cart.shop.svc"), b'for="10.0.0.1:4321";host=cart.shop.svc'),
        (Forwarded(SocketAddress.parse("[fd00::1]:1")), b'for="[fd00::1]:1"'),
        (Forwarded(host="a"), b"host=a"),
        (Forwarded(), b""),
    ],
)
def test_forwarded_is_written_as_ztunnel_does_and_read_back(forwarded: Forwarded, text: bytes) -> None:
    assert forwarded.header() == text
    assert parse_forwarded(text) == (forwarded if text else None)


@pytest.mark.parametrize(
    ("text", "forwarded"),
    [
        (b'for="x"; host="a.b" ;proto=https', Forwarded(host="a.b")),
        (b"host=first;host=second", Forwarded(host="first")),
        (b"Host=a", None),  # as ztunnel: in lower case only
        (b'For="10.0.0.1:4321"', Forwarded(CLIENT)),
        (b"for=unknown", None),
        (b"for=_hidden;host=", None),
        (b'host=""', None),
        (b"host=\xc3\xa4", None),
        (b";;;", None),
        (b"", None),
        (b"host=" + b"a" * 2000, None),
    ],
)
def test_forwarded_from_others(text: bytes, forwarded: Forwarded | None) -> None:
    assert parse_forwarded(text) == forwarded


TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_is_read_and_written_back() -> None:
    trace = parse_traceparent(TRACE)
    assert trace == TraceParent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 1)
    assert trace is not None
    assert trace.header() == TRACE
    assert parse_traceparent(TRACE.upper()) == trace


@pytest.mark.parametrize(
    "text",
    [
        b"",
        TRACE[:-1],
        TRACE + b"0",
        TRACE.replace(b"-", b"0"),
        b"0" * 27 + b"-" + b"0" * 27,  # 55 characters, one dash: made an upstream proxy panic
        b"ff" + TRACE[2:],
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
        TRACE.replace(b"a", b"g"),
        b"\xff" * 55,
        TRACE[:-1] + b"\n",
    ],
)
def test_what_is_not_a_trace_is_none(text: bytes) -> None:
    assert parse_traceparent(text) is None


def test_a_fresh_trace_is_well_formed_and_not_sampled() -> None:
    trace = parse_traceparent(fresh_traceparent(random.Random(1)))
    assert trace is not None
    assert len(trace.header()) == 55
    assert parse_traceparent(trace.header()) == trace
    assert trace.flags == 0
