"""One process or several."""

import os
import sys
from collections.abc import Awaitable, Callable

from hbone.app.node import run_node
from hbone.app.place import Place
from hbone.app.run import Stop
from hbone.config.model import NodeSettings
from hbone.telemetry.log import Logs

Run = Callable[[NodeSettings, Place, Logs, Stop], Awaitable[int]]


def worker_count(settings: NodeSettings) -> int:
    """How many processes carry connections; `auto` is one for each core that we may use."""
    if settings.workers != "auto":
        return settings.workers
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def runner_for(settings: NodeSettings) -> Run:
    """What runs a node with these settings: one process that does all, or an agent with its workers."""
    if worker_count(settings) == 1:
        return run_node
    from hbone.app.workers.agent import run_agent

    return run_agent
