"""Which sockets of the data path can be read or written: an epoll set that tells their handlers at once.

The event loop serves well what is rare: timers, tasks, signals. For the sockets that carry traffic it costs too much:
uvloop makes a handle for each descriptor, tries it with two `epoll_ctl` calls, and registers it anew whenever a reader
comes or goes (12 calls for one short connection; here it is one). It also forgets a reader whose socket has reported an
error, with bytes still unread; asyncio makes three objects of each event. Being level-triggered our set tells until
everything was read.

A turn takes what is ready, calls the handlers, then whatever they left for the end of the turn (`at_end`: the links'
writes). In a long one the end comes several times: with 32 callers in a closed loop each process would else wait for
the other's whole batch (12 % fewer new connections, with both CPUs idle for a quarter of the time).

Whose turns they are: the loop's own, where it is a `NodeLoop`, which waits in `run` and has its descriptors in the same
set. Under any other loop the set is behind one descriptor which that loop watches, and while much is ready a turn is
followed by another at once, so that a busy process spares the loop's.
"""

import asyncio
import math
import select
import selectors
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

_END: Final = 0x2000  # EPOLLRDHUP: the other end has closed its sending side
_READABLE: Final = 1  # EPOLLIN
READ: Final = _READABLE | _END
WRITE: Final = 4  # EPOLLOUT
_NOT_READ: Final = ~READ
BATCH: Final = 256  # events taken at once
BUSY_EVENTS: Final = 4  # so many at once: more have come meanwhile
STAYS_BUSY: Final = 32  # turns
LONG_S: Final = 50e-6  # of handlers: what they left for the end leaves. 200: 4 % fewer new connections, 400: 8 %
BUSY_TURNS: Final = 8  # before the loop gets to its timers and tasks

Handler = Callable[[], object]
Ready = tuple[int, int]
"""A descriptor, and what can be done with it."""


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
    def poll(self, timeout: float, most: int, /) -> list[Ready]: ...
    def close(self) -> None: ...


class Poller:
    """Readers and writers by descriptor, as an event loop has them; `loop` for all else. `close` it in the end."""

    __slots__ = (
        "_closed",
        "_ends",
        "_few",
        "_gone",
        "_masks",
        "_nested",
        "_outer",
        "_poll",
        "_poll_outer",
        "_readers",
        "_set",
        "_writers",
        "asked",
        "busy",
        "ended",
        "in_turn",
        "loop",
        "turns",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: _Set | None = None) -> None:
        """`shared` is the set that holds the loop's own descriptors too; that loop calls `run`."""
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
        self.asked = False
        """By the loop, while `run` is under way: it has something to do besides."""
        self._closed = False
        self._nested = shared is None
        self._set: _Set = shared or (select.epoll() if hasattr(select, "epoll") else _Portable())
        self._poll = self._set.poll
        self._outer: _Set = self._set
        self._few = True  # were ready last time
        self.busy = 0
        """So many turns are to be taken as under load. Whoever moves much in one turn sets it to STAYS_BUSY."""
        if not self._nested:
            self._outer = select.epoll()
            self._outer.register(self._set.fileno(), _READABLE)
        self._poll_outer = self._outer.poll
        if self._nested:
            loop.add_reader(self._set.fileno(), self._turn)

    def close(self) -> None:
        """Nobody is called any more. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if self._nested:
            self.loop.remove_reader(self._set.fileno())
        else:
            self._outer.close()
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

    def run(self, timeout: float) -> list[Ready]:
        """Turns until the loop has something to do or `timeout` is over (negative: never); what is ready of its own."""
        self.asked = False
        until = monotonic() + timeout if timeout > 0 else 0.0
        wait = timeout
        while True:
            self.turns += 1
            events = self._next(wait)
            others = self._do(events) if events else events
            if others or self.asked or not events or timeout == 0:
                return others
            if timeout > 0:
                wait = until - monotonic()
                if wait <= 0:
                    return others

    def _next(self, wait: float) -> list[Ready]:
        """What is ready, after `wait` at the latest; under load by way of the set around the set.

        A packet wakes us with the hint that its sender is about to sleep, and the scheduler then moves us to the
        sender's CPU: best for one request at a time (5 % more of them). But a sender that goes on, with record after
        record or with the next of its connections, keeps us waiting there while another CPU is idle. The outer set
        wakes without the hint. Two cores: 12 % more throughput of one stream, 8 % more requests at 256 connections.
        """
        if self.busy <= 0:
            events = self._poll(wait, BATCH)
        else:
            self.busy -= 1
            if self._few:
                self._poll_outer(wait, 1)
            events = self._poll(0, BATCH)
        self._few = len(events) < BUSY_EVENTS
        if not self._few:
            self.busy = STAYS_BUSY
        return events

    def _turn(self) -> None:
        for _ in range(BUSY_TURNS):
            self.turns += 1
            events = self._poll(0, BATCH)
            self._do(events)
            if len(events) < BUSY_EVENTS:
                self.busy -= self.busy > 0
                break
            self.busy = STAYS_BUSY

    def _do(self, events: list[Ready]) -> list[Ready]:
        """One turn; the events of descriptors that are not ours."""
        self.in_turn = True
        try:
            others = self._handle(events)
            if self._ends:
                self._finish_turn()
            return others
        finally:
            self.in_turn = False
            if self._ends:
                # asked for while the end was under way: no event of a socket need ever follow
                left, self._ends = self._ends, []
                for handler in left:
                    self.loop.call_soon(handler)

    def _handle(self, events: list[Ready]) -> list[Ready]:
        readers, writers, gone = self._readers, self._writers, self._gone
        others: list[Ready] = []
        until = monotonic() + LONG_S if len(events) > 1 else math.inf
        for fd, event in events:
            if gone and fd in gone:
                continue  # closed by a handler before; the number may be another's by now
            if fd not in self._masks:
                others.append((fd, event))
                continue
            try:
                # an error or the end of both directions (neither IN nor OUT) is for whoever is there
                if event != WRITE and (handler := readers.get(fd)) is not None:
                    self.ended = event & _END != 0
                    handler()
                if event & _NOT_READ and (handler := writers.get(fd)) is not None and fd not in gone:
                    handler()
            except Exception as error:
                self._failed(error)
            if self._ends and monotonic() >= until:
                self._finish_turn()  # others wait for it, while this turn may have much to do yet
                until = monotonic() + LONG_S
        if gone:
            gone.clear()
        return others

    def _finish_turn(self) -> None:
        ends, self._ends = self._ends, []
        for handler in ends:
            try:
                handler()
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.loop.call_exception_handler({"message": "a handler of a socket failed", "exception": error})


def poller_of(loop: asyncio.AbstractEventLoop) -> Poller:
    """The loop's own, or a new one beneath a loop that has none; `release` it in the end."""
    own = getattr(loop, "poller", None)
    return own if isinstance(own, Poller) else Poller(loop)


def release(poller: Poller) -> None:
    """What `poller_of` gave is no longer used: a loop's own lives as long as that."""
    if getattr(poller.loop, "poller", None) is not poller:
        poller.close()


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

    def poll(self, timeout: float, most: int, /) -> list[Ready]:
        del most
        return [
            (key.fd, (READ if mask & selectors.EVENT_READ else 0) | (WRITE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(timeout)
        ]

    def close(self) -> None:
        self._selector.close()


def _portable(mask: int) -> int:
    return (selectors.EVENT_READ if mask & READ else 0) | (selectors.EVENT_WRITE if mask & WRITE else 0)
