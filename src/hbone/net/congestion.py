"""No pacing on connections that stay on this machine.

Where the system's congestion control is BBR, the kernel paces: it spreads what is sent over time, by timers, so that a
queue on the path never fills. A connection from this machine to itself has no path, and a node has many: to its
applications, and to a node beside it. There pacing costs 15 % of the throughput of one stream and a tenth of its CPU,
so those connections get Reno, which every kernel has and every user may choose (tcp(7)). What leaves the machine keeps
what the system's administrator chose.
"""

import contextlib
import functools
import socket
from typing import Final, cast

_PACING: Final = b"bbr"  # and its later versions
_OPTION: Final[int | None] = getattr(socket, "TCP_CONGESTION", None)  # Linux
_WITHOUT: Final = b"reno"
_NAME_BYTES: Final = 16  # TCP_CA_NAME_MAX


@functools.cache
def system_paces() -> bool:
    """Whether new TCP sockets are paced here."""
    if _OPTION is None:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, _OPTION, _NAME_BYTES).startswith(_PACING)
    return False


def stays_here(local: str, remote: str) -> bool:
    """Whether a connection between these addresses leads from this machine to itself: a socket that dials an address
    of its own machine gets that very address, or a loopback one."""
    return local == remote or local.startswith("127.") or local == "::1"


def unpace(sock: socket.socket) -> None:
    """For a listener whose connections all stay here. Harmless where it cannot be had."""
    if _OPTION is not None and system_paces():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _OPTION, _WITHOUT)


def unpace_if_local(sock: socket.socket) -> None:
    """Likewise for a connection, if it stays here."""
    if not system_paces():
        return
    with contextlib.suppress(OSError):  # it is gone: whoever uses it will notice
        local: object = sock.getsockname()
        remote = sock.getpeername()
        if isinstance(local, tuple) and stays_here(str(cast("tuple[object, ...]", local)[0]), remote[0]):
            unpace(sock)
