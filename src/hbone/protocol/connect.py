"""CONNECT as HBONE speaks it (RFC 9113 §8.5): the headers that open a carried connection, and those that answer.

What is here has passed `messages`: names are in lower case, pseudo-headers come once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from hbone.addr import Authority, InvalidAddress, parse_authority
from hbone.errors import InvalidTarget, PeerViolation
from hbone.protocol.baggage import (
    Baggage,
    Forwarded,
    TraceParent,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)
from hbone.protocol.headers import Field

NETWORK_HEADER: Final = b"x-forwarded-network"
MAX_AUTHORITY_BYTES: Final = 300  # a host of 253 characters, brackets, colon, port


class NotConnect(PeerViolation):
    """A request of another method; only CONNECT is served. Attribute: `method`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """`authority`: where to. The rest describes where from, and is not to be trusted; None: not said.

    `forwarded_network`: the network that the connection came from, inside a tunnel between networks; may be empty.
    """

    authority: Authority
    baggage: Baggage | None = None
    forwarded: Forwarded | None = None
    traceparent: TraceParent | None = None
    forwarded_network: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectResponse:
    """`status`: 200 and nothing else means that bytes may flow. `baggage`: who answered."""

    status: int
    baggage: Baggage | None = None


def request_headers(request: ConnectRequest) -> list[Field]:
    """In ztunnel's order; nothing that it does not send."""
    headers = [(b":method", b"CONNECT"), (b":authority", str(request.authority).encode())]
    for name, part in (
        (b"baggage", request.baggage),
        (b"forwarded", request.forwarded),
        (b"traceparent", request.traceparent),
    ):
        value = part.header() if part is not None else b""
        if value:
            headers.append((name, value))
    if request.forwarded_network is not None:
        headers.append((NETWORK_HEADER, request.forwarded_network.encode()))
    return headers


def parse_request(headers: Iterable[Field]) -> ConnectRequest:
    """What a request asks for. Raises NotConnect or InvalidTarget, both to be answered with 400."""
    single: dict[bytes, bytes] = {}
    baggage: list[bytes] = []
    for name, value in headers:
        if name == b"baggage":
            baggage.append(value)
        else:
            single.setdefault(name, value)
    method = single.get(b":method", b"")
    if method != b"CONNECT":
        shown = method[:20].decode("ascii", "backslashreplace")
        raise NotConnect(f"{shown} on a tunnel", fix="send CONNECT with host and port in :authority", method=shown)
    network = single.get(NETWORK_HEADER)
    return ConnectRequest(
        authority=_target(single.get(b":authority", b"")),
        baggage=parse_baggage(baggage) if baggage else None,
        forwarded=parse_forwarded(single.get(b"forwarded", b"")),
        traceparent=parse_traceparent(single.get(b"traceparent", b"")),
        forwarded_network=None if network is None else network[:256].decode("ascii", "backslashreplace"),
    )


@lru_cache(maxsize=4096)  # the few targets of a node, over and over; refusals are not kept
def _target(value: bytes) -> Authority:
    text = value[:MAX_AUTHORITY_BYTES].decode("ascii", "backslashreplace")
    if len(value) > MAX_AUTHORITY_BYTES:
        raise InvalidTarget(f":authority of {len(value)} bytes", fix="send host and port", authority=text)
    try:
        return parse_authority(text)
    except InvalidAddress as error:
        raise InvalidTarget(f":authority {error.what}", fix=error.fix, authority=text) from error


@lru_cache(maxsize=256)
def response_headers(status: int, baggage: Baggage | None = None) -> tuple[Field, ...]:
    """The answer's whole header list; a tuple, so that the encoder keeps its block."""
    value = baggage.header() if baggage is not None else b""
    answer = (b":status", b"%d" % status)
    return (answer, (b"baggage", value)) if value else (answer,)


def parse_response(headers: Iterable[Field]) -> ConnectResponse:
    """What a response says; other headers (Envoy sends `date`, `server`) are ignored."""
    status = 0
    baggage: list[bytes] = []
    for name, value in headers:
        if name == b":status":
            status = int(value) if value.isdigit() else 0
        elif name == b"baggage":
            baggage.append(value)
    return ConnectResponse(status=status, baggage=parse_baggage(baggage) if baggage else None)
