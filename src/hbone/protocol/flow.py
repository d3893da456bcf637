"""Flow-control windows (RFC 9113 §5.2, §6.9): what may be sent, and when credit goes back.

Windows are plain integers on the stream and on the connection: they are touched for each DATA frame, and an object
around each would cost more than the arithmetic. A send window may be negative, after the peer has made
INITIAL_WINDOW_SIZE smaller under open streams (§6.9.2); nothing may be sent then until it is positive again.
"""

from typing import Final

MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535  # §6.9.2: what both sides assume until SETTINGS or WINDOW_UPDATE say otherwise


def stream_credit(consumed: int, window: int) -> int:
    """Bytes of credit to return to a stream's sender now, 0 to wait.

    `consumed`: bytes taken by the local side since the last credit. `window`: bytes that we advertised. Half a window
    is returned at a time: smaller steps cost a frame each, larger ones stall a sender one round trip away.
    """
    return consumed if consumed * 2 >= window else 0


def connection_low_mark(window: int) -> int:
    """Credit for the connection is due once what the peer may still send has fallen to this.

    A quarter of the window is returned at a time, counted on receipt. On receipt, because one slow stream must not use
    up the window of its siblings: what holds a slow stream is its own window. By quarters, because all streams together
    run dry sooner than one.
    """
    return window - window // 4


def widened(window: int, increment: int) -> int | None:
    """`window` after a WINDOW_UPDATE or a change of INITIAL_WINDOW_SIZE; None when it passes 2^31-1 (§6.9.1)."""
    wider = window + increment
    return wider if wider <= MAX_WINDOW else None
