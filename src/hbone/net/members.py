"""A set that can be waited for: until the last one has left (`hbone.net.emptying`)."""

import asyncio
from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Members(Generic[_T]):
    """What is open now, of one kind."""

    __slots__ = ("_empty", "_inside")

    def __init__(self) -> None:
        self._inside: set[_T] = set()
        self._empty: asyncio.Event | None = None

    def add(self, member: _T) -> None:
        self._inside.add(member)

    def remove(self, member: _T) -> None:
        """Harmless when repeated."""
        self._inside.discard(member)
        if not self._inside and self._empty is not None:
            self._empty.set()

    def __len__(self) -> int:
        return len(self._inside)

    def __contains__(self, member: object) -> bool:
        return member in self._inside

    def __iter__(self) -> Iterator[_T]:
        """A copy, so that members may leave while it is walked."""
        return iter(tuple(self._inside))

    def emptied(self) -> asyncio.Event:
        """Set once the last one has left; whoever waits looks again then, for some may have come since."""
        if self._empty is None or self._empty.is_set():
            self._empty = asyncio.Event()
        return self._empty
