"""When to ask for the next certificate, how long to wait after a failure, and when that begins to be dangerous.

Traffic goes on with the old certificate while the CA is away; it stops only when that certificate ends.
"""

from hbone.identity.svid import X509Svid
from hbone.times import Rng, WallTime

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 150.0  # ztunnel's ceiling
BACKDATED_S = 120.0  # istiod's and our CA's certificates begin so long before they are issued
THRESHOLDS = (0.5, 0.75, 0.9, 1.0)
"""Parts of a certificate's life: an operator is told of each that passes while its renewal fails."""

DANGER = 0.9
"""From here on a certificate that is not renewed is about to end: a node should not be sent new work."""

_DOUBLINGS = 8  # 2^8 s is past the ceiling; keeps the power small however long the CA is away


def renew_at(svid: X509Svid, jitter: float, *, came: WallTime) -> WallTime:
    """Half-way through life, moved by `jitter` (-1 to 1) times 5 % of life, so that a fleet does not ask at once.

    Life begins when the certificate `came`: its notBefore lies minutes before that, for peers whose clocks are behind,
    and half-way from there could be in the past when a certificate is for minutes only.
    """
    life_s = svid.not_after - came
    return WallTime(came + life_s * (0.5 + 0.05 * jitter))


def life_spent(svid: X509Svid, *, came: WallTime, now: WallTime) -> float:
    """Which part of a certificate's life is over, 1 at its end and more after it. `came`: when we first had it, which
    after a restart is later than when it was issued."""
    begin = _begin(svid, came)
    return (now - begin) / max(svid.not_after - begin, 1e-9)


def _begin(svid: X509Svid, came: WallTime) -> float:
    return min(came, svid.not_before + BACKDATED_S)


def passed(spent: float) -> float:
    """The last of THRESHOLDS that has passed, 0 if none has."""
    return max((threshold for threshold in THRESHOLDS if spent >= threshold), default=0.0)


def next_threshold_s(svid: X509Svid, *, came: WallTime, now: WallTime, told: float) -> float | None:
    """Seconds until the first of THRESHOLDS after `told` passes, below 0 when it has; None when all were told."""
    begin = _begin(svid, came)
    ahead = next((threshold for threshold in THRESHOLDS if threshold > told), None)
    return None if ahead is None else begin + ahead * (svid.not_after - begin) - now


def retry_after(attempt: int, rng: Rng) -> float:
    """Seconds to wait after failure number `attempt` (from 0): 1 s, doubling to 150 s, each moved by up to 20 %."""
    base_s: float = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt, _DOUBLINGS))
    return min(MAX_RETRY_S, base_s * rng.uniform(0.8, 1.2))


def has_ended(svid: X509Svid, now: WallTime) -> bool:
    """Whether it is too late: no peer accepts this certificate any more."""
    return now >= svid.not_after
