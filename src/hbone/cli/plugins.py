"""pydantic's plugins stay out of our processes.

pydantic asks the metadata of all installed packages for plugins, which then see every settings file that is read.
None is wanted here. Its own switch (PYDANTIC_DISABLE_PLUGINS) leaves nothing loaded, but the machinery to look for
them is imported all the same: 15 ms and 2.5 MiB of every node. So a module that finds none is imported in its place, in
our processes only: a program that imports `hbone` keeps its own.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, cast

_LOADER: Final = "pydantic.plugin._loader"


class _NoPlugins:
    """Finds and makes that one module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # `importlib.abc.Loader` would be one more import; the import system asks for the two methods alone
        return ModuleSpec(name, cast("Any", self)) if name == _LOADER else None

    def create_module(self, spec: ModuleSpec) -> None:
        """As the import system does."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["get_plugins"] = tuple[object, ...]


_FINDER: Final = _NoPlugins()


def without_plugins() -> None:
    """From now on pydantic finds none. To be called before it is imported; later, or again, it has no effect."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
