"""Addresses as values: a socket's, a CONNECT's `:authority`, a network prefix.

IPv4 addresses mapped into IPv6 (`::ffff:10.0.0.1`, what a dual-stack listener reports) are made plain IPv4
wherever an address is built, so that one peer has one spelling everywhere (ztunnel: `to_canonical`).
"""

import re
from dataclasses import field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Self

from hbone.errors import PeerViolation
from hbone.values import dataclass

IpAddress = IPv4Address | IPv6Address

MAX_HOST_CHARS = 253  # RFC 1035 §2.3.4, without the final dot
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(r"\.".join([_OCTET] * 4))
_PORT = re.compile(r"[0-9]{1,5}")


class InvalidAddress(PeerViolation):
    """Text that is not an address of the wanted form."""


@lru_cache(maxsize=65536)
def parse_ip(text: str) -> IpAddress:
    """An IP address in its plain form; raises InvalidAddress. Zone identifiers are not accepted."""
    if found := _IPV4.fullmatch(text):  # a third of the time: large meshes have many
        one, two, three, four = map(int, found.groups())
        return IPv4Address(one << 24 | two << 16 | three << 8 | four)
    try:
        ip = ip_address(text)
    except ValueError as error:
        raise InvalidAddress(f"{text!r} is not an IP address", fix="write 10.0.0.1 or fd00::1") from error
    return plain_ip(ip)


def plain_ip(ip: IpAddress) -> IpAddress:
    """`ip`, or the IPv4 address inside a v4-mapped one; raises InvalidAddress for a scoped address."""
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            raise InvalidAddress(f"{ip} carries a zone", fix="write the address without %zone")
        return ip.ipv4_mapped or ip
    return ip


def parse_port(text: str) -> int:
    """A port from 1 to 65535; raises InvalidAddress."""
    if _PORT.fullmatch(text) and 0 < int(text) < 65536:
        return int(text)
    raise InvalidAddress(f"{text!r} is not a port", fix="write a number from 1 to 65535")


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """An IP address and a port (0 only where a listener asks for any free one)."""

    ip: IpAddress
    port: int
    _host: str = field(default="", init=False, repr=False, compare=False)  # made once, like the text: both are asked
    _text: str = field(default="", init=False, repr=False, compare=False)  # for again and again

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10.0.0.1:80` or `[fd00::1]:80`; raises InvalidAddress."""
        host, port = _split(text)
        return cls(parse_ip(host), parse_port(port))

    @classmethod
    def of(cls, sockaddr: tuple[object, ...]) -> Self:
        """From what `getpeername` and its like return (AF_INET or AF_INET6)."""
        host: Any = sockaddr[0]
        port: Any = sockaddr[1]
        if ":" in host:
            return cls(parse_ip(host.partition("%")[0]), port)
        made = cls(parse_ip(host), port)
        object.__setattr__(made, "_host", host)  # the kernel writes IPv4 as everybody does
        object.__setattr__(made, "_text", f"{host}:{port}")
        return made

    @property
    def host(self) -> str:
        """The IP address as text."""
        host = self._host
        if not host:
            host = str(self.ip)
            object.__setattr__(self, "_host", host)
        return host

    def __str__(self) -> str:
        text = self._text
        if not text:
            host = self.host
            text = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            object.__setattr__(self, "_text", text)
        return text


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host name, in lower case and without a final dot, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


Authority = SocketAddress | HostPort


@lru_cache(maxsize=4096)
def text_of(authority: Authority) -> str:
    """`str(authority)`, one object for one address: what thousands of connections have in common is kept once."""
    return str(authority)


def parse_authority(text: str) -> Authority:
    """The target of a CONNECT (RFC 9113 §8.5, RFC 9110 §9.3.6): host and port, both mandatory.

    No userinfo, no path, no port 0; raises InvalidAddress. Digits and dots alone must be a whole IPv4 address.
    """
    host, port_text = _split(text)
    port = parse_port(port_text)
    if text.startswith("["):
        ip = parse_ip(host)
        if ":" not in host:
            raise InvalidAddress(f"{text!r} has an IPv4 address in brackets", fix="leave the brackets out")
        return SocketAddress(ip, port)
    if host.replace(".", "").isdigit():
        return SocketAddress(parse_ip(host), port)
    return HostPort(parse_host(host), port)


def parse_host(text: str) -> str:
    """A host name in lower case without its final dot; raises InvalidAddress."""
    host = text.lower().removesuffix(".")
    if len(host) <= MAX_HOST_CHARS and all(_LABEL.fullmatch(label) for label in host.split(".")):
        return host
    raise InvalidAddress(
        f"{text[:80]!r} is not a host name", fix="use letters, digits, '-' and '.', labels of 1 to 63 characters"
    )


def _split(text: str) -> tuple[str, str]:
    """Host and port texts of `host:port` or `[v6]:port`; raises InvalidAddress."""
    host, colon, port = text.rpartition(":")
    if colon and host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    if colon and host and ":" not in host and "[" not in host and "]" not in host:
        return host, port
    raise InvalidAddress(
        f"{text[:80]!r} is not an address with a port", fix="write 10.0.0.1:80, [fd00::1]:80 or host.name:80"
    )


@dataclass(frozen=True, slots=True)
class Prefix:
    """An address range."""

    network: IPv4Network | IPv6Network

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10.0.0.0/8`, or a single address; host bits must be zero. Raises InvalidAddress."""
        try:
            return cls(ip_network(text))
        except ValueError as error:
            raise InvalidAddress(f"{text!r} is not an address range", fix="write 10.0.0.0/8 or fd00::/8") from error

    def __contains__(self, ip: IpAddress) -> bool:
        return ip.version == self.network.version and ip in self.network

    def __str__(self) -> str:
        return str(self.network)
