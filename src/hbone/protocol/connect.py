"""CONNECT as HBONE speaks it (RFC 9113 §8.5): the headers that open a carried connection, and those that answer.

What is here has passed `messages`: names are in lower case, pseudo-headers come once.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hbone.addr import Authority, InvalidAddress, parse_authority
from hbone.errors import InvalidTarget, PeerViolation
from hbone.protocol.baggage import (
    TRACEPARENT_BYTES,
    Baggage,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)
from hbone.protocol.connectrequest import ConnectRequest
from hbone.protocol.headers import Field, encode_field, encode_name, encode_value

NETWORK_HEADER: Final = b"x-forwarded-network"
MAX_AUTHORITY_BYTES: Final = 300  # a host of 253 characters, brackets, colon, port


class NotConnect(PeerViolation):
    """A request of another method; only CONNECT is served. Attribute: `method`."""


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


class RequestHead:
    """What the requests of one workload to one destination have in common, as the beginning of their header blocks.

    Making a block of it costs a tenth of writing the headers one by one; the bytes are the same.
    """

    __slots__ = ("_host", "_prefix")

    def __init__(self, authority: Authority, baggage: Baggage, host: str | None) -> None:
        """`host`: the service that was asked for."""
        shared = request_headers(ConnectRequest(authority=authority, baggage=baggage))
        self._prefix = b"".join(map(encode_field, shared)) + _FORWARDED
        self._host = f'";host={host}'.encode() if host else b'"'

    def block(self, client: str, traceparent: bytes) -> bytes:
        """`client`: the application's socket, as text; `traceparent`: the header's 55 bytes."""
        forwarded = b'for="' + client.encode() + self._host
        return self._prefix + encode_value(forwarded) + _TRACEPARENT + traceparent


_FORWARDED: Final = encode_name(b"forwarded")
_TRACEPARENT: Final = encode_name(b"traceparent") + bytes((TRACEPARENT_BYTES,))


class ReceivedRequest:
    """A request that came. What describes its sender is read when somebody asks: most of it nobody does."""

    __slots__ = ("_baggage", "_fields", "authority")

    def __init__(self, authority: Authority, fields: dict[bytes, bytes], baggage: list[bytes]) -> None:
        self.authority = authority
        self._fields = fields
        self._baggage = baggage

    @property
    def forwarded_host(self) -> str | None:
        """The service that was asked for, as the peer says."""
        value = self._fields.get(b"forwarded")
        if value is None or b"host=" not in value:
            return None
        forwarded = parse_forwarded(value)
        return forwarded.host if forwarded is not None else None

    def whole(self) -> ConnectRequest:
        """All that it says."""
        fields = self._fields
        network = fields.get(NETWORK_HEADER)
        return ConnectRequest(
            authority=self.authority,
            baggage=parse_baggage(self._baggage) if self._baggage else None,
            forwarded=parse_forwarded(fields.get(b"forwarded", b"")),
            traceparent=parse_traceparent(fields.get(b"traceparent", b"")),
            forwarded_network=None if network is None else network[:256].decode("ascii", "backslashreplace"),
        )


def parse_request(headers: Iterable[Field]) -> ReceivedRequest:
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
    return ReceivedRequest(_target(single.get(b":authority", b"")), single, baggage)


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


def response_status(headers: Iterable[Field]) -> int:
    """200 and nothing else means that bytes may flow; 0 for no status at all. Other headers (Envoy sends `date`,
    `server`; ztunnel who answered) are ignored."""
    for name, value in headers:
        if name == b":status":
            return int(value) if len(value) == 3 and value.isdigit() else 0
    return 0
