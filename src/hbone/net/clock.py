"""The only readers of time and chance; everything else is handed them."""

import random
import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from hbone.times import Instant, Rng, WallTime


class SystemClock:
    """This machine's clocks. `now` counts like the event loop's `time`, so instants serve as its deadlines."""

    __slots__ = ()

    if TYPE_CHECKING:

        def now(self) -> Instant: ...
        def wall(self) -> WallTime: ...

    else:  # the functions themselves: several times for each frame, methods around them would cost twice as much
        now = staticmethod(time.monotonic)
        wall = staticmethod(time.time)


def system_rng() -> Rng:
    """Chance from the operating system: good for serial numbers and tokens too."""
    return random.SystemRandom()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key, made in this process and nowhere else."""
    return ec.generate_private_key(ec.SECP256R1())
