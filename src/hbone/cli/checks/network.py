"""Checks of addresses and ports."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hbone.cli.checks.finding import Finding, failure, ok, warning
from hbone.config.listen import Listen, TcpListen
from hbone.config.model import Listeners

_INODE: Final = re.compile(r"socket:\[(\d+)\]")
PROC: Final = Path("/proc")
_ANSWER_S: Final = 1.0


def loopback() -> Iterator[Finding]:
    """Several nodes on one machine, and the demo, use different addresses of 127.0.0.0/8."""
    error = _own_connection_error("127.0.0.2")
    if error is None:
        yield ok("loopback", "any 127.x.x.x address")
    else:
        yield failure(
            "loopback",
            f"127.0.0.2 cannot be used: {error.strerror or 'no answer'}",
            means="the demo, and several nodes on one machine, need addresses beside 127.0.0.1",
            fix="bring up lo (`ip link set lo up`); on macOS: `sudo ifconfig lo0 alias 127.0.0.2`",
        )


def ipv6() -> Iterator[Finding]:
    error = _bind_error(socket.AF_INET6, ("::1", 0)) if socket.has_ipv6 else OSError(errno.EAFNOSUPPORT, "no IPv6")
    if error is None:
        yield ok("IPv6", "loopback ::1")
    else:
        yield warning(
            "IPv6",
            f"::1 cannot be bound: {error.strerror}",
            means="only IPv4 is carried here",
            fix="nothing, if IPv6 is off on purpose (ipv6_enabled: false says so); else sysctl "
            "net.ipv6.conf.lo.disable_ipv6=0",
        )


def ports(listeners: Listeners | None = None) -> Iterator[Finding]:
    """The default listeners' ports: free, or held by whom."""
    chosen = listeners or Listeners()
    for name in type(chosen).model_fields:
        listen: Listen | None = getattr(chosen, name)
        if isinstance(listen, TcpListen):
            yield _port(name, listen)


def _port(name: str, listen: TcpListen) -> Finding:
    address = listen.address
    title = f"port {address.port}"
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    error = _bind_error(family, (str(address.ip), address.port))
    if error is None:
        return ok(title, f"free ({name})")
    means = f"the {name} listener cannot have {address}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(address.port)
        if holder is not None and holder[1] == "hbone":
            return ok(title, f"held by hbone itself, process {holder[0]} ({name})")
        who = f"process {holder[0]} ({holder[1]})" if holder else "another user's process"
        fix = f"stop it, or choose another address: listeners.{name} (HBONE_{name.upper()})"
        return warning(title, f"taken by {who}", means=means, fix=fix)
    fix = f"choose another address: listeners.{name} (HBONE_{name.upper()})"
    return warning(title, f"cannot be bound: {error.strerror}", means=means, fix=fix)


def privileged_ports() -> Iterator[Finding]:
    try:
        first = int((PROC / "sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return
    if os.geteuid() == 0:
        yield ok("privileged ports", "root may bind all")
    elif first <= 80:
        yield ok("privileged ports", f"this user may bind ports from {first}")
    else:
        yield ok(
            "privileged ports", f"this user may bind ports from {first}", "listeners below need root or the sysctl"
        )


def holder_of(port: int) -> tuple[int, str] | None:
    """Process id and name of who listens on TCP `port`; None when this user may not see it."""
    inodes = {inode for table in ("net/tcp", "net/tcp6") for inode in _listening(PROC / table, port)}
    if not inodes:
        return None
    for entry in PROC.iterdir():
        if entry.name.isdigit() and inodes & _sockets(entry / "fd"):
            return int(entry.name), _name(entry)
    return None


def _listening(table: Path, port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on `port` (proc_pid_net(5): state 0A, local address hex)."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _sockets(directory: Path) -> set[str]:
    """Inodes of the sockets open in a process; none when it is somebody else's."""
    found: set[str] = set()
    try:
        links = list(directory.iterdir())
    except OSError:
        return found
    for link in links:
        try:
            match = _INODE.fullmatch(str(link.readlink()))
        except OSError:
            continue
        if match:
            found.add(match[1])
    return found


def _name(process: Path) -> str:
    """ "hbone" for our own commands, else what the kernel calls the process."""
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        if any(part.rpartition(b"/")[2] == b"hbone" for part in arguments[:3]):
            return "hbone"
        return (process / "comm").read_text().strip()
    except OSError:
        return "unknown"


def _own_connection_error(ip: str) -> OSError | None:
    """Why nothing here can connect to a listener there; while lo is down, addresses of it can be bound all the same."""
    with socket.socket() as listener, socket.socket() as program:
        try:
            listener.bind((ip, 0))
            listener.listen()
            program.settimeout(_ANSWER_S)
            program.connect(listener.getsockname())
        except OSError as error:
            return error
    return None


def _bind_error(family: socket.AddressFamily, address: tuple[str, int]) -> OSError | None:
    """What binding `address` for a moment fails with. Listening too: two may bind, one may listen."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error
    return None
