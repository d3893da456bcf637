"""A place for tasks: failures stay inside, and closing it ends them all."""

import asyncio
import logging

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
