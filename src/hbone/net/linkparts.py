"""What the links of a process share."""

from typing import TYPE_CHECKING

from hbone.net.budget import BufferBudget
from hbone.net.closing import Closing
from hbone.net.heartbeat import PingPolicy
from hbone.net.members import Members
from hbone.net.tls import ReadBuffer
from hbone.times import Clock
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.net.h2link import H2Link


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkParts:
    """What all links of a process share. `open`: those that live now."""

    buffer: ReadBuffer
    clock: Clock
    pings: PingPolicy
    closing: Closing
    budget: BufferBudget
    open: "Members[H2Link]"
