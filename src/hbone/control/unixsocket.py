"""The control socket as a file: one owner at a time, never taken from a living server, open to whom it should be."""

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Self

from hbone.errors import UsageError

_MAX_PATH_BYTES = 107  # sizeof(sun_path) less the final zero (unix(7))
BACKLOG = 1024
"""Connections that wait to be accepted: all clients come at once after a restart. One that finds it full is refused
(EAGAIN), and Python's event loop takes that for a connection which is then lost."""

_CONNECT_TIMEOUT_S = 1.0

OWNER_ONLY = 0o600
EVERYONE = 0o666  # who may have what is then decided by peer credentials


class ControlSocket:
    """A bound, listening Unix socket and the lock that makes it ours. `close` takes both away."""

    def __init__(self, sock: socket.socket, path: Path, lock: int) -> None:
        self.sock = sock
        self.path = path
        self._lock = lock
        self._inode = path.stat().st_ino

    @staticmethod
    def check(path: Path) -> None:
        """Raises UsageError for what would keep `listen` from it, as far as can be told without changing a thing."""
        _check_length(path)
        if answers(path):
            raise _taken(path)

    @staticmethod
    def check_reachable(path: Path) -> None:
        """Raises UsageError where other users would not get to a socket that is for them. A directory that is not
        there yet is made so that they do."""
        for place in path.absolute().parents:
            if place.exists() and not place.stat().st_mode & stat.S_IXOTH:
                raise UsageError(
                    f"other users cannot reach the control socket {path}, though `grants` are for them",
                    why=f"{place} is closed to them",
                    fix="set `socket: /run/hbone/control.sock`, and HBONE_SOCKET for them",
                )

    @classmethod
    def listen(cls, path: Path, *, mode: int = OWNER_ONLY) -> Self:
        """Bind; a socket file that nobody answers on is removed first. Raises UsageError.

        The lock file beside it settles who is the owner when two start at once; it stays behind, empty.
        """
        _check_length(path)
        _make_directory(path.parent, 0o700 if mode == OWNER_ONLY else 0o755)
        lock = _take_lock(path)
        try:
            _remove_stale(path)
            return cls(_bind(path, mode), path, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass  # somebody tidied up
        self.sock.close()
        os.close(self._lock)


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise UsageError(
            f"the path of the control socket is too long: {path}",
            why=f"the system allows {_MAX_PATH_BYTES} bytes",
            fix="give a shorter --state-dir",
        )


def _make_directory(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise UsageError(
            f"the directory {directory} of the control socket cannot be made",
            why=error.strerror or str(error),
            fix="give another --state-dir",
        ) from error
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"everybody may write to {directory}, so anybody could put another control socket in its place",
            fix=f"chmod o-w {directory}",
        )


def _take_lock(path: Path) -> int:
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{name} cannot be opened", why=error.strerror or str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise _taken(path) from error
    return lock


def _remove_stale(path: Path) -> None:
    if answers(path):
        raise _taken(path)
    path.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether somebody answers there; raises UsageError for what is no socket at all."""
    try:
        found = path.lstat()
    except OSError:  # nothing there; or nothing for us to see, which the directory's own check tells better
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(f"{path} is not a socket", fix="move it away, or give another --state-dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError as error:
            return error.errno != errno.ENOENT  # a full backlog, say: somebody is there
    return True


def _bind(path: Path, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        path.chmod(mode)  # before listen: until then nobody can connect
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {path}", why=error.strerror or str(error)) from error
    return sock


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"another process serves {path}", why="`hbone up` runs already", fix="stop it, or give another --state-dir"
    )
