"""Where a process stands on its machine."""

import os
from pathlib import Path

from hbone.config.places import control_socket, state_dir
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process stands on this machine: its environment, and the state directory that was asked for."""

    environment: dict[str, str]
    state_dir: Path | None = None

    @property
    def state(self) -> Path:
        return state_dir(self.environment, uid=os.getuid(), given=self.state_dir)

    @property
    def control_socket(self) -> Path:
        return control_socket(self.environment, self.state)
