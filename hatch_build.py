"""Build hook: `HBONE_COMPILE=1 pip install …` makes a wheel with the compiled modules (src/hbone/native.py)."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TAG = sysconfig.get_config_var("EXT_SUFFIX").split(".")[1]


class NativeHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def wanted(self) -> bool:
        return os.environ.get("HBONE_COMPILE") == "1" and self.target_name == "wheel"

    def dependencies(self) -> list[str]:
        """mypy wants to see the types of what is imported, so what hbone needs is needed here too."""
        return [*self.metadata.core.dependencies, "mypy>=2", "setuptools>=80"] if self.wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile for the interpreter that builds, and take what that made into the wheel, which is then its alone."""
        if version == "editable" or not self.wanted():
            return
        compiling = [sys.executable, str(Path(self.root, "tools", "compile.py")), "--must"]
        subprocess.run(compiling, check=True)  # noqa: S603 -- our own file
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(f"/src/hbone/_native/{TAG}/*")
