"""What a check found."""

from collections.abc import Callable, Iterable
from enum import Enum

from hbone.values import dataclass


class Status(Enum):
    OK = "ok"
    WARNING = "warn"
    """hbone works, but something it can do is missing here, or it would work better."""
    FAILURE = "fail"
    """This keeps hbone from working."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`found` is the fact, `means` what follows from it for hbone, `fix` what to do; empty where all is well."""

    name: str
    status: Status
    found: str
    means: str = ""
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """For `-o json`."""
        return {
            "name": self.name,
            "status": self.status.value,
            "found": self.found,
            "means": self.means,
            "fix": self.fix,
        }


def ok(name: str, found: str, means: str = "") -> Finding:
    return Finding(name=name, status=Status.OK, found=found, means=means)


def warning(name: str, found: str, *, means: str, fix: str) -> Finding:
    return Finding(name=name, status=Status.WARNING, found=found, means=means, fix=fix)


def failure(name: str, found: str, *, means: str, fix: str) -> Finding:
    return Finding(name=name, status=Status.FAILURE, found=found, means=means, fix=fix)


Check = Callable[[], Iterable[Finding]]
