"""PROXY protocol, version 2: what a workload behind us is told about a carried connection before its first byte.

Written as ztunnel writes it toward a waypoint: a PROXY header over STREAM, and the source's identity in TLV 0xD0.
"""

from struct import Struct
from typing import Final

from hbone.addr import SocketAddress
from hbone.identity.spiffe import SpiffeId

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_COMMAND: Final = 0x21  # version 2, PROXY
AUTHORITY_TLV: Final = 0xD0  # Istio's: the peer's SPIFFE ID as text
_FAMILIES: Final = {4: 0x11, 6: 0x21}  # TCP over IPv4, over IPv6
_UNSPECIFIED: Final = 0x01  # STREAM without addresses: the two ends are of different families
_HEAD: Final = Struct(">12sBBH")
_PORTS: Final = Struct(">HH")
_TLV_HEAD: Final = Struct(">BH")


def proxy_header(source: SocketAddress, destination: SocketAddress, identity: SpiffeId | None) -> bytes:
    """The header for a connection from `source`, the peer proxy's socket, to `destination`, the tunnel's target.

    Addresses of different families cannot be written; the header then says so and carries the identity alone.
    """
    body, family = b"", _UNSPECIFIED
    if source.ip.version == destination.ip.version:
        family = _FAMILIES[source.ip.version]
        body = source.ip.packed + destination.ip.packed + _PORTS.pack(source.port, destination.port)
    if identity is not None:
        text = str(identity).encode()  # at most 2048 bytes: SpiffeId.parse sees to it
        body += _TLV_HEAD.pack(AUTHORITY_TLV, len(text)) + text
    return _HEAD.pack(SIGNATURE, PROXY_COMMAND, family, len(body)) + body
