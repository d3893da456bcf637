"""Durations and sizes as people write them, and back.

Setting names end in `_s` and `_bytes`, so a plain number is seconds or bytes; text may carry its own unit
("250ms", "1h30m", "4MiB").
"""

import math
import re
from typing import Final

from hbone.errors import UsageError
from hbone.protocol.limits import Rate

_DURATION_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_SIZE_BYTES: Final = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB|KB|MB|GB|B)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

RATE: Final = re.compile(r"^(\d+(?:\.\d+)?)/s burst ([1-9]\d{0,8})$")

DURATION_FIX: Final = "write seconds as a number, or 250ms, 30s, 5m, 1h"
SIZE_FIX: Final = "write bytes as a whole number, or 64KiB, 4MiB"


class InvalidQuantity(UsageError):
    """Text or a number that is not a duration or not a size."""


def parse_duration(value: object) -> float:
    """Seconds, not negative and finite; raises InvalidQuantity."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        if _DURATION.fullmatch(text):
            return math.fsum(float(number) * _DURATION_S[unit] for number, unit in _DURATION_PART.findall(text))
    raise InvalidQuantity(f"{value!r} is not a duration", fix=DURATION_FIX, value=value)


def parse_size(value: object) -> int:
    """Bytes, not negative; raises InvalidQuantity. KiB is 1024, KB is 1000."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        size = float(found[1]) * _SIZE_BYTES[found[2] or ""]
        if size == int(size):
            return int(size)
    raise InvalidQuantity(f"{value!r} is not a size", fix=SIZE_FIX, value=value)


def format_duration(seconds: float) -> str:
    """The shortest text that parses back to `seconds` to the millisecond: "90s" is "1m30s"."""
    left_ms = round(seconds * 1000)
    parts: list[str] = []
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left_ms = divmod(left_ms, size_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_size(size: int) -> str:
    """`size` in the largest binary unit that divides it: 4194304 is "4MiB", 1000 is "1000"."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_BYTES[unit] == 0:
            return f"{size // _SIZE_BYTES[unit]}{unit}"
    return str(size)


def parse_rate(value: object) -> Rate:
    """`50/s burst 200`: 200 at once, then 50 a second; raises InvalidQuantity."""
    if isinstance(value, str) and (found := RATE.match(value.strip())):
        return Rate(per_s=float(found[1]), burst=int(found[2]))
    raise InvalidQuantity(f"{value!r} is not a rate", fix="write it as 50/s burst 200", value=value)


def format_rate(rate: Rate) -> str:
    """Text that parses back to `rate`."""
    return f"{rate.per_s:.15g}/s burst {rate.burst}"
