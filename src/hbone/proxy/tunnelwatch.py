"""What becomes of handshakes and tunnels, told to whoever counts it."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from hbone.errors import HboneError
from hbone.telemetry.access import Direction

_T = TypeVar("_T")


class TunnelWatch(Protocol):
    """Told once of each; both sides of this node tell, as "inbound" and "outbound"."""

    def shook_hands(self, direction: Direction, took_s: float, error: HboneError | None) -> None:
        """A TLS handshake ended, well or with `error`."""

    def opened(self, direction: Direction) -> None:
        """A tunnel is there."""

    def failed(self, direction: Direction, error: HboneError) -> None:
        """A tunnel did not come up, or broke."""


class Unwatched:
    """For a data plane without metrics."""

    def shook_hands(self, direction: Direction, took_s: float, error: HboneError | None) -> None: ...
    def opened(self, direction: Direction) -> None: ...
    def failed(self, direction: Direction, error: HboneError) -> None: ...


async def watched(handshake: Awaitable[_T], watch: TunnelWatch, direction: Direction, now: Callable[[], float]) -> _T:
    """The handshake, whose end is told."""
    began = now()
    try:
        done = await handshake
    except HboneError as error:
        watch.shook_hands(direction, now() - began, error)
        raise
    watch.shook_hands(direction, now() - began, None)
    return done
