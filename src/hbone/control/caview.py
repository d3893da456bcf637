"""The directory of the CA's own files, in Istio's plugged-in layout, for others to read.

`root-cert.pem` holds every root that is trusted now, `ca-cert.pem` and `cert-chain.pem` the authority that signs;
`ca-key.pem` and `root-key.pem` are links to its keys. The truth is in the database; this is written anew from it.
"""

import contextlib
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.authority import CertificateAuthority
from hbone.ca.material import PLUGGED_IN, ROOT_KEY
from hbone.control import cadir
from hbone.control.keys import key_id_of, remove_unfinished, write_whole
from hbone.errors import UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.identity.svid import PrivateKey
from hbone.times import Clock

KEYS: Final = "keys"


class ViewParts(Protocol):
    """What reading needs to know."""

    @property
    def trust_domain(self) -> TrustDomain: ...
    @property
    def clock(self) -> Clock: ...


def read(directory: Path, parts: ViewParts) -> CertificateAuthority | None:
    """A CA that somebody left there, None if there is none; raises InvalidConfiguration, UsageError."""
    return cadir.load_own(directory, parts.trust_domain, clock=parts.clock)


def write(directory: Path, authority: CertificateAuthority, roots: tuple[x509.Certificate, ...]) -> None:
    """Each file is replaced whole. Raises UsageError."""
    up = (*authority.chain, *roots) if authority.chain else roots
    contents = {
        PLUGGED_IN.roots: _pem(*roots),
        PLUGGED_IN.signer: _pem(authority.signer),
        PLUGGED_IN.chain: _pem(*up),
    }
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_unfinished(directory)
        for name, content in contents.items():
            path = directory / name
            if not path.exists() or path.read_bytes() != content:
                write_whole(path, content, 0o644)
        _link(directory, PLUGGED_IN.key, authority.key)
        _link(directory, ROOT_KEY, authority.root_key)
    except OSError as error:
        raise UsageError(
            f"the CA's directory {directory} cannot be written",
            why=error.strerror or str(error),
            fix="check the path and its permissions",
        ) from error


def _link(directory: Path, name: str, key: PrivateKey | None) -> None:
    """`name` leads to the file of `key`; it is taken away where there is no such file (a key on a token)."""
    path = directory / name
    target = None if key is None else Path(KEYS) / f"{key_id_of(key)}.pem"
    if target is None or not (directory / target).exists():
        path.unlink(missing_ok=True)
        return
    if path.is_symlink() and path.readlink() == target:
        return
    beside = directory / f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    beside.symlink_to(target)
    beside.replace(path)


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
