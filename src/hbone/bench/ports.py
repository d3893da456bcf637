"""Free loopback addresses and ports.

Ports are taken below the range from which the kernel picks the source ports of connections (32768 and up by
default), so that no connection of a load takes a port between our choice and the bind of the process it is for.
"""

import random
import socket
from ipaddress import IPv4Address

from hbone.addr import SocketAddress

FIRST, LAST = 20_000, 32_000
ATTEMPTS = 200
LOOPBACK = IPv4Address("127.0.0.1")


class Ports:
    """Hands out each port once in a run."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: set[SocketAddress] = set()

    def free(self, ip: IPv4Address = LOOPBACK) -> SocketAddress:
        """An address on `ip` that can be bound now; raises OSError when there is none."""
        for _ in range(ATTEMPTS):
            address = SocketAddress(ip, self._rng.randrange(FIRST, LAST))
            if address not in self._given and bindable(address):
                self._given.add(address)
                return address
        raise OSError(f"no free port on {ip} between {FIRST} and {LAST}")

    def free_host(self) -> IPv4Address:
        """An address of 127.0.0.0/8 for a workload of its own; raises OSError where loopback has but one.

        Its node's inbound port is any free one too: 15008 would be taken, on every address, by an `hbone up` that runs.
        """
        for _ in range(ATTEMPTS):
            ip = IPv4Address(int(IPv4Address("127.64.0.1")) + self._rng.randrange(1 << 20))
            if bindable(SocketAddress(ip, 0)):
                return ip
        raise OSError("no address of 127.0.0.0/8 but 127.0.0.1 can be used here")


def bindable(address: SocketAddress) -> bool:
    """Can a listener be bound here now?"""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((str(address.ip), address.port))
        except OSError:
            return False
    return True
