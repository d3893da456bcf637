import asyncio
from collections.abc import AsyncGenerator

import pytest_asyncio

from hbone.net.poller import Poller


@pytest_asyncio.fixture
async def poller() -> AsyncGenerator[Poller]:
    one = Poller(asyncio.get_running_loop())
    yield one
    one.close()
