"""Is the far end of a tunnel still there? Asked by PING, judged with what TCP knows.

A PING goes out `interval_s` after the last answer. What ends a tunnel is a peer that has our PING and does not answer,
or a path that has not acknowledged anything, for `timeout_s`. A peer that reads slowly, or not at all for a while, is
neither: its kernel goes on answering TCP's window probes, and our PING still waits in our own kernel.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from hbone.errors import HboneError, TunnelFailure
from hbone.times import Instant
from hbone.values import dataclass

DOUBT_S: Final = 1.0  # a window probe is answered within a round trip, or half a second later: Linux limits the rate
_SOONEST_S: Final = 0.01

# struct tcp_info (linux/tcp.h): bytes first, then 32-bit fields
_INFO_BYTES: Final = 148
_PROBES: Final = 3  # window probes without an answer
_UNACKED: Final = 24  # segments on their way
_LAST_ACK: Final = 56  # ms since the last acknowledgement
_NOT_SENT: Final = 144  # bytes that the peer's window keeps here
_LONG: Final = struct.Struct("=I")


@dataclass(frozen=True, slots=True, kw_only=True)
class PingPolicy:
    """Keep-alive: a PING `interval_s` after the last answer; no answer within `timeout_s` ends the connection."""

    interval_s: float = 10.0
    timeout_s: float = 20.0


class Path(Enum):
    """What TCP says about bytes that are not answered."""

    DELIVERED = "delivered"  # the peer's kernel has them all
    SLOW = "slow"  # the peer acknowledges, and takes no more now
    DOUBTFUL = "doubtful"  # a window probe is not answered (yet)
    DEAD = "dead"  # nothing was acknowledged for too long


class Asked(Protocol):
    """The connection that is watched."""

    last_heard: float

    def ping(self, payload: bytes) -> None: ...
    def lost(self, error: HboneError | None) -> None: ...


class Heartbeat:
    """Watches one connection from `start` to `stop`; ends it with `lost` when there is nobody."""

    __slots__ = ("_asked", "_asked_at", "_doubted", "_loop", "_now", "_policy", "_sock", "_stopped", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: Asked,
        sock: socket.socket,
        policy: PingPolicy,
        now: Callable[[], Instant],
    ) -> None:
        self._loop = loop
        self._asked = asked
        self._sock = sock
        self._policy = policy
        self._now = now
        self._asked_at: float | None = None
        self._doubted = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = self._loop.call_later(self._policy.interval_s, self._tick)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self) -> None:
        self._asked_at = None

    def _tick(self) -> None:
        self._timer = None
        wait_s = self._ask() if self._asked_at is None else self._wait(self._asked_at)
        if not self._stopped:  # by what we said
            self._timer = self._loop.call_later(max(wait_s, _SOONEST_S), self._tick)

    def _ask(self) -> float:
        """How long until the answer is looked for."""
        now = self._asked_at = self._now()
        self._asked.ping(struct.pack(">d", now))
        return min(self._policy.interval_s, self._policy.timeout_s)

    def _wait(self, asked_at: float) -> float:
        """No answer yet: how much longer to wait, unless it has been too long."""
        now, policy = self._now(), self._policy
        doubted, self._doubted = self._doubted, False
        left_s = policy.timeout_s - (now - max(asked_at, self._asked.last_heard))
        if left_s > 0:
            return min(policy.interval_s, left_s)
        match path_of(self._sock, policy.timeout_s):
            case Path.SLOW:
                self._asked_at = now  # our question has not left yet: the peer's time to answer has not begun
            case Path.DOUBTFUL if not doubted:
                self._doubted = True
                return DOUBT_S
            case path:
                self.stop()
                self._asked.lost(self._nobody(path, now))
        return policy.interval_s

    def _nobody(self, path: Path, now: Instant) -> TunnelFailure:
        silent_s = now - self._asked.last_heard
        if path is Path.DELIVERED:
            return TunnelFailure(
                "the tunnel's peer does not answer",
                why=f"no byte from it for {silent_s:.3g} s, though it has our PING",
                fix="check that its proxy is not stopped or overloaded",
            )
        return TunnelFailure(
            "the path to the tunnel's peer is dead",
            why=f"nothing was acknowledged for {silent_s:.3g} s",
            fix="check that its machine runs and that the path to it carries packets both ways",
        )


def path_of(sock: socket.socket, timeout_s: float) -> Path:
    """What TCP knows of the other end, from one system call; where it cannot be asked, DELIVERED."""
    if not hasattr(socket, "TCP_INFO"):
        return Path.DELIVERED
    return read_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES), timeout_s)


def read_info(info: bytes, timeout_s: float) -> Path:
    """What the kernel's tcp_info says."""
    if len(info) < _INFO_BYTES:  # Linux before 4.6
        return Path.DELIVERED
    unacked, silent_ms, not_sent = (_LONG.unpack_from(info, at)[0] for at in (_UNACKED, _LAST_ACK, _NOT_SENT))
    if not unacked and not not_sent:
        return Path.DELIVERED
    if silent_ms < timeout_s * 1000:
        return Path.SLOW
    if unacked:
        return Path.DEAD
    return Path.DOUBTFUL if info[_PROBES] else Path.SLOW
