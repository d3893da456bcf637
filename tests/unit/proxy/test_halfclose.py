"""The limit on half-closed connections that stand still."""

import asyncio

from hbone.errors import HboneError
from hbone.proxy.halfclose import HalfCloses
from tests.support.tcp import eventually


class Half:
    def __init__(self, limit: HalfCloses) -> None:
        self.carried_bytes = 100
        self.limit = limit
        self.errors: list[HboneError] = []

    def cut(self, error: HboneError) -> None:
        self.errors.append(error)
        self.limit.over(self)


async def test_what_stands_still_is_cut_and_what_moves_goes_on() -> None:
    limit = HalfCloses(asyncio.get_running_loop(), 0.05)
    still, moving, ended = Half(limit), Half(limit), Half(limit)
    for one in (still, moving, ended):
        limit.begin(one)
    limit.over(ended)
    limit.over(ended)
    while not still.errors:
        await asyncio.sleep(0.01)
        moving.carried_bytes += 1
    assert "half-closed for 0.05 s" in str(still.errors[0])
    assert not moving.errors
    assert not ended.errors
    await eventually(lambda: moving.errors)
    assert len(still.errors) == 1
    limit.close()


async def test_nobody_is_cut_after_the_close() -> None:
    limit = HalfCloses(asyncio.get_running_loop(), 0.01)
    one = Half(limit)
    limit.begin(one)
    limit.close()
    await asyncio.sleep(0.03)
    assert not one.errors
