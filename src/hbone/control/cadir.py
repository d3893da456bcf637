"""A CA in a directory of files, our own or one that was plugged in: who may look in, and what is read. What the files
mean is `hbone.ca.material`; our own are written by `hbone.control.caview`.
"""

import stat
from pathlib import Path

from hbone.ca.authority import CertificateAuthority
from hbone.ca.material import KNOWN_FILES, SECRET_FILES, authority_from, layout_of
from hbone.control.statedir import intrusions
from hbone.errors import InvalidConfiguration, Problem, UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.times import Clock

_KEYS = "keys"
MAX_FILE_BYTES = 1024 * 1024  # a bundle of a hundred roots has 100 KiB


def load_own(directory: Path, trust_domain: TrustDomain, *, clock: Clock) -> CertificateAuthority | None:
    """What is in our own CA's directory (mode 0700, ours); None if that is absent, or holds keys at most
    (`hbone.control.keys`).

    Raises InvalidConfiguration for wrong owners or modes, for foreign or broken content; UsageError for paths that
    cannot be read.
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


def _holds_something(directory: Path) -> bool:
    try:
        return any(directory.iterdir())
    except FileNotFoundError:
        return False


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
