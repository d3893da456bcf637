"""A link, driven over a real TLS connection: what happens when its peer makes it write and reads nothing."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hbone.errors import HboneError
from hbone.net.budget import BufferBudget
from hbone.net.clock import SystemClock
from hbone.net.closing import Closing
from hbone.net.h2link import H2Link
from hbone.net.heartbeat import PingPolicy
from hbone.net.linkparts import LinkParts
from hbone.net.members import Members
from hbone.net.poller import Poller
from hbone.net.tls import ReadBuffer, TlsStream
from hbone.net.tlscontext import TlsContexts, TlsOptions
from hbone.protocol.codes import StreamViolation
from hbone.protocol.connection import Http2Connection
from hbone.protocol.events import Headers
from hbone.protocol.limits import Limits
from hbone.protocol.outbox import BufferPool, Outbox, OutboxOverflow
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import Stream
from tests.support import h2frames
from tests.support.h2frames import PREFACE
from tests.support.pki import SpiffeCA
from tests.support.tcp import eventually
from tests.support.tlspeer import meet

ME = "spiffe://cluster.local/ns/a/sa/b"


@dataclass
class Seen:
    """Handler of the link, and owner of its streams."""

    link: H2Link | None = None
    streams: list[Stream] = field(default_factory=list)
    closed: list[HboneError | None] = field(default_factory=list)
    lost: list[HboneError] = field(default_factory=list)
    slots: int = 0

    def on_ready(self) -> None: ...
    def on_refused(self, error: StreamViolation) -> None: ...
    def on_going_away(self, last_stream_id: int) -> None: ...

    def on_request(self, stream: Stream, headers: Headers, *, end_stream: bool) -> None:
        stream.owner = self
        self.streams.append(stream)

    def on_slot_free(self) -> None:
        self.slots += 1

    def on_closed(self, error: HboneError | None) -> None:
        self.closed.append(error)

    def on_headers(self, headers: Headers) -> None: ...
    def on_data(self, stream: Stream) -> None: ...
    def on_end(self) -> None: ...
    def on_reset(self, code: int) -> None: ...
    def on_window(self) -> None: ...
    def resume(self) -> None: ...

    def on_link_lost(self, error: HboneError) -> None:
        self.lost.append(error)


@dataclass
class Stage:
    link: H2Link
    seen: Seen
    peer: TlsStream
    parts: LinkParts

    def send(self, *frames: bytes) -> None:
        """As the peer, with what fits into the socket."""
        self.peer.write(memoryview(b"".join(frames)))


@asynccontextmanager
async def stage(ca: SpiffeCA, *, spill_bytes: int = 4096) -> AsyncGenerator[Stage]:
    """A server's link whose socket takes little, and a client that reads only when told to."""
    poller = Poller(asyncio.get_running_loop())
    contexts = TlsContexts(ca.svid(ME), ca.bundle("cluster.local"), TlsOptions(), SystemClock())
    peer, ours = (await meet(contexts, contexts)).streams()
    ours.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    parts = LinkParts(
        buffer=ReadBuffer(),
        clock=SystemClock(),
        pings=PingPolicy(),
        closing=Closing(poller),
        budget=BufferBudget(),
        open=Members(),
    )
    outbox = Outbox(BufferPool(), max_spill_bytes=spill_bytes)
    seen = Seen()
    link = H2Link(poller, ours, Http2Connection(Role.SERVER, LocalSettings(), Limits(), outbox), outbox, parts)
    made = Stage(link, seen, peer, parts)
    try:
        link.start(seen)
        made.send(PREFACE, h2frames.settings())
        yield made
    finally:
        link.lost(None)
        parts.closing.close()
        peer.close()
        poller.close()


async def fill(made: Stage) -> None:
    """Until not one more byte fits: neither into the socket, nor into the outbox, nor into its spill."""
    link = made.link
    made.send(h2frames.headers(1))
    await eventually(lambda: made.seen.streams)
    stream = made.seen.streams[0]
    link.answer(stream, h2frames.OK, end_stream=False)
    for _ in range(2):  # the first fills the socket too
        while space := link.outbox.reserve(16_000):
            link.outbox.commit(stream.id, len(space))
            link.flush()
    assert link.blocked
    while True:
        try:
            link.outbox.append(bytes(13))
        except OutboxOverflow:
            return


