"""What a large directory of manifests said, kept so that a start which finds it unchanged need not read it all again.

Reading 200,000 entries takes five to ten seconds; what they come to is read back in one or two. It is kept in the state
directory, mode 0600, under a digest of the files' names and contents, of the settings that they were read with, and of
the code that read them. Whatever differs, or cannot be read back, is as good as nothing kept. Only values of the mesh's
own models are taken from it.
"""

import gc
import io
import logging
import pickle
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import hbone
from hbone.control.keys import write_whole
from hbone.control.statedir import intrusions

log = logging.getLogger("hbone.control")

T = TypeVar("T")

KEPT_FROM_BYTES: Final = 2_000_000
"""Smaller directories are read in the time that it takes to start."""

_MODELS: Final = frozenset(
    {"hbone.discovery.model", "hbone.policy.model", "hbone.app.sources", "hbone.addr", "ipaddress"}
)
_PACKAGES: Final = ("app", "addr.py", "discovery", "documents", "identity", "policy", "values.py")


class Kept(Generic[T]):
    """One value, kept at `path` for the files that it was made of."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        self._kind = kind
        self._waiting: tuple[bytes, T] | None = None

    def load(self, key: bytes) -> T | None:
        """What was kept under this key, None if nothing was."""
        try:
            if intrusions(self._path, "0600"):
                return None
            content = self._path.read_bytes()
        except OSError:
            return None
        if content[: len(key)] != key:
            return None
        try:
            found = _Reader(io.BytesIO(content[len(key) :])).load()
        except Exception as error:  # a file that was damaged may raise anything
            log.warning("what was kept of the manifests is not used", extra={"error": repr(error)[:200]})
            return None
        return found if isinstance(found, self._kind) else None

    def offer(self, key: bytes, value: T) -> None:
        """To be kept, at the next `flush`."""
        self._waiting = (key, value)

    def flush(self) -> None:
        """Write what was offered; a disk that is full costs the next start its time, and nobody anything else."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        key, value = waiting
        try:
            content = io.BytesIO()
            _Writer(content, pickle.HIGHEST_PROTOCOL).dump(value)
            write_whole(self._path, key + content.getvalue(), 0o600)
        except OSError as error:
            log.warning("manifests not kept", extra={"path": str(self._path), "why": error.strerror or str(error)})


def key_of(files: Mapping[str, bytes], *settings: object) -> bytes:
    """What a reading of these files with these settings (by their repr) is known by."""
    digest = sha256(_code())
    for one in settings:
        digest.update(repr(one).encode())
    for name in sorted(files):
        content = files[name]
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.digest()


@cache
def _code() -> bytes:
    """Of the modules that read manifests and the models that they make: a changed one reads anew."""
    root, digest = Path(hbone.__file__).parent, sha256(hbone.__version__.encode())
    for name in _PACKAGES:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.digest()


@contextmanager
def collector_off() -> Generator[None]:
    """While millions of objects are made that all stay, looking for garbage among them again and again is in vain
    (measured: a quarter of the time)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Writer(pickle.Pickler):
    """Members of enumerations by their values: Python 3.11.0 to 3.11.3 would name `getattr`, which no reader takes."""

    def reducer_override(self, obj: object, /) -> Any:
        return (type(obj), (obj.value,)) if isinstance(obj, Enum) else NotImplemented


class _Reader(pickle.Unpickler):
    """Makes values of our models, and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = super().find_class(module_name, global_name) if module_name in _MODELS else None
        if not isinstance(found, type) or found.__module__ != module_name:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of a mesh")
        return found
