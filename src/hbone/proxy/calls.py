"""What the outbound side is asked for, and what it works with."""

import asyncio
import socket
from dataclasses import field
from typing import Protocol

from hbone.addr import Authority, SocketAddress
from hbone.discovery.directory import Directory
from hbone.discovery.model import Workload
from hbone.discovery.request import OutboundContext, Unknown
from hbone.discovery.select import Selector
from hbone.errors import NoAnswer
from hbone.net.closing import Closing
from hbone.net.deadlines import Deadlines
from hbone.net.poller import Poller
from hbone.net.tasks import Tasks
from hbone.proxy.entry import DIRECT, Entry
from hbone.proxy.halfclose import HalfCloses
from hbone.proxy.outcome import Outcomes
from hbone.proxy.passthrough import PlainParts
from hbone.proxy.pool import Pool
from hbone.proxy.registry import Registry
from hbone.proxy.ways import Ways
from hbone.times import Rng
from hbone.values import dataclass


class Unanswered(Protocol):
    """A CONNECT whose answer is awaited."""

    def unanswered(self, error: NoAnswer) -> None:
        """It did not come in time."""


def answer_deadlines(loop: asyncio.AbstractEventLoop, limit_s: float) -> Deadlines[Unanswered]:
    """The time that peers have to answer a CONNECT."""

    def overdue(one: Unanswered) -> None:
        one.unanswered(
            NoAnswer(
                f"no answer to the CONNECT within {limit_s:g} s",
                why="the far proxy lives, but neither took nor refused the connection",
                fix="look into its access log: most likely it cannot reach the application",
            )
        )

    return Deadlines(loop, limit_s, overdue)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundParts:
    """What the outbound side works with. `family`: of the addresses that names are resolved to."""

    poller: Poller
    directory: Directory
    selector: Selector
    pool: Pool
    plain: PlainParts
    outcomes: Outcomes
    registry: Registry
    tasks: Tasks
    rng: Rng
    closing: Closing
    answers: Deadlines[Unanswered]
    half_closes: HalfCloses | None = None
    ways: Ways = field(default_factory=Ways)
    family: socket.AddressFamily = socket.AF_UNSPEC
    context: OutboundContext = field(default_factory=OutboundContext)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A program's wish: from whom, to where, through which entry.

    `unknown`: what becomes of an address that the mesh does not know.
    """

    source: Workload
    downstream: SocketAddress
    target: Authority
    entry: Entry = DIRECT
    unknown: Unknown = Unknown.PASS
