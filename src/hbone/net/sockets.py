"""Socket options and the few calls that differ by platform.

All sockets of the data path are plain non-blocking ones; the event loop only says when they are ready.
"""

import errno
import os
import socket
import stat
import struct
from typing import Any, cast

from hbone.addr import IpAddress, SocketAddress, parse_ip
from hbone.errors import HboneError, UpstreamFailed, UpstreamTimeout, UsageError
from hbone.values import dataclass

LINGER_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """TCP keep-alive probes: after `idle_s` of silence, every `interval_s`, dead after `probes` without answer.

    `user_timeout_s`: data that was not acknowledged for so long ends the connection too (RFC 5482); None leaves it to
    the system.
    """

    idle_s: int = 180
    interval_s: int = 180
    probes: int = 9
    user_timeout_s: int | None = None


DEFAULT_KEEP_ALIVE = KeepAlive()


def tune(sock: socket.socket, keep_alive: KeepAlive | None) -> None:
    """No Nagle delay, probes if asked. A socket that is no TCP socket (Unix) is left as it is."""
    if sock.family != socket.AF_UNIX:
        tune_tcp(sock, keep_alive)


def tune_tcp(sock: socket.socket, keep_alive: KeepAlive | None) -> None:
    """Likewise, of a socket that is known to be one for TCP: asking it costs as much as an option."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keep_alive is not None:
        probe(sock, keep_alive)


def probe(sock: socket.socket, keep_alive: KeepAlive) -> None:
    """Have the kernel look whether the other end of a TCP connection lives. Raises OSError when it does not."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # not on macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep_alive.idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keep_alive.interval_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keep_alive.probes)
    if keep_alive.user_timeout_s is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, keep_alive.user_timeout_s * 1000)


def accept(listening: socket.socket, family: int) -> socket.socket:
    """The next connection, blocking, of a listening stream socket of that family; raises as `socket.accept` does, which
    looks up three enumerations for each (5 % of the cost of a carried connection)."""
    fd = cast("Any", listening)._accept()[0]  # what the method of the standard library calls
    return bare(family, socket.SOCK_STREAM, fd)


def bare(family: int, kind: int, fd: int | None = None) -> socket.socket:
    """A socket without what the standard library puts around it for files and enumerations: made and closed by no line
    of Python (4 % of the cost of a carried connection). It has all that carries bytes, but not `makefile` or `with`."""
    return cast("socket.socket", socket.SocketType(family, kind, 0, fd))


def close_with_reset(sock: socket.socket) -> None:
    """Close so that the other end sees a reset, not an end: what it got so far is not the whole."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    except OSError:
        pass  # already disconnected: there is nobody left to tell
    sock.close()


def bound_address(sock: socket.socket) -> SocketAddress | None:
    """Where a TCP socket is bound; None for a Unix one."""
    name: object = sock.getsockname()
    return SocketAddress.of(cast("tuple[object, ...]", name)) if isinstance(name, tuple) else None


def peer_of(sock: socket.socket) -> SocketAddress:
    """The other end's address; a Unix socket counts as 127.0.0.1 with port 0. Raises OSError when gone."""
    name: object = sock.getpeername()
    return SocketAddress.of(cast("tuple[object, ...]", name)) if isinstance(name, tuple) else _UNIX


def local_of(sock: socket.socket) -> SocketAddress:
    """Our end's address, likewise."""
    return bound_address(sock) or _UNIX


_UNIX = SocketAddress.of(("127.0.0.1", 0))