DEEDS: dict[str, Callable[[H2Link, Stream], object]] = {
    "an answer": lambda link, stream: link.answer(stream, h2frames.OK, end_stream=True),
    "an end": lambda link, stream: link.end(stream),
    "a reset": lambda link, stream: link.reset(stream, 8),
    "credit for a stream": lambda link, stream: link.consumed(stream, 4 << 20),
    "a ping": lambda link, _: link.ping(bytes(8)),
    "a GOAWAY": lambda link, _: link.announce_going_away(),
    "a final GOAWAY": lambda link, _: link.go_away(),
}


@pytest.mark.parametrize("name", DEEDS)
async def test_a_peer_that_reads_nothing_ends_its_own_link_and_raises_into_nobody(
    name: str, spiffe_ca: SpiffeCA
) -> None:
    async with stage(spiffe_ca) as made:
        await fill(made)
        stream = made.seen.streams[0]
        if name == "an answer":
            stream.answered = False
        DEEDS[name](made.link, stream)
        assert made.link.doomed
        assert not made.link.closed  # not in the middle of its owner's doings
        assert not made.link.seems_alive()
        await eventually(lambda: made.seen.closed)
        assert isinstance(made.seen.closed[0], OutboxOverflow)
        assert len(made.seen.lost) == 1
        assert not len(made.parts.open)


async def test_a_link_that_says_goodbye_delivers_everything_to_a_peer_that_still_talks(
    spiffe_ca: SpiffeCA,
) -> None:
    async with stage(spiffe_ca) as made:
        made.send(h2frames.headers(1))
        await eventually(lambda: made.seen.streams)
        stream = made.seen.streams[0]
        made.link.answer(stream, h2frames.OK, end_stream=False)
        space = made.link.outbox.reserve(60_000)
        space[:] = b"x" * len(space)
        made.link.outbox.commit(stream.id, len(space))
        made.link.end(stream)
        made.link.reset(stream, 0)
        made.link.go_away()
        for _ in range(50):
            made.send(h2frames.ping())  # unread when the link closes
        got = b""
        buffer = ReadBuffer()

        def read() -> bool:
            nonlocal got
            while (n := made.peer.read_into(buffer, 0)) > 0:
                got += bytes(buffer.view[:n])
            return n == 0

        await eventually(read)
        assert got.count(b"x") >= 60_000
        assert [frame.name for frame in h2frames.parse(got)][-1] in {"GOAWAY", "PING"}
        assert made.seen.closed == [None]


async def test_goaway_is_said_once_however_often_the_link_is_asked_to_leave(spiffe_ca: SpiffeCA) -> None:
    async with stage(spiffe_ca) as made:
        made.send(h2frames.headers(1))
        await eventually(lambda: made.seen.streams)
        for _ in range(3):
            made.link.go_away()
        assert not made.link.closed  # a stream is open
        stream = made.seen.streams[0]
        made.link.reset(stream, 8)
        made.link.go_away()
        await eventually(lambda: made.link.closed)
        got = b""
        buffer = ReadBuffer()

        def read() -> bool:
            nonlocal got
            while (n := made.peer.read_into(buffer, 0)) > 0:
                got += bytes(buffer.view[:n])
            return n == 0

        await eventually(read)
        assert [frame.name for frame in h2frames.parse(got)].count("GOAWAY") == 1


async def test_a_fault_of_ours_in_one_stream_ends_the_tunnel_and_is_logged(
    spiffe_ca: SpiffeCA, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(spiffe_ca) as made:

        def fail() -> None:
            raise RuntimeError("a bug")

        made.send(h2frames.headers(1))
        await eventually(lambda: made.seen.streams)
        made.seen.on_end = fail  # type: ignore[method-assign]
        made.send(h2frames.data(1, b"x", end=True))
        await eventually(lambda: made.seen.closed)
        assert "a fault in this proxy" in str(made.seen.closed[0])
        assert "a bug" in caplog.text
