"""How much each worker of a node carries: numbers in memory that all of them share, and who is to have the next.

A worker writes its own numbers. Who hands something on adds it to the other's meanwhile, without a lock: two who do so
at once may lose one, and a reader may see what is no longer so. They are hints: a connection is as good with the one as
with the other, each worker's next change puts its number right, and the next connection evens out what was uneven.
"""

from enum import IntEnum
from typing import Final

from hbone.times import Instant

NUMBER_BYTES: Final = 8
AWAY: Final = 1 << 40  # what a worker has that takes nothing


class Load(IntEnum):
    """What is counted. A tunnel has all the streams of one peer."""

    TUNNELS = 0
    CONNECTIONS = 1


def slack(load: Load, count: int) -> int:
    """How many more than the least a worker keeps, rather than hand the next one on.

    No tunnel: there are few, and they last. Of connections an eighth: with many it makes no difference.
    """
    return 0 if load is Load.TUNNELS else 1 + count // 8


class Allowance:
    """How many connections a worker may hand on: a few at once, then `PER_S`.

    Long ones are few, and are worth two system calls and a wake-up. Short ones come in numbers, a hash spreads them
    well enough, and without a limit a connection took 15 % more CPU.
    """

    AT_ONCE: Final = 16
    PER_S: Final = 50.0

    def __init__(self, now: Instant) -> None:
        self._left = float(self.AT_ONCE)
        self._at = now

    def spend(self, now: Instant) -> bool:
        """Whether one may be handed on now."""
        self._left = min(float(self.AT_ONCE), self._left + (now - self._at) * self.PER_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def tally_bytes(workers: int) -> int:
    """The memory that so many workers share."""
    return len(Load) * workers * NUMBER_BYTES


class Tally:
    """Workers are numbered from 1. `memory`: `tally_bytes` long, zeros at first."""

    def __init__(self, memory: memoryview, workers: int) -> None:
        numbers = memory.cast("Q")
        self._rows = tuple(numbers[load * workers : (load + 1) * workers] for load in Load)
        self._workers = workers
        self._all = numbers

    def hold(self, load: Load, worker: int, count: int) -> None:
        """It has so many now."""
        self._rows[load][worker - 1] = count

    def begin(self, worker: int) -> None:
        """It has nothing yet, and takes."""
        for load in Load:
            self.hold(load, worker, 0)

    def leave(self, worker: int) -> None:
        """It takes nothing from now on."""
        for load in Load:
            self.hold(load, worker, AWAY)

    def give(self, load: Load, worker: int) -> None:
        """It is about to have one more."""
        self._rows[load][worker - 1] += 1

    def heir(self, load: Load, own: int) -> int | None:
        """Who is to have the next one instead of `own`; None: it stays.

        Of those with the least the first one after `own`, so that not all give to the same.
        """
        row = self._rows[load]
        count, least = row[own - 1], min(row)
        if count <= least + slack(load, count):
            return None
        places = range(own, own + self._workers)
        return next(place % self._workers for place in places if row[place % self._workers] == least) + 1

    def release(self) -> None:
        """Let go of the memory. Harmless when repeated."""
        for row in self._rows:
            row.release()
        self._all.release()
