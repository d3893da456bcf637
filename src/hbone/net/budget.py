"""How much undelivered payload a node holds, of all tunnels together.

One stream is bounded by its window, one tunnel by its streams, but ten thousand tunnels of stalled readers are not.
Past the limit, the tunnels that hold such bytes get no more credit for their connection window, so that each can
send what is left of it and no more; they get it back when enough has been delivered.
"""

from typing import Protocol

UNLIMITED = 1 << 62


class Credited(Protocol):
    """A tunnel, as far as its connection window goes."""

    def hold_credit(self) -> None: ...
    def give_credit(self) -> None: ...


class BufferBudget:
    """`held` bytes wait for local applications now; above `limit` the tunnels they came by are held back."""

    __slots__ = ("_limit", "_stopped", "held")

    def __init__(self, limit: int = UNLIMITED) -> None:
        self._limit = limit
        self._stopped: set[Credited] = set()
        self.held = 0

    def take(self, tunnel: Credited, n: int) -> None:
        """`n` bytes that came by `tunnel` have to be kept."""
        self.held += n
        if self.held > self._limit and tunnel not in self._stopped:
            self._stopped.add(tunnel)
            tunnel.hold_credit()

    def give_back(self, n: int) -> None:
        """`n` of the kept bytes are delivered, or dropped."""
        self.held -= n
        # a quarter of slack: else tunnels would stop and start with each read of an application
        if self._stopped and self.held <= self._limit - self._limit // 4:
            stopped, self._stopped = self._stopped, set()
            for tunnel in stopped:
                tunnel.give_credit()

    def forget(self, tunnel: Credited) -> None:
        """`tunnel` is gone."""
        self._stopped.discard(tunnel)
