"""The workers of a node: started, heard, replaced, drained.

A worker that ends before it was told to is replaced, at once if it had worked for a while, else after a pause that
doubles with each failure. Its sockets stay open meanwhile, so what connects waits for the successor; when the pause is
long they are given up instead, and connections go to the other workers.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, Final

from hbone.app.workers.channel import Channel
from hbone.app.workers.listening import Listening
from hbone.app.workers.messages import Ask, Begin, Drain, InvalidMessage, Message, Said, Waiting
from hbone.app.workers.restarts import GIVE_UP_ABOVE_S, Restarts, how_it_ended
from hbone.errors import HboneError
from hbone.net.tasks import Tasks
from hbone.telemetry.views import WorkerView
from hbone.times import Clock
from hbone.values import dataclass

log = logging.getLogger("hbone.node")

ANSWER_S: Final = 2.0  # `hbone get` waits three
MARGIN_S: Final = 1.0  # for a worker to end after its drain deadline


@dataclass(slots=True)
class _Member:
    """A worker's place, whoever fills it. `pending` None: it has not spoken yet."""

    number: int
    restarts: Restarts = field(default_factory=Restarts)
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    pending: tuple[str, ...] | None = None
    silent: bool = False
    last_end: str | None = None
    open_fds: int | None = None

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    @property
    def ready(self) -> bool:
        return self.pending == ()

    def state(self, *, draining: bool) -> str:
        if self.process is None:
            return "down"
        if draining:
            return "draining"
        return "silent" if self.silent else "ready" if self.ready else "starting"


Brief = Callable[[int, Mapping[str, int]], Begin]
"""The first words to a worker: its number, and its descriptors by listener."""


class Crew:
    """All workers. `start`, and at the end `drain`."""

    def __init__(self, listening: Listening, count: int, brief: Brief, clock: Clock) -> None:
        self._listening = listening
        self._brief = brief
        self._clock = clock
        self._members = [_Member(number) for number in range(1, count + 1)]
        self._tasks = Tasks("workers")
        self._lives: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._asks = 0
        self._ended: list[Callable[[int], None]] = []
        self._all_ready = asyncio.Event()

    # --- what is known of them --------------------------------------------------------------------------------

    def pids(self) -> frozenset[int]:
        return frozenset(member.process.pid for member in self._members if member.process is not None)

    @property
    def pending(self) -> tuple[str, ...]:
        """Workers that do not take connections."""
        return tuple(member.name for member in self._members if not member.ready)

    async def wait_ready(self) -> None:
        """Until all have been ready at once."""
        await self._all_ready.wait()

    def views(self) -> tuple[WorkerView, ...]:
        draining = self._ending.is_set()
        return tuple(
            WorkerView(
                number=member.number,
                pid=None if member.process is None else member.process.pid,
                state=member.state(draining=draining),
                pending=member.pending or (),
                restarts=member.restarts.count,
                last_end=member.last_end,
                open_fds=member.open_fds,
            )
            for member in self._members
        )

    def on_end(self, call: Callable[[int], None]) -> None:
        """`call` with the number of a worker whose process has ended."""
        self._ended.append(call)

    # --- talking ----------------------------------------------------------------------------------------------

    def tell(self, message: Message) -> None:
        """All of them."""
        for member in self._members:
            if member.channel is not None:
                member.channel.send(message)

    async def ask(self, topics: Iterable[str]) -> dict[int, Mapping[str, Any]]:
        """What each holds, by worker. One that does not answer in time is left out, and named in the log."""
        wanted = list(topics)
        members = [member for member in self._members if member.channel is not None]
        answers = await asyncio.gather(*(self._ask(member, wanted) for member in members))
        return {member.number: said for member, said in zip(members, answers, strict=True) if said is not None}

    async def _ask(self, member: _Member, topics: list[str]) -> Mapping[str, Any] | None:
        channel = member.channel
        assert channel is not None  # noqa: S101 -- the caller looked
        self._asks += 1
        id_ = self._asks
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[id_] = answer
        channel.send(Ask(id=id_, topics=topics))
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await answer
            member.silent = False
        except TimeoutError:
            if not member.silent:
                log.warning("a worker does not answer", extra={"worker": member.number})
            member.silent = True
            return None
        finally:
            del self._asked[id_]
        for process in said.get("process", ()):
            member.open_fds = process["open_fds"]
        return said

    # --- their lives ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._lives = [self._tasks.keep(partial(self._keep, member), name=member.name) for member in self._members]

    async def _keep(self, member: _Member) -> None:
        """One after the other in the same place, until the node ends."""
        while not self._ending.is_set():
            began = self._clock.now()
            try:
                how = await self._live(member)
            except (OSError, HboneError) as error:
                how = f"not started: {error}"
            if self._ending.is_set():
                return
            member.last_end = how
            pause_s = member.restarts.after(self._clock.now() - began)
            log.error("worker ended", extra={"number": member.number, "how": how, "next_in_s": pause_s})
            if pause_s > GIVE_UP_ABOVE_S:
                self._listening.give_up(member.number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()

    async def _live(self, member: _Member) -> str:
        """Start a process and hear it to its end; how it ended."""
        descriptors = self._listening.descriptors(member.number)
        balancing = self._listening.balancing
        shared = () if balancing is None else balancing.descriptors(member.number)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = member.process = await _start(theirs.fileno(), (*descriptors.values(), *shared))
            channel = member.channel = await Channel.over(ours)
        except BaseException:
            ours.close()
            await self._gone(member)
            raise
        log.info("worker started", extra={"number": member.number, "worker_pid": process.pid})
        channel.send(self._brief(member.number, descriptors))
        if self._ending.is_set():
            channel.send(Drain())
        try:
            await self._hear(member, channel)
            async with asyncio.timeout(MARGIN_S):
                return how_it_ended(await process.wait())
        except InvalidMessage as error:
            return f"ended by force: {error}"
        except TimeoutError:
            return "ended by force: it closed its channel and went on"
        finally:
            await self._gone(member)

    async def _hear(self, member: _Member, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match message:
                case Waiting(pending=pending):
                    member.pending = tuple(pending)
                    if not self.pending:
                        self._all_ready.set()
                case Said(id=id_, topics=topics):
                    asked = self._asked.get(id_)
                    if asked is not None and not asked.done():
                        asked.set_result(topics)
                case _:
                    raise InvalidMessage(f"a worker said {type(message).__name__}")

    async def _gone(self, member: _Member) -> None:
        """Whatever way we came here, no process is left in this place."""
        process, channel = member.process, member.channel
        if channel is not None:
            channel.close()
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        member.process = member.channel = member.pending = None
        if self._listening.balancing is not None:
            self._listening.balancing.leave(member.number)
        member.silent = False
        for call in self._ended:
            call(member.number)

    # --- the end ----------------------------------------------------------------------------------------------

    async def drain(self, deadline_s: float) -> None:
        """Let all finish until the deadline; end those that are then still there."""
        self._ending.set()
        self._listening.unbind()  # ours; each worker closes its own, and only then are ports free
        self.tell(Drain())
        if self._lives:
            _, late = await asyncio.wait(self._lives, timeout=deadline_s + MARGIN_S)
            if late:
                log.warning("workers ended by force", extra={"workers": len(late)})
        await self._tasks.close()


async def _start(channel: int, descriptors: Iterable[int]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hbone", "node", "--worker", str(channel),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(channel, *descriptors),
        start_new_session=True,  # Ctrl-C is for the agent: a worker still importing could not take it
    )  # fmt: skip
