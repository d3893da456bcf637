"""Time and chance as values: deciding code takes them, `hbone.net.clock` alone reads them."""

from typing import NewType, Protocol

Instant = NewType("Instant", float)
"""Seconds on a clock that only goes forward and starts anywhere: deadlines, idle times, rates."""

WallTime = NewType("WallTime", float)
"""Seconds since 1970 UTC: what certificates and logs are about. May jump."""


class Clock(Protocol):
    """The two clocks."""

    def now(self) -> Instant: ...
    def wall(self) -> WallTime: ...


class Rng(Protocol):
    """Chance, as much of `random.Random` as deciding code needs."""

    def random(self) -> float: ...
    def uniform(self, a: float, b: float, /) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...
