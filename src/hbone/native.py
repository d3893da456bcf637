"""The modules that carry bytes as extensions of the interpreter, where they were compiled; as Python everywhere else.

`tools/compile.py` translates them with mypyc, which takes an ordinary typed module and lays its classes out in C: same
source, same behaviour, a third to a half of the interpreter's time. What it makes lies in `_native/TAG/` beside the
sources, TAG being the interpreter's (`cpython-311-x86_64-linux-gnu`): one shared library with all the code, for each
module a stub, and a list of the sources with their checksums.

They are used all or none, since they know the layout of each other's classes, and only as long as every source is what
it was: a changed module is never shadowed by its own past. `HBONE_PURE=1` leaves them out.
"""

import importlib.machinery
import importlib.util
import os
import sys
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Final

PACKAGE: Final = os.path.dirname(os.path.abspath(__file__))
SUFFIX: Final = importlib.machinery.EXTENSION_SUFFIXES[0]
TAG: Final = SUFFIX.split(".")[1]
DIRECTORY: Final = os.path.join(PACKAGE, "_native", TAG)
LIBRARY: Final = "hbone__mypyc"  # as mypyc names it
SOURCES: Final = "sources"  # lines of `checksum path`


class _Finder:
    """Finds the compiled modules by their names, before the sources are looked for."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name not in self._names:
            return None
        return importlib.util.spec_from_file_location(name, _extension(name))


def use() -> bool:
    """From now on imports find the compiled modules; False, and nothing is changed, where there are none that fit."""
    if os.environ.get("HBONE_PURE") or not os.path.isdir(DIRECTORY):
        return False
    names = fitting()
    if not names:
        return False
    spec = importlib.util.spec_from_file_location(LIBRARY, _extension(LIBRARY))
    if spec is None or spec.loader is None:
        return False
    try:
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
    except ImportError:  # of another C library, or cut short: the sources do the same
        return False
    sys.modules[LIBRARY] = library
    sys.meta_path.insert(0, _Finder(names))
    return True


def fitting() -> frozenset[str]:
    """The names of the compiled modules; empty unless all of them come from the sources as they are now."""
    try:
        with open(os.path.join(DIRECTORY, SOURCES), encoding="ascii") as lines:
            listed = [line.split() for line in lines]
        for checksum, path in listed:
            if checksum != checksum_of(os.path.join(PACKAGE, path)):
                return frozenset()
    except (OSError, ValueError):
        return frozenset()
    return frozenset(module_name(path) for _, path in listed)


def checksum_of(path: str) -> str:
    with open(path, "rb") as source:
        return f"{zlib.crc32(source.read()):08x}"


def module_name(path: str) -> str:
    """`hbone.net.relay` for `net/relay.py`."""
    return "hbone." + path.removesuffix(".py").replace("/", ".")


def in_use() -> bool:
    """Whether this process runs the compiled modules."""
    return LIBRARY in sys.modules


def plain_interpreter() -> bool:
    """Whether Python was built without its optimizations (profile-guided, whole-program), as `pyenv install` does by
    itself: it takes 5 to 10 % more CPU for what we do. Told by a libpython of its own and a `configure` not asked for
    them; where /proc does not show that, False.
    """
    import sysconfig

    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            shared = any("/libpython" in line for line in maps)
    except OSError:
        return False
    return shared and "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or "")


def remark() -> str:
    """What a version says behind its number."""
    return " (compiled)" if in_use() else ""


def _extension(name: str) -> str:
    return os.path.join(DIRECTORY, name + SUFFIX)
