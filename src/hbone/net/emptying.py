"""Waiting for members to leave: apart from `hbone.net.members`, which is compiled, as coroutines are not."""

from typing import Any

from hbone.net.members import Members


async def wait_empty(members: Members[Any]) -> None:
    """Until the last one has left."""
    while len(members):
        await members.emptied().wait()
