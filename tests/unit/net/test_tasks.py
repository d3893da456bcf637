"""A place for tasks: failures stay inside, and closing it ends them all."""

import asyncio
import logging
from itertools import pairwise

import pytest

from hbone.errors import UsageError
from hbone.net import tasks as module
from hbone.net.tasks import Tasks


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def test_one_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(error: Exception) -> None:
        raise error

    caplog.set_level(logging.WARNING)
    async with Tasks("test") as tasks:
        other = tasks.start(wait_for_ever(), name="other")
        failing = [fail(UsageError("ours")), fail(KeyError("x"))]
        await asyncio.wait([tasks.start(work, name="failing") for work in failing])
        assert not other.done()
    assert [(record.message, record.levelname) for record in caplog.records] == [
        ("task failed", "WARNING"),
        ("task failed unexpectedly", "ERROR"),
    ]
    assert other.cancelled()


async def test_what_is_kept_begins_again_after_each_fault_and_later_each_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    began: list[float] = []
    faults: list[Exception] = [KeyError("x"), UsageError("ours"), ValueError("y")]

    async def work() -> None:
        began.append(asyncio.get_running_loop().time())
        if faults:
            raise faults.pop()
        await wait_for_ever()

    async with Tasks("test") as tasks:
        tasks.keep(work, name="kept")
        async with asyncio.timeout(5):
            while len(began) < 4:  # noqa: ASYNC110 -- there is no event for it
                await asyncio.sleep(0.005)
    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert [pause > 0.8 * least for pause, least in zip(pauses, (0.01, 0.02, 0.04), strict=True)] == [True] * 3, pauses
    assert [record.message for record in caplog.records] == ["task failed unexpectedly"] * 3


async def test_what_is_kept_ends_when_it_is_done() -> None:
    async def work() -> None: ...

    async with Tasks("test") as tasks:
        await asyncio.wait([tasks.keep(work, name="done")])
        assert len(tasks) == 0


async def test_one_that_never_began_leaves_no_warning() -> None:
    """Warnings are errors in tests: this would fail with "never awaited"."""

    async def work() -> None:
        raise AssertionError("it must not run")

    tasks = Tasks("test")
    task = tasks.start(work(), name="late")
    await tasks.close()
    assert task.cancelled()
    assert len(tasks) == 0


async def test_one_that_swallows_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As grpclib does when a connection is lost in the same moment."""
    monkeypatch.setattr(module, "CANCEL_AGAIN_S", 0.01)
    began = asyncio.Event()

    async def stubborn() -> None:
        for _ in range(2):
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        await asyncio.Event().wait()

    tasks = Tasks("test")
    task = tasks.start(stubborn(), name="stubborn")
    await began.wait()
    async with asyncio.timeout(5):
        await tasks.close()
    assert task.cancelled()
