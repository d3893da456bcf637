"""Where a listener gets its socket: an address to bind, a Unix path, or a descriptor handed down.

Written as `127.0.0.1:15080`, `[::]:15008`, `unix:/run/hbone/admin.sock`, `fd:3`; `off` for none, which is
None here. Port 0 asks the kernel for any free one.
"""

import re
from typing import Final

from hbone.addr import InvalidAddress, SocketAddress, parse_ip
from hbone.errors import UsageError
from hbone.values import dataclass

MAX_UNIX_PATH_BYTES: Final = 107  # sun_path of sockaddr_un is 108 bytes with its final zero
FIRST_INHERITED_FD: Final = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
_PORT = re.compile(r"[0-9]{1,5}")


class InvalidListen(UsageError):
    """Text that does not say where to listen."""


@dataclass(frozen=True, slots=True)
class TcpListen:
    """Bind this address; port 0 for any free one."""

    address: SocketAddress

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class UnixListen:
    """Bind this Unix socket path (absolute)."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class InheritedListen:
    """Take over this descriptor, already bound and listening (systemd socket activation)."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


Listen = TcpListen | UnixListen | InheritedListen


def parse_listen(text: str) -> Listen:
    """One listener; raises InvalidListen with what to write instead."""
    if text.startswith("unix:"):
        return UnixListen(_unix_path(text.removeprefix("unix:")))
    if text.startswith("/"):
        raise InvalidListen(f"{text!r} is a path", fix=f"write unix:{text}", text=text)
    if text.startswith("fd:"):
        number = text.removeprefix("fd:")
        if not number.isascii() or not number.isdigit() or not FIRST_INHERITED_FD <= int(number) < 1 << 20:
            raise InvalidListen(f"{text!r} names no descriptor", fix="write fd:3 or higher", text=text)
        return InheritedListen(int(number))
    return TcpListen(_tcp(text))


def listens_collide(a: Listen, b: Listen) -> bool:
    """Would `b` fail with "address in use" after `a` was bound? Port 0 never collides."""
    match a, b:
        case TcpListen(address=x), TcpListen(address=y):
            # A wildcard takes the port on every address (of its family; [::] takes IPv4 too on Linux).
            same_ip = x.ip == y.ip or x.ip.is_unspecified or y.ip.is_unspecified
            return x.port == y.port != 0 and same_ip
        case UnixListen(path=x), UnixListen(path=y):
            return x == y
        case InheritedListen(fd=x), InheritedListen(fd=y):
            return x == y
        case _:
            return False


def _unix_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise InvalidListen(f"{path!r} is not an absolute path", fix="write unix:/run/hbone/name.sock", text=path)
    if len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise InvalidListen(
            f"a Unix socket path of {len(path.encode())} bytes",
            fix=f"choose one of at most {MAX_UNIX_PATH_BYTES} bytes",
            text=path,
        )
    return path


def _tcp(text: str) -> SocketAddress:
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        port = port_text if _PORT.fullmatch(port_text) else "15080"
        raise InvalidListen(
            f"{text!r} is not an address with a port",
            fix=f"write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every address, unix:/path or fd:3",
            text=text,
        )
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise InvalidListen(f"{port_text!r} is not a port", fix="write a number from 0 (any free) to 65535", text=text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidListen(f"{text!r} has a bare IPv6 address", fix=f"write [{host}]:{port_text}", text=text)
    try:
        ip = parse_ip("127.0.0.1" if host == "localhost" else host)
    except InvalidAddress as error:
        fix = "write an IP address of this machine, 127.0.0.1 or 0.0.0.0; names are not looked up"
        raise InvalidListen(f"{host!r} is not an IP address", fix=fix, text=text) from error
    return SocketAddress(ip, int(port_text))
