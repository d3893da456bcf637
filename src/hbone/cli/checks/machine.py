"""Checks of limits, namespaces, tools, time and the state directory."""

import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hbone
from hbone.cli.checks.finding import Finding, failure, ok, warning
from hbone.config.listen import MAX_UNIX_PATH_BYTES
from hbone.config.places import control_socket

ENOUGH_FILES: Final = 4096
SYSCTL: Final = Path("/proc/sys")
_NAMESPACE_KNOBS: Final = (
    # (file below /proc/sys, value that forbids, what sets it right)
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns",
    ),
)
# CLONE_NEWUSER | CLONE_NEWNET in a process of its own: os.unshare came with Python 3.12
_UNSHARE: Final = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x50000000) != 0)"


def open_files(limits: tuple[int, int] | None = None) -> Iterator[Finding]:
    """`limits`: soft and hard, by default those of this process."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if soft >= ENOUGH_FILES or soft == resource.RLIM_INFINITY:
        yield ok("open files", f"{soft} (up to {shown})")
    else:
        yield warning(
            "open files",
            f"{soft} (up to {shown})",
            means=f"about {max(soft // 2 - 50, 0)} connections at a time: each takes two",
            fix=f"ulimit -n {65536 if shown == 'unlimited' else min(hard, 65536)}; LimitNOFILE=65536 in a systemd unit",
        )


def user_namespaces(attempt: str = _UNSHARE, knobs_below: Path = SYSCTL) -> Iterator[Finding]:
    """Tried for real (`attempt` is Python), in a process that ends at once; the knobs say why it failed."""
    name = "user namespaces"
    if not sys.platform.startswith("linux"):
        return
    done = subprocess.run([sys.executable, "-I", "-S", "-c", attempt], capture_output=True, check=False)  # noqa: S603  # our own constants
    if done.returncode == 0:
        yield ok(name, "possible")
        return
    knobs = [(path, fix) for path, forbids, fix in _NAMESPACE_KNOBS if _read(knobs_below / path) == forbids]
    yield warning(
        name,
        f"not possible ({', '.join(path.replace('/', '.') for path, _ in knobs) or 'forbidden here'})",
        means="programs cannot be captured without root; they reach the mesh by SOCKS5 or HTTP CONNECT",
        fix="; ".join(fix for _, fix in knobs) or "in a container, allow unshare in its seccomp profile",
    )


def tools(search: tuple[str | None, ...] = (None, "/usr/sbin:/sbin")) -> Iterator[Finding]:
    """`search`: where to look, None for PATH."""
    for tool, package in (("nft", "nftables"), ("ip", "iproute2")):
        path = next((found for where in search if (found := shutil.which(tool, path=where))), None)
        if path:
            yield ok(tool, path)
        else:
            yield warning(
                tool,
                "not installed",
                means="transparent capture needs it; everything else does not",
                fix=f"install the package {package}",
            )


def clock(now: float | None = None) -> Iterator[Finding]:
    """Wrong clocks make certificates invalid; our own files cannot be from the future. `now`: Unix time."""
    now = time.time() if now is None else now
    installed = Path(hbone.__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed - 300:
        yield failure(
            "clock",
            shown,
            means="earlier than hbone's own files: certificates of others are not valid yet for this machine",
            fix="set the clock: timedatectl set-ntp true",
        )
    elif (hint := _unsynchronized()) is not None:
        yield warning(
            "clock",
            f"{shown}, {hint}",
            means="certificates fail when clocks drift apart",
            fix="timedatectl set-ntp true",
        )
    else:
        yield ok("clock", shown)


def state(directory: Path) -> Iterator[Finding]:
    """Where state is kept: there and ours and private, or possible to make."""
    name = "state directory"
    try:
        found = directory.stat()
    except FileNotFoundError:
        yield _can_be_made(name, directory)
        return
    except OSError as error:
        yield failure(name, f"{directory}: {error.strerror}", means="nothing can be kept", fix="use --state-dir")
        return
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        fix = "remove it or use --state-dir"
        yield failure(name, f"{directory} is not a directory", means="nothing can be kept", fix=fix)
    elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield failure(
            name,
            f"{directory} (mode {mode:04o}) is not ours to write",
            means="nothing can be kept",
            fix=f"chown {os.geteuid()} {directory}, or use --state-dir",
        )
    elif found.st_uid != os.geteuid():
        yield failure(
            name,
            f"{directory} belongs to user {found.st_uid}",
            means="who owns it can put other keys there: hbone will not start with it",
            fix=f"chown {os.geteuid()} {directory}, or use --state-dir",
        )
    elif mode & 0o077:
        yield failure(
            name,
            f"{directory} has mode {mode:04o}",
            means="other users of this machine may look at what is kept there: hbone will not start with it",
            fix=f"chmod 700 {directory}",
        )
    else:
        yield ok(name, f"{directory} (mode {mode:04o})")


def running_control_plane(directory: Path) -> Iterator[Finding]:
    """Does a `hbone up` answer on its socket?"""
    name = "hbone up"
    path = control_socket(os.environ, directory)
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        yield failure(
            name,
            f"{path} is longer than {MAX_UNIX_PATH_BYTES} bytes",
            means="a Unix socket cannot have such a long path",
            fix="use --state-dir with a shorter one",
        )
        return
    if not path.exists():
        yield ok(name, "not running here", f"no socket {path}")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError as error:
            yield warning(
                name,
                f"{path}: {error.strerror or error}",
                means="it was not shut down cleanly, or runs as another user",
                fix="start `hbone up` again: it replaces the socket",
            )
        else:
            yield ok(name, f"running, {path}")


def _can_be_made(name: str, directory: Path) -> Finding:
    above = next(parent for parent in directory.absolute().parents if parent.exists())
    if os.access(above, os.W_OK | os.X_OK):
        return ok(name, f"{directory} will be made")
    return failure(
        name,
        f"{directory} cannot be made: {above} is not ours to write",
        means="nothing can be kept",
        fix="use --state-dir, or set XDG_STATE_HOME",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _unsynchronized() -> str | None:
    """A hint that nobody sets the clock, where systemd-timesyncd is in charge and says so."""
    run = Path("/run/systemd/timesync")
    return "not synchronized yet" if run.is_dir() and not (run / "synchronized").exists() else None
