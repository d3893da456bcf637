"""When to ask for the next certificate, and how long to wait after a failure.

Traffic goes on with the old certificate while the CA is away; it stops only when that certificate ends.
"""

from hbone.identity.svid import X509Svid
from hbone.times import Rng, WallTime

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 150.0  # ztunnel's ceiling
_DOUBLINGS = 8  # 2^8 s is past the ceiling; keeps the power small however long the CA is away


def renew_at(svid: X509Svid, jitter: float, *, came: WallTime) -> WallTime:
    """Half-way through life, moved by `jitter` (-1 to 1) times 5 % of life, so that a fleet does not ask at once.

    Life begins when the certificate `came`: its notBefore lies minutes before that, for peers whose clocks are behind,
    and half-way from there could be in the past when a certificate is for minutes only.
    """
    life_s = svid.not_after - came
    return WallTime(came + life_s * (0.5 + 0.05 * jitter))


def retry_after(attempt: int, rng: Rng) -> float:
    """Seconds to wait after failure number `attempt` (from 0): 1 s, doubling to 150 s, each moved by up to 20 %."""
    base_s: float = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt, _DOUBLINGS))
    return min(MAX_RETRY_S, base_s * rng.uniform(0.8, 1.2))


def has_ended(svid: X509Svid, now: WallTime) -> bool:
    """Whether it is too late: no peer accepts this certificate any more."""
    return now >= svid.not_after
