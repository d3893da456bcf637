import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import cast

import pytest

from hbone.net.deadlines import Deadlines
from tests.support.tcp import eventually

LIMIT_S = 0.05
Waits = tuple[Deadlines[str], list[str]]


@pytest.fixture
async def waits() -> AsyncGenerator[Waits]:
    overdue: list[str] = []
    deadlines: Deadlines[str] = Deadlines(asyncio.get_running_loop(), LIMIT_S, overdue.append)
    yield deadlines, overdue
    deadlines.close()


async def test_who_waits_too_long_is_called_once_in_the_order_of_beginning(
    waits: Waits,
) -> None:
    deadlines, overdue = waits
    for name in "abc":
        deadlines.start(name)
    deadlines.stop("b")
    await eventually(lambda: len(overdue) == 2)
    assert overdue == ["a", "c"]
    assert not len(deadlines)


async def test_a_wait_that_is_over_in_time_calls_nobody(waits: Waits) -> None:
    deadlines, overdue = waits
    deadlines.start("a")
    deadlines.stop("a")
    deadlines.stop("a")
    deadlines.start("b")
    await eventually(lambda: overdue)
    assert overdue == ["b"]


async def test_starting_again_begins_the_wait_anew(waits: Waits) -> None:
    deadlines, overdue = waits
    loop = asyncio.get_running_loop()
    deadlines.start("a")
    await asyncio.sleep(LIMIT_S / 2)
    deadlines.start("b")
    again = loop.time()
    deadlines.start("a")
    await eventually(lambda: len(overdue) == 2)
    assert overdue == ["b", "a"]
    assert loop.time() - again >= LIMIT_S * 0.9


async def test_later_waits_end_no_more_than_a_tenth_late(waits: Waits) -> None:
    deadlines, overdue = waits
    loop = asyncio.get_running_loop()
    began: dict[str, float] = {}
    for number in range(6):
        began[str(number)] = loop.time()
        deadlines.start(str(number))
        await asyncio.sleep(LIMIT_S / 5)
    await eventually(lambda: len(overdue) == 6)
    assert overdue == sorted(overdue)


async def test_one_timer_serves_ten_thousand_waits() -> None:
    loop = CountingLoop(asyncio.get_running_loop())
    overdue: list[int] = []
    deadlines: Deadlines[int] = Deadlines(cast("asyncio.AbstractEventLoop", loop), LIMIT_S, overdue.append)
    for number in range(10_000):
        deadlines.start(number)
    assert loop.timers == 1
    await eventually(lambda: len(overdue) == 10_000)
    assert loop.timers <= 12


class CountingLoop:
    """The running loop, as far as deadlines need it; counts timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self.timers = 0
        self._loop = loop

    def call_later(self, delay: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers += 1
        return self._loop.call_later(delay, call)


async def test_nobody_is_called_after_the_close(waits: Waits) -> None:
    deadlines, overdue = waits
    deadlines.start("a")
    deadlines.close()
    await asyncio.sleep(LIMIT_S * 1.5)
    assert not overdue
