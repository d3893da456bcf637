import asyncio

from hbone.net.emptying import wait_empty
from hbone.net.members import Members


async def test_whoever_waits_goes_on_when_the_last_one_has_left() -> None:
    members: Members[str] = Members()
    await wait_empty(members)
    members.add("a")
    members.add("b")
    waiting = asyncio.create_task(wait_empty(members))
    await asyncio.sleep(0)
    members.remove("a")
    members.remove("a")
    await asyncio.sleep(0)
    assert not waiting.done()
    members.remove("b")
    await waiting


async def test_who_comes_between_the_last_leaving_and_the_waking_is_waited_for_too() -> None:
    members: Members[str] = Members()
    members.add("a")
    waiting = asyncio.create_task(wait_empty(members))
    await asyncio.sleep(0)
    members.remove("a")
    members.add("b")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    members.remove("b")
    await waiting


def test_members_may_leave_while_they_are_walked() -> None:
    members: Members[int] = Members()
    for number in range(5):
        members.add(number)
    for number in members:
        members.remove(number)
    assert not len(members)
    assert 3 not in members
