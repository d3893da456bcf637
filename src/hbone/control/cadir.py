"""A CA in a directory: made there at first use, read again afterwards. Files and modes here; what they mean is
`hbone.ca.material`.

A directory is made whole under another name and then renamed, so that no reader and no crash ever sees half of a CA.
"""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.material import KNOWN_FILES, SECRET_FILES, authority_from, files_of, layout_of
from hbone.control.keys import sync_directory
from hbone.control.statedir import intrusions
from hbone.errors import InvalidConfiguration, Problem, UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import new_key
from hbone.times import Clock, Rng

_KEYS = "keys"
MAX_FILE_BYTES = 1024 * 1024  # a bundle of a hundred roots has 100 KiB


def load_or_create(directory: Path, trust_domain: TrustDomain, *, clock: Clock, rng: Rng) -> CertificateAuthority:
    """Our own CA's directory (mode 0700, ours): the authority in it, or a new one if it is absent or empty.

    Raises InvalidConfiguration for wrong owners or modes, for foreign or broken content; UsageError for paths that
    cannot be read or written. Safe against another process that does the same: both get the same CA.
    """
    try:
        if not _holds_something(directory):
            authority = _create(directory, trust_domain, clock=clock, rng=rng)
            if authority is not None:
                return authority
        _check_private(directory)
        return _load(directory, trust_domain, clock)
    except OSError as error:
        raise _cannot(directory, error) from error


def load_own(directory: Path, trust_domain: TrustDomain, *, clock: Clock) -> CertificateAuthority | None:
    """What is in our own CA's directory; None if that is absent, or holds keys at most (`hbone.control.keys`).

    Raises as `load_or_create`.
    """
    try:
        if not _holds_something(directory):
            return None
        _check_private(directory)
        if {entry.name for entry in directory.iterdir()} <= {_KEYS}:
            return None
        return _load(directory, trust_domain, clock)
    except OSError as error:
        raise _cannot(directory, error) from error


def load(directory: Path, trust_domain: TrustDomain, *, clock: Clock) -> CertificateAuthority:
    """A plugged-in CA, for example a mounted Kubernetes Secret; raises InvalidConfiguration or UsageError.

    Owner and readability are the mount's business; only a key that others may write is refused.
    """
    try:
        _check_not_writable(directory)
        return _load(directory, trust_domain, clock)
    except OSError as error:
        raise _cannot(directory, error) from error


def store(directory: Path, authority: CertificateAuthority) -> None:
    """Write to `directory`, which must be absent or empty; 0700, keys 0600. Raises UsageError."""
    try:
        if not _install(directory, authority):
            raise UsageError(f"{directory} is not empty", fix="choose another directory, or move this one away")
    except OSError as error:
        raise _cannot(directory, error) from error


def _holds_something(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False


def _create(directory: Path, trust_domain: TrustDomain, *, clock: Clock, rng: Rng) -> CertificateAuthority | None:
    """The new authority, None when another process was first."""
    keys = CaKeys(root=new_key(), intermediate=new_key())
    authority = CertificateAuthority.create(trust_domain, keys, now=clock.wall(), rng=rng)
    return authority if _install(directory, authority) else None


def _install(directory: Path, authority: CertificateAuthority) -> bool:
    """Write all files beside `directory` and rename; False if `directory` has content."""
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))  # mode 0700
    try:
        for name, content in files_of(authority).items():
            _write(made / name, content, 0o600 if name in SECRET_FILES else 0o644)
        sync_directory(made)
        try:
            made.rename(directory)  # replaces an empty directory, fails on any other (rename(2))
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                return False
            raise
        sync_directory(directory.parent)
        return True
    finally:
        shutil.rmtree(made, ignore_errors=True)  # gone already, unless something failed


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _load(directory: Path, trust_domain: TrustDomain, clock: Clock) -> CertificateAuthority:
    names = {entry.name for entry in directory.iterdir()} & KNOWN_FILES
    wanted = {*layout_of(frozenset(names)).names, *(SECRET_FILES & names)}
    files = {name: _read(directory / name) for name in sorted(names & wanted)}
    return authority_from(files, trust_domain, now=clock.wall(), directory=str(directory))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InvalidConfiguration(
            [Problem(what=f"over {MAX_FILE_BYTES} bytes", fix="this is no file of a CA", file=str(path))]
        )
    return content


def _check_private(directory: Path) -> None:
    """Directory and keys belong to us and nobody else may look in."""
    problems = list(intrusions(directory, "0700"))
    for name in sorted(SECRET_FILES):
        path = directory / name
        if path.exists():
            problems += intrusions(path, "0600")
    if problems:
        raise InvalidConfiguration(problems)


def _check_not_writable(directory: Path) -> None:
    problems = [
        Problem(what="others may write this key", fix=f"chmod 0600 {path}", file=str(path))
        for path in (directory / name for name in sorted(SECRET_FILES))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o002
    ]
    if problems:
        raise InvalidConfiguration(problems)


def _cannot(directory: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the CA directory {directory} cannot be used",
        why=f"{error.strerror} ({error.filename})" if error.filename else str(error),
        fix="check the path and its permissions",
    )
