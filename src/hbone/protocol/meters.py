"""What a peer has done of late, against `Limits`: a token bucket for each kind of event."""

from typing import Final

from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.limits import LARGE_HEADER_BYTES, Limits, Rate
from hbone.times import Instant


class Meters:
    """Counts what the peer does on one connection. A meter exists once its first event came: idle tunnels have none."""

    __slots__ = ("_limits", "_meters")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._meters: dict[str, _Meter] = {}

    def count(self, name: str, now: Instant) -> None:
        """One more of `name`, a field of Limits that holds a Rate; raises ConnectionViolation when it is too many."""
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = _Meter(getattr(self._limits, name), now)
        if not meter.spend(now):
            rate = meter.rate
            raise ConnectionViolation(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"too many {_WORDS[name]}: over {rate.burst} at once and {rate.per_s:g} a second",
                limit=f"max_{name}",
            )


_WORDS: Final = {
    "large_headers": f"header blocks of more than {LARGE_HEADER_BYTES} bytes",
    "settings": "SETTINGS or GOAWAY frames",
    "pings": "PING frames",
    "early_resets": "requests reset before they were answered",
    "resets_we_send": "malformed frames",
    "refusals": "streams beyond the announced limit",
    "empty_data": "empty DATA frames",
    "window_updates": "WINDOW_UPDATE frames",
    "closed_streams": "frames for closed streams",
    "ignored_frames": "frames without effect",
}


class _Meter:
    __slots__ = ("last", "rate", "tokens")

    def __init__(self, rate: Rate, now: Instant) -> None:
        self.rate = rate
        self.tokens = float(rate.burst)
        self.last = now

    def spend(self, now: Instant) -> bool:
        tokens = min(self.rate.burst, self.tokens + (now - self.last) * self.rate.per_s)
        self.last = now
        self.tokens = tokens - 1
        return tokens >= 1
