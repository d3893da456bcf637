"""When a worker's successor begins."""

import signal
from typing import Final

from hbone.values import dataclass

FIRST_S: Final = 0.1
LAST_S: Final = 30.0
WORKED_S: Final = 10.0  # a worker that lived so long was not ended by how it began
GIVE_UP_ABOVE_S: Final = 1.0  # a caller waits for a SYN that was lost as long (RFC 6298 §2.1); longer is not waiting


@dataclass(slots=True)
class Restarts:
    """How often one place was filled again; `failures` of them one soon after the other."""

    count: int = 0
    failures: int = 0

    def after(self, lived_s: float) -> float:
        """Seconds to wait, now that one has ended."""
        self.count += 1
        self.failures = 0 if lived_s >= WORKED_S else self.failures + 1
        return min(LAST_S, FIRST_S * 2.0 ** max(0, self.failures - 1))


def how_it_ended(code: int) -> str:
    """An exit status in words; negative is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
