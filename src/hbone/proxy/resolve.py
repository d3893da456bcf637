"""Looking up the addresses of a host that the mesh leaves to DNS."""

import asyncio
import socket
from collections.abc import Callable

from hbone.addr import IpAddress, parse_ip


async def look_up(
    host: str, family: socket.AddressFamily, timeout_s: float, then: Callable[[tuple[IpAddress, ...]], None]
) -> None:
    """Call `then` with the addresses of `host`, in the resolver's order; none if that fails or takes too long."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(parse_ip(str(info[4][0]).partition("%")[0]) for info in found))
    except (OSError, TimeoutError):
        addresses = ()
    then(addresses)
