"""Where a proxy itself listens: a connection that is led there would go round in circles."""

from dataclasses import field
from ipaddress import IPv4Address, IPv6Address

from hbone.addr import IpAddress, SocketAddress
from hbone.values import dataclass

_ANY_V4, _ANY_V6 = IPv4Address("0.0.0.0"), IPv6Address("::")


@dataclass(frozen=True, slots=True)
class OwnListeners:
    """The addresses of a proxy's listeners, as they are bound. An application may have the same port on another
    address. A wildcard takes the port on every address, and that of IPv6 on those of IPv4 too (as we bind it)."""

    addresses: frozenset[SocketAddress]
    _ports: frozenset[int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ports", frozenset(one.port for one in self.addresses))

    @classmethod
    def everywhere(cls, *ports: int) -> "OwnListeners":
        """These ports on every address."""
        return cls(frozenset(SocketAddress(_ANY_V6, port) for port in ports))

    def take(self, ip: IpAddress, port: int) -> bool:
        """Whether a connection to `ip` and `port` would end at one of them, if `ip` is an address of this machine."""
        if port not in self._ports:
            return False
        found = (SocketAddress(one, port) in self.addresses for one in (ip, _ANY_V6))
        return any(found) or (ip.version == 4 and SocketAddress(_ANY_V4, port) in self.addresses)


NOWHERE = OwnListeners(frozenset())
"""Not bound yet."""
USUAL = OwnListeners.everywhere(15001, 15006, 15008)
"""ztunnel's: outbound, inbound plaintext, inbound."""
