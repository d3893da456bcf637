"""The life of a node: ports before anything runs, a start that is whole or undone."""

from contextlib import AsyncExitStack

import pytest

from hbone.app.life import Life
from hbone.errors import UsageError
from hbone.net.clock import SystemClock


class Ports:
    """A set of ports that tells what was done with it."""

    def __init__(self, *, taken: bool = False) -> None:
        self.taken = taken
        self.held = False

    def bind(self) -> None:
        if self.taken:
            raise UsageError("somebody listens there", why="a test", fix="another port")
        self.held = True

    def unbind(self) -> None:
        self.held = False


def test_of_two_sets_of_ports_both_are_taken_or_none() -> None:
    free = Ports()
    with pytest.raises(UsageError):
        Life(SystemClock()).bind(free, Ports(taken=True))
    assert not free.held


async def test_a_start_that_fails_gives_the_ports_back_and_undoes_what_had_begun() -> None:
    life, ports, undone = Life(SystemClock()), Ports(), list[str]()

    async def bind() -> None:
        life.bind(ports)

    async def start(undo: AsyncExitStack) -> None:
        undo.callback(undone.append, "begun")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        await life.begin(bind, start)
    assert (ports.held, undone) == (False, ["begun"])


async def test_ports_that_were_taken_before_the_start_are_not_taken_again() -> None:
    life, ports, bound = Life(SystemClock()), Ports(), list[str]()

    async def bind() -> None:
        bound.append("again")

    async def start(_: AsyncExitStack) -> None: ...

    life.bind(ports)
    await life.begin(bind, start)
    assert (ports.held, bound) == (True, [])


async def test_what_the_start_pushed_is_undone_at_the_end_and_not_before() -> None:
    life, undone = Life(SystemClock()), list[str]()

    async def bind() -> None: ...

    async def start(undo: AsyncExitStack) -> None:
        undo.callback(undone.append, "first")
        undo.callback(undone.append, "last")

    await life.begin(bind, start)
    assert undone == []
    await life.end()
    assert undone == ["last", "first"]


def test_a_view_says_starting_ready_and_draining() -> None:
    life = Life(SystemClock())

    def state(*pending: str) -> str:
        return life.view(pending=pending, listeners=(), open_fds=None).state

    seen = [state("state manager"), state()]
    life.draining = True
    assert [*seen, state("state manager")] == ["starting", "ready", "draining"]
