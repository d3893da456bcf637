"""SOCKS5 (RFC 1928) as a server without authentication, CONNECT only: bytes in, target or refusal out."""

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from hbone.addr import Authority, HostPort, InvalidAddress, SocketAddress, parse_host, parse_ip, plain_ip
from hbone.errors import PeerViolation
from hbone.values import dataclass

VERSION: Final = 5
NO_AUTHENTICATION: Final = 0
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


class Reply(IntEnum):
    """What the client is told (RFC 1928 §6)."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    COMMAND_UNKNOWN = 7
    ADDRESS_UNKNOWN = 8


class SocksViolation(PeerViolation):
    """The client does not speak SOCKS5 as we do. `reply`: bytes to send before closing."""

    reply: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """`taken` bytes of the input made this request."""

    target: Authority
    taken: int


def greeting_bytes(head: bytes) -> int:
    """Length of the client's greeting, of which at least two bytes are known."""
    return 2 + head[1]


def answer_greeting(greeting: bytes) -> bytes:
    """The method that we choose; raises SocksViolation when "no authentication" is not among those offered."""
    if greeting[0] != VERSION or NO_AUTHENTICATION not in greeting[2:]:
        raise SocksViolation(
            "a SOCKS client that wants authentication",
            fix="connect without user name and password; this listener is for this machine only",
            reply=bytes((VERSION, 0xFF)),
        )
    return bytes((VERSION, NO_AUTHENTICATION))


def request_bytes(head: bytes) -> int:
    """Length of a request, of which the first five bytes are known; raises SocksViolation."""
    version, command, _, kind, first = head[:5]
    if version != VERSION:
        raise SocksViolation("not a SOCKS5 request", reply=reply(Reply.FAILED))
    if command != _CONNECT:
        raise SocksViolation(
            f"SOCKS command {command}", fix="only CONNECT is served", reply=reply(Reply.COMMAND_UNKNOWN)
        )
    lengths = {_IPV4: 4 + 4 + 2, _IPV6: 4 + 16 + 2, _NAME: 4 + 1 + first + 2}
    if kind not in lengths:
        raise SocksViolation(f"SOCKS address type {kind}", reply=reply(Reply.ADDRESS_UNKNOWN))
    return lengths[kind]


def parse_request(request: bytes) -> Authority:
    """Where a whole request wants to go; raises SocksViolation."""
    kind, (port,) = request[3], struct.unpack("!H", request[-2:])
    try:
        if port == 0:
            raise InvalidAddress("port 0")
        if kind == _IPV4:
            return SocketAddress(IPv4Address(request[4:8]), port)
        if kind == _IPV6:
            return SocketAddress(plain_ip(IPv6Address(request[4:20])), port)
        name = request[5:-2].decode("ascii")
        try:
            return SocketAddress(parse_ip(name), port)  # some clients send addresses as names
        except InvalidAddress:
            return HostPort(parse_host(name), port)
    except (InvalidAddress, UnicodeDecodeError) as error:
        raise SocksViolation(f"a SOCKS request for an impossible target: {error}", reply=reply(Reply.FAILED)) from error


def reply(code: Reply) -> bytes:
    """The answer to a request; the bound address is not told (0.0.0.0:0), as ztunnel does."""
    return struct.pack("!BBBB4sH", VERSION, code, 0, _IPV4, b"\0\0\0\0", 0)
