"""Where the CA's private keys are. One interface; files of mode 0600 are behind it here.

A key is known by the hash of its public half, which is all that the database holds of it. `KeyProvider.load` gives an
object that signs: `cryptography`'s own keys, or any subclass of its abstract `EllipticCurvePrivateKey` or
`RSAPrivateKey` whose `sign` and `public_key` go somewhere else, which is what a PKCS#11 token or a key management
service is. Nothing above this module ever asks for the bytes of a key.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NewType, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hbone.control.statedir import intrusions
from hbone.errors import HboneError, InvalidConfiguration
from hbone.identity.svid import InvalidSvid, PrivateKey, key_der, load_key
from hbone.net.clock import new_key

KeyId = NewType("KeyId", str)

_UNFINISHED = ".unfinished"
_NAME = re.compile(r"[0-9a-f]{64}")


class KeyUnavailable(HboneError):
    """A key of the CA cannot be had."""


class KeyProvider(Protocol):
    """Makes, finds and destroys the CA's keys."""

    def create(self) -> tuple[KeyId, PrivateKey]:
        """A new P-256 key, safe against a crash when this returns. Raises KeyUnavailable."""
        ...

    def load(self, key_id: KeyId) -> PrivateKey:
        """Raises KeyUnavailable."""
        ...

    def take(self, key: PrivateKey) -> KeyId:
        """Keep a key that was made elsewhere (`hbone ca import`). Raises KeyUnavailable where that is not allowed."""
        ...

    def destroy(self, key_id: KeyId) -> None:
        """Harmless for a key that is not there."""
        ...

    def names(self) -> Iterable[KeyId]:
        """Of all keys that this CA made or took; not of others that a token may hold too."""
        ...

    def close(self) -> None:
        """Let go of what holds the keys."""
        ...


class FileKeys:
    """One PKCS#8 file of mode 0600 for each key, named by the hash of its public half."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create(self) -> tuple[KeyId, PrivateKey]:
        key = new_key()
        return self.take(key), key

    def take(self, key: PrivateKey) -> KeyId:
        key_id = key_id_of(key)
        path = self.path(key_id)
        try:
            for directory in (self.directory.parent, self.directory):  # parents=True would make them 0755
                directory.mkdir(mode=0o700, exist_ok=True)
            if not path.exists():
                write_whole(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        except OSError as error:
            raise KeyUnavailable(
                f"a key cannot be kept in {self.directory}", why=error.strerror or str(error)
            ) from error
        return key_id

    def load(self, key_id: KeyId) -> PrivateKey:
        path = self.path(key_id)
        try:
            problems = [*intrusions(self.directory, "0700"), *intrusions(path, "0600")]
            if problems:
                raise InvalidConfiguration(problems)
            key = load_key(path.read_bytes())
        except OSError as error:
            raise KeyUnavailable(
                f"the CA's key {path} cannot be read",
                why=error.strerror or str(error),
                fix="restore it from a backup; if it is on a token, ask through the running `hbone up`; if it is lost, "
                "make a new root with `hbone ca rotate-root --recover`",
            ) from error
        except InvalidSvid as error:
            raise KeyUnavailable(f"{path} is not the CA's key", why=error.what, fix=error.fix) from error
        if key_id_of(key) != key_id:
            raise KeyUnavailable(
                f"{path} holds another key than its name says", fix="restore the file from a backup; do not rename keys"
            )
        return key

    def destroy(self, key_id: KeyId) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path(key_id).unlink()

    def names(self) -> Iterable[KeyId]:
        remove_unfinished(self.directory)  # files that a crash cut short have no name yet
        return [KeyId(path.stem) for path in self.directory.glob("*.pem") if _NAME.fullmatch(path.stem)]

    def close(self) -> None:
        """Files need nothing."""

    def path(self, key_id: KeyId) -> Path:
        return self.directory / f"{key_id}.pem"


class PluggedKeys:
    """Keys that are part of the files of a plugged-in CA: only read, never made or removed."""

    def __init__(self, keys: Iterable[PrivateKey]) -> None:
        self._keys = {key_id_of(key): key for key in keys}

    def create(self) -> tuple[KeyId, PrivateKey]:
        raise _plugged()

    def take(self, key: PrivateKey) -> KeyId:
        if key_id_of(key) not in self._keys:
            raise _plugged()
        return key_id_of(key)

    def load(self, key_id: KeyId) -> PrivateKey:
        if key_id not in self._keys:
            raise KeyUnavailable(f"the key {key_id} is not among the CA's files")
        return self._keys[key_id]

    def destroy(self, key_id: KeyId) -> None:
        """They are their operator's."""

    def names(self) -> Iterable[KeyId]:
        return tuple(self._keys)

    def close(self) -> None:
        """Nothing is held."""


def _plugged() -> KeyUnavailable:
    return KeyUnavailable(
        "this CA's keys are not made here",
        why="it was plugged in as a directory of files (`--ca`)",
        fix="put the new files there, and start again",
    )


def key_id_of(key: PrivateKey) -> KeyId:
    """SHA-256 of the public key (SubjectPublicKeyInfo), in hex."""
    return KeyId(sha256(key_der(key)).hexdigest())


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Replace a file so that readers and crashes see the old content or the new, on disk when this returns."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)  # mode 0600
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        made.replace(path)
        sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise


def remove_unfinished(directory: Path) -> None:
    """What `write_whole` had begun when this process's predecessor was killed."""
    for path in directory.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make names durable. Not every filesystem lets one sync a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
