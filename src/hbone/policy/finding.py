"""What a check of policies says."""

from enum import Enum

from hbone.values import dataclass


class Level(Enum):
    """ERROR: it has no effect, or not the one it was written for. WARNING: worth a look. NOTE: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


Says = tuple[str, str]
"""What was found, and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`check` is the short name of what was found, `policy` "namespace/name", `place` file:line."""

    level: Level
    check: str
    policy: str
    place: str
    what: str
    fix: str

    def to_json(self) -> dict[str, str]:
        return {
            "level": self.level.value,
            "check": self.check,
            "policy": self.policy,
            "place": self.place,
            "what": self.what,
            "fix": self.fix,
        }