def local_address() -> IpAddress:
    """The address by which this machine reaches others, by its routes; 127.0.0.1 without a network. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): nobody's
        except OSError:
            return parse_ip("127.0.0.1")
        return SocketAddress.of(probe.getsockname()).ip


def is_own_address(ip: IpAddress) -> bool:
    """Whether this machine has the address: the kernel reaches its own ones from themselves. Sends nothing."""
    if ip.is_loopback:
        return True
    with socket.socket(family_of(ip), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(ip), 9))
            return SocketAddress.of(probe.getsockname()).ip == ip
        except OSError:
            return False  # no way there at all


def family_of(ip: IpAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if ip.version == 6 else socket.AF_INET


def upstream_failure(number: int, upstream: SocketAddress) -> UpstreamFailed:
    """The error for a connect that ended with errno `number`."""
    why = os.strerror(number)
    fix = {
        errno.ECONNREFUSED: f"start what should listen on {upstream}, or correct its address or port",
        errno.EHOSTUNREACH: f"check the route to {upstream.ip}",
        errno.ENETUNREACH: f"check the route to {upstream.ip}",
        errno.EADDRNOTAVAIL: f"free local ports, or check that {upstream.ip} can be reached from here",
    }.get(number, "")
    return UpstreamFailed(f"cannot connect to {upstream}", why=why, fix=fix, upstream=upstream, errno=number)


def upstream_timeout(upstream: SocketAddress, limit_s: float, *, hbone: bool) -> UpstreamTimeout:
    """The error for a connect without an answer."""
    fix = "check that no firewall or network policy drops it"
    return UpstreamTimeout(
        f"no connection to {upstream} within {limit_s:g} s",
        why="no answer to our SYN" + (", maybe a network policy blocks the HBONE port" if hbone else ""),
        fix=fix,
        upstream=upstream,
    )


def bind_listener(address: SocketAddress, *, backlog: int = 4096, reuse_port: bool = False) -> socket.socket:
    """A listening TCP socket; raises UsageError with the remedy when the address cannot be had."""
    sock = socket.socket(family_of(address.ip), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if address.ip.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if int(address.ip) == 0 else 1)
        sock.bind((str(address.ip), address.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise bind_failure(str(address), error) from error
    return sock


def bind_unix_listener(path: str, *, backlog: int = 4096, mode: int = 0o600) -> socket.socket:
    """A listening Unix socket; a stale one of that name is replaced. Raises UsageError: also where one is alive, and
    where something else has the name."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o777 & ~mode)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _unix_failure(path, error) from error
    finally:
        os.umask(old)
    return sock


def remove_socket(path: str) -> None:
    """The name of a Unix socket of ours that nobody is to find any more. Harmless when somebody tidied up."""
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:
        pass


def _remove_stale(path: str) -> None:
    """Take away a socket that nobody listens on any more, and nothing else."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except OSError:  # nothing there; or nothing for us to see, which binding tells better
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(
            f"cannot listen on {path}",
            why="something else has that name, and it is no socket",
            fix="choose another path, or move it away",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                try:
                    os.unlink(path)  # noqa: PTH108
                except OSError as denied:
                    raise _unix_failure(path, denied) from denied
            return
    raise UsageError(
        f"cannot listen on {path}", why="another process listens there", fix="stop it, or choose another path"
    )


def _unix_failure(path: str, error: OSError) -> UsageError:
    fixes = {
        errno.EACCES: "choose a directory that this user may write to",
        errno.ENOENT: "create the directory first",
        errno.EADDRINUSE: "stop the process that listens there, or choose another path",
    }
    why = os.strerror(error.errno) if error.errno else str(error)
    return UsageError(
        f"cannot listen on {path}", why=why.lower(), fix=fixes.get(error.errno or 0, ""), errno=error.errno
    )


def bind_failure(place: str, error: OSError) -> HboneError:
    """What a failed bind means, and what to do."""
    fixes = {
        errno.EADDRINUSE: f"stop the process that listens on {place} (ss -ltnp shows it), or choose another port",
        errno.EACCES: "choose a port above 1023, or allow this one (sysctl net.ipv4.ip_unprivileged_port_start)",
        errno.EADDRNOTAVAIL: "use an address that this machine has (ip addr shows them; 127.0.0.0/8 is always there)",
    }
    return UsageError(
        f"cannot listen on {place}",
        why=os.strerror(error.errno or 0),
        fix=fixes.get(error.errno or 0, ""),
        errno=error.errno,
    )


SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number for IPv6


def original_destination(sock: socket.socket) -> SocketAddress | None:
    """Where a redirected connection wanted to go (IPv4's option, then IPv6's); None when it was not redirected."""
    try:
        raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return SocketAddress.of((socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")))
    except (OSError, AttributeError):
        pass
    try:
        raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return SocketAddress.of((socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")))
    except OSError:
        return None
