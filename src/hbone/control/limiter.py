"""How much one caller may ask for: a token bucket each. Decides."""

from collections import OrderedDict
from typing import Final

from hbone.protocol.limits import Rate
from hbone.times import Instant

MAX_CALLERS: Final = 10_000
"""Buckets that are remembered. Who has not called for longest is forgotten first, and begins with a full one again:
ten thousand nodes fit, and an attacker with more identities than that has other limits to pass first."""


class CallerLimits:
    """`rate` for each caller, by whatever names it."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._buckets: OrderedDict[object, tuple[float, Instant]] = OrderedDict()

    def wait_s(self, caller: object, now: Instant) -> float:
        """Take one; 0 if there was one, else the seconds until there is (and nothing was taken)."""
        tokens, last = self._buckets.pop(caller, (float(self.rate.burst), now))
        tokens = min(float(self.rate.burst), tokens + (now - last) * self.rate.per_s)
        allowed = tokens >= 1.0
        self._buckets[caller] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if allowed:
            return 0.0
        return (1.0 - tokens) / self.rate.per_s if self.rate.per_s else float("inf")
