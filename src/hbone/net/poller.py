"""Which sockets of the data path can be read or written: one set of ours, behind one descriptor of the event loop.

The event loop serves well what is rare: timers, tasks, signals. For the sockets that carry traffic it costs too much:
uvloop makes a handle for each descriptor, tries it with two `epoll_ctl` calls, and registers it anew whenever a reader
comes or goes (12 calls for one short connection; here it is one). It also forgets a reader whose socket has reported an
error, with bytes still unread. So these sockets are in an epoll set of our own, and the loop watches only that
set. Being level-triggered it tells until everything was read.

A turn takes what is ready, calls the handlers, then whatever they left for the end of the turn (`at_end`: the links'
writes). While much is ready it goes on at once, so that a busy process spares the loop's own turn.
"""

import asyncio
import select
import selectors
from collections.abc import Callable
from typing import Final, Protocol

_END: Final = 0x2000  # EPOLLRDHUP: the other end has closed its sending side
READ: Final = 1 | _END  # EPOLLIN
WRITE: Final = 4  # EPOLLOUT
_NOT_READ: Final = ~READ
BATCH: Final = 256  # events taken at once
BUSY_EVENTS: Final = 4  # so many at once: more have come meanwhile
BUSY_TURNS: Final = 8  # before the loop gets to its timers and tasks

Handler = Callable[[], object]


class Watcher(Protocol):
    """Tells when there is something to read: a `Poller`, or an event loop."""

    def add_reader(self, fd: int, handler: Handler, /) -> object: ...
    def remove_reader(self, fd: int, /) -> object: ...


class _Set(Protocol):
    """What we need of the kernel's set; masks are READ and WRITE."""

    def fileno(self) -> int: ...
    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class Poller:
    """Readers and writers by descriptor, as an event loop has them; `loop` for all else. `close` it in the end."""

    __slots__ = (
        "_closed",
        "_ends",
        "_gone",
        "_masks",
        "_poll",
        "_readers",
        "_set",
        "_writers",
        "ended",
        "in_turn",
        "loop",
        "turns",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._readers: dict[int, Handler] = {}
        self._writers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}  # what the kernel was told
        self._gone: set[int] = set()  # left in this turn: events taken before may be of a socket that is closed
        self._ends: list[Handler] = []
        self.ended = False
        """For a reader, while it is called: the end is behind what there is to read now."""
        self.in_turn = False
        self.turns = 0
        """How many there were: what was found out in this one need not be found out again."""
        self._closed = False
        self._set: _Set = select.epoll() if hasattr(select, "epoll") else _Portable()
        self._poll = self._set.poll
        loop.add_reader(self._set.fileno(), self._turn)

    def close(self) -> None:
        """Nobody is called any more. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        self.loop.remove_reader(self._set.fileno())
        self._set.close()
        for handlers in (self._readers, self._writers, self._masks):
            handlers.clear()

    def __len__(self) -> int:
        return len(self._masks)

    # --- who wants to know ----------------------------------------------------------------------------------

    def add_reader(self, fd: int, handler: Handler) -> None:
        """Call `handler` while `fd` can be read, has ended, or has failed; in place of an earlier one."""
        self._readers[fd] = handler
        mask = self._masks.get(fd, 0)
        if not mask & READ:
            self._tell(fd, mask, mask | READ)

    def add_writer(self, fd: int, handler: Handler) -> None:
        """Call `handler` while `fd` can be written, or has failed; in place of an earlier one."""
        self._writers[fd] = handler
        mask = self._masks.get(fd, 0)
        if not mask & WRITE:
            self._tell(fd, mask, mask | WRITE)

    def remove_reader(self, fd: int) -> None:
        """Harmless when there is none; before the descriptor is closed."""
        if self._readers.pop(fd, None) is not None:
            mask = self._masks[fd]
            self._tell(fd, mask, mask & ~READ)

    def remove_writer(self, fd: int) -> None:
        """Harmless when there is none; before the descriptor is closed."""
        if self._writers.pop(fd, None) is not None:
            mask = self._masks[fd]
            self._tell(fd, mask, mask & ~WRITE)

    def forget(self, fd: int) -> None:
        """The descriptor is closed next: the kernel takes it out of the set by itself."""
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)
        self._masks.pop(fd, None)
        if self.in_turn:
            self._gone.add(fd)

    def _tell(self, fd: int, old: int, new: int) -> None:
        if not new:
            # without an interest errors are reported all the same, for ever
            self._set.unregister(fd)
            del self._masks[fd]
            if self.in_turn:
                self._gone.add(fd)
            return
        if old:
            self._set.modify(fd, new)
        else:
            self._set.register(fd, new)
        self._masks[fd] = new

    # --- turns ----------------------------------------------------------------------------------------------

    def at_end(self, handler: Handler) -> None:
        """Call `handler` once what is ready now has been handled."""
        if self.in_turn:
            self._ends.append(handler)
        else:
            self.loop.call_soon(handler)

    def _turn(self) -> None:
        self.in_turn = True
        try:
            for _ in range(BUSY_TURNS):
                self.turns += 1
                events = self._poll(0, BATCH)
                self._handle(events)
                if self._ends:
                    self._finish_turn()
                if len(events) < BUSY_EVENTS:
                    break
        finally:
            self.in_turn = False
            # asked for while the end was under way: no event of a socket need ever follow
            left, self._ends = self._ends, []
            for handler in left:
                self.loop.call_soon(handler)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        readers, writers, gone = self._readers, self._writers, self._gone
        for fd, event in events:
            if gone and fd in gone:
                continue  # closed by a handler before; the number may be another's by now
            try:
                # an error or the end of both directions (neither IN nor OUT) is for whoever is there
                if event != WRITE and (handler := readers.get(fd)) is not None:
                    self.ended = event & _END != 0
                    handler()
                if event & _NOT_READ and (handler := writers.get(fd)) is not None and fd not in gone:
                    handler()
            except Exception as error:
                self._failed(error)
        if gone:
            gone.clear()

    def _finish_turn(self) -> None:
        ends, self._ends = self._ends, []
        for handler in ends:
            try:
                handler()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.loop.call_exception_handler({"message": "a handler of a socket failed", "exception": error})


class _Portable:
    """Where there is no epoll: the set of the standard library, which has a descriptor on BSDs and macOS too."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        return int(self._selector.fileno())

    def register(self, fd: int, eventmask: int, /) -> None:
        try:
            self._selector.register(fd, _portable(eventmask))
        except KeyError:  # forgotten and closed: the kernel knows it no more, the selector still does
            self._selector.unregister(fd)
            self._selector.register(fd, _portable(eventmask))

    def modify(self, fd: int, eventmask: int, /) -> None:
        self._selector.modify(fd, _portable(eventmask))

    def unregister(self, fd: int, /) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        del most
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(timeout)
        ]

    def close(self) -> None:
        self._selector.close()


def _portable(mask: int) -> int:
    return (selectors.EVENT_READ if mask & READ else 0) | (selectors.EVENT_WRITE if mask & WRITE else 0)
