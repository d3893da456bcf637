"""The worker's side: a plain node on sockets that were handed to it, which says what it holds when it is asked."""

import asyncio
import json
import logging
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hbone.app.node import Node
from hbone.app.parts import Feed, NodeParts, new_holder
from hbone.app.run import Stop, calm_collector
from hbone.app.window import NodeWindow
from hbone.app.workers.channel import Channel, read_first
from hbone.app.workers.messages import Ask, Begin, Drain, InvalidMessage, Levels, Message, Said, Waiting
from hbone.app.workers.turns import take_turns
from hbone.config.model import NodeSettings
from hbone.control.ca_client import CaClient
from hbone.control.channel import UnixEndpoint
from hbone.discovery.store import Source, Store
from hbone.net.balance import Balance
from hbone.net.clock import SystemClock
from hbone.net.tasks import Tasks
from hbone.telemetry.log import Logs
from hbone.telemetry.views import as_json

log = logging.getLogger("hbone.node")

SLICE: Final = 500  # views between two looks at the loop
_LOOK_S: Final = 1.0  # after it was ready, a node waits for something again when its certificates are about to end


async def _metrics(node: Node, _: NodeWindow) -> str:
    pieces: list[str] = []
    for piece in node.metrics.chunks():
        pieces.append(piece)
        await asyncio.sleep(0)  # the connections first
    return "".join(pieces)


def _views(read: Callable[[NodeWindow], Any]) -> "Topic":
    async def say(_: Node, window: NodeWindow) -> list[Any]:
        said: list[Any] = []
        for number, view in enumerate(read(window), 1):
            said.append(as_json(view))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return said

    return say


Topic = Callable[[Node, NodeWindow], Awaitable[Any]]

TOPICS: Final[Mapping[str, Topic]] = {
    "connections": _views(lambda window: window.connections()),
    "tunnels": _views(lambda window: window.tunnels()),
    "certificates": _views(lambda window: window.certificates()),
    "roots": _views(lambda window: window.roots()),
    "process": _views(lambda window: (window.process(),)),
    "metrics": _metrics,
}
"""What can be asked."""


class Worker:
    """One worker, from its first words on. `run` is its life."""

    def __init__(self, fd: int) -> None:
        """`fd`: our end of the channel. Raises InvalidMessage when nobody speaks there."""
        try:
            self._sock = socket.socket(fileno=fd)
        except OSError as error:
            raise InvalidMessage(f"descriptor {fd} is no channel to an agent", why=error.strerror or "") from error
        first = read_first(self._sock)
        if not isinstance(first, Begin):
            raise InvalidMessage("an agent begins otherwise", why=type(first).__name__)
        self._begin = first
        self.settings = NodeSettings.model_validate_json(json.dumps(dict(first.settings)))
        self._tasks = Tasks("worker")
        self._logs: Logs
        self._node: Node | None = None

    def log_to(self, logs: Logs) -> None:
        """Its lines say which worker speaks, and do not mix with those of others."""
        self._logs = logs
        take_turns(logs, self._begin.turn)
        logs.set_levels(self._begin.levels)
        make, number = logging.getLogRecordFactory(), self._begin.number

        def numbered(*arguments: Any, **keywords: Any) -> logging.LogRecord:
            record = make(*arguments, **keywords)
            record.worker = number
            return record

        logging.setLogRecordFactory(numbered)
        log.addFilter(lambda record: record.msg != "listening")  # the agent says it once, for all

    async def run(self, stop: Stop) -> int:
        """Until the agent says so, or is gone. The exit code."""
        _leave_signals_to_the_agent()
        self._logs.batch_with(asyncio.get_running_loop().call_later)
        channel = await Channel.over(self._sock)
        async with self._tasks:
            self._tasks.start(self._listen(channel, stop), name="channel")
            async with Node(self.settings, self._parts(), self._logs, stop.set) as node:
                self._node = node
                channel.send(Waiting(pending=list(node.pending)))
                self._tasks.start(self._tell_ready(node, channel), name="ready")
                await stop.wait()
        channel.close()
        return 0

    def _parts(self) -> NodeParts:
        feeds = tuple(
            Feed(endpoint=UnixEndpoint(Path(path)), source=Source[name]) for name, path in self._begin.feeds.items()
        )
        holder = new_holder()
        source = CaClient(feeds[0].endpoint, ttl_s=self.settings.svid_ttl_s, holder=holder)
        handed = self._begin.balance
        balance = None if handed is None else Balance(self._begin.number, SystemClock(), **handed)
        return NodeParts(store=Store(), source=source, feeds=feeds, holder=holder, balance=balance)

    async def _tell_ready(self, node: Node, channel: Channel) -> None:
        await node.wait_ready()
        told = node.pending
        channel.send(Waiting(pending=list(told)))
        calm_collector()
        while True:
            await asyncio.sleep(_LOOK_S)
            if node.pending != told:
                told = node.pending
                channel.send(Waiting(pending=list(told)))

    async def _listen(self, channel: Channel, stop: Stop) -> None:
        try:
            while (message := await channel.receive()) is not None:
                await self._obey(message, channel, stop)
            if not stop.is_set:
                log.warning("the agent is gone; this worker drains and ends")
                shutil.rmtree(self._begin.directory, ignore_errors=True)
        finally:
            stop.set()

    async def _obey(self, message: Message, channel: Channel, stop: Stop) -> None:
        match message:
            case Drain():
                stop.set()
            case Levels(text=text):
                self._logs.set_levels(text)
            case Ask(id=id_, topics=topics):
                channel.send(Said(id=id_, topics=await self._say(topics)))
            case _:
                log.error("the agent says what a worker should", extra={"kind": type(message).__name__})

    async def _say(self, topics: list[str]) -> Mapping[str, Any]:
        node = self._node
        if node is None:
            return {}
        window = NodeWindow(node, lambda: None)
        return {topic: await TOPICS[topic](node, window) for topic in topics if topic in TOPICS}


def _leave_signals_to_the_agent() -> None:
    """A service manager's SIGTERM reaches all of us: one decides, so that everybody drains together."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
