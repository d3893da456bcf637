"""How long to wait before the next attempt to reach a control plane. Decides."""

from hbone.times import Rng

FIRST_S = 0.05
MAX_S = 15.0  # ztunnel's ceiling for xDS
_DOUBLINGS = 9


def reconnect_after(failures: int, rng: Rng) -> float:
    """Seconds before the attempt that follows `failures` failed ones in a row (0: the stream worked and then ended).

    Half to one and a half times a doubling value: the nodes of a mesh, all disconnected at one moment by a restart
    of their control plane, must not all come back at one moment.
    """
    return min(MAX_S, FIRST_S * 2.0 ** min(failures, _DOUBLINGS)) * rng.uniform(0.5, 1.5)
