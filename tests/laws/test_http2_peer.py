"""Our HTTP/2 core against `h2`, an independent implementation, in both roles.

Hypothesis makes the story: opens, data with and without padding, ends, resets, credit, pings, settings, from both
sides, and where the bytes are cut on their way. Each side's bytes must reach the other whole, in order and once, and
neither may ever find fault with the other.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from hbone.protocol.events import (
    ConnectionFailed,
    DataReceived,
    EndReceived,
    HeadersReceived,
    PingAcknowledged,
    RequestRefused,
    StreamReset,
    TrailersReceived,
)
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import Stream, StreamState
from hbone.times import Instant
from tests.support.h2frames import CONNECT, OK, Endpoint, drain

WINDOWS = st.sampled_from([1000, 16_384, 65_535, 200_000])
SIZES = st.sampled_from([1, 5, 100, 999, 5000, 20_000])
CODES = st.sampled_from([0, 5, 8, 0xA])
NUMBERS = st.integers(0, 7)
EXCHANGE = st.tuples(st.just("exchange"), st.lists(st.integers(1, 3000), max_size=20))
OUR_DATA = st.tuples(st.just("our data"), NUMBERS, SIZES)
THEIR_DATA = st.tuples(st.just("their data"), NUMBERS, SIZES, st.one_of(st.none(), st.integers(0, 255)))
TAKE = st.tuples(st.sampled_from(["we take", "they take"]), NUMBERS)
RARE = st.one_of(
    st.tuples(st.sampled_from(["our end", "their end", "our trailers", "their trailers"]), NUMBERS),
    st.tuples(st.sampled_from(["our reset", "their reset"]), NUMBERS, CODES),
    st.tuples(st.just("open"), st.booleans()),
    st.tuples(st.sampled_from(["our ping", "their ping"])),
    st.tuples(st.just("their window"), WINDOWS),
)
STORY = st.lists(
    st.one_of(OUR_DATA, OUR_DATA, THEIR_DATA, THEIR_DATA, EXCHANGE, TAKE, EXCHANGE, TAKE, RARE),
    min_size=30,
    max_size=100,
)
FRAMES = st.sampled_from([16_384, 2**20])


@dataclass
class Ledger:
    """What one side sent and the other got on each stream."""

    sent: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    got: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    ended: set[int] = field(default_factory=set)
    got_end: set[int] = field(default_factory=set)


class Pair:
    """Our endpoint and an `h2` one, and the bytes on their way between them."""

    def __init__(self, ours: Role, window: int, frame: int) -> None:
        local = LocalSettings(initial_window_bytes=window, max_frame_bytes=frame, connection_window_bytes=70_000)
        self.us = Endpoint(ours, local, greeted=False)
        self.connection = self.us.connection
        self.they = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=ours is Role.SERVER, header_encoding=None)
        )
        self.they.initiate_connection()
        self.ours, self.theirs = Ledger(), Ledger()
        self.ids: list[int] = []
        self.streams: dict[int, Stream] = {}
        self.reset: set[int] = set()
        self.untaken: dict[int, int] = defaultdict(int)  # bytes that we have not credited
        self.their_untaken: dict[int, int] = defaultdict(int)
        self.pings = 0
        self.pongs = 0
        self.payloads = 0

    # -- the wire --

    def exchange(self, cuts: list[int]) -> None:
        """Everything that waits goes over, cut at `cuts`, until both are quiet."""
        for _ in range(100):
            to_us, to_them = self.they.data_to_send(), drain(self.us.outbox)
            if not to_us and not to_them:
                return
            for piece in split(to_us, cuts):
                for event in self.connection.receive(memoryview(piece), Instant(0)):
                    self.heard(event)
            if to_them:
                for their_event in self.they.receive_data(to_them):
                    self.they_heard(their_event)
        raise AssertionError("the two never come to rest")

    def heard(self, event: Any) -> None:
        match event:
            case ConnectionFailed():
                raise AssertionError(f"we found fault with h2: {event.error}")
            case RequestRefused():
                raise AssertionError(f"we refused h2's request: {event.error}")
            case HeadersReceived() if self.us.role is Role.SERVER:
                assert tuple(event.headers) == CONNECT
                self.streams[event.stream.id] = event.stream
                self.connection.send_headers(event.stream, OK, end_stream=False)
                if event.end_stream:
                    self.theirs.got_end.add(event.stream.id)
            case HeadersReceived():
                assert tuple(event.headers) == OK
            case DataReceived():
                brought = b"".join(event.stream.chunks)
                self.theirs.got[event.stream.id] += brought
                self.untaken[event.stream.id] += len(brought)
            case EndReceived():
                self.theirs.got_end.add(event.stream.id)
            case TrailersReceived():
                assert tuple(event.headers) == ((b"x", b"y"),)
            case StreamReset():
                assert event.by_peer, event.why
                self.reset.add(event.stream.id)
            case PingAcknowledged():
                self.pongs += 1
            case _:
                pass

    def they_heard(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                assert event.stream_id is not None
                stream = self.they.streams.get(event.stream_id)
                if stream is not None and not stream.closed:  # its reset may have come with it
                    self.they.send_headers(event.stream_id, list(OK))
            case h2.events.DataReceived():
                assert event.stream_id is not None
                assert event.data is not None
                self.ours.got[event.stream_id] += event.data
                self.their_untaken[event.stream_id] += event.flow_controlled_length or 0
            case h2.events.StreamEnded():
                assert event.stream_id is not None
                self.ours.got_end.add(event.stream_id)
            case h2.events.StreamReset():
                assert event.stream_id is not None
                self.reset.add(event.stream_id)
            case h2.events.PingAckReceived():
                self.pongs += 1
            case h2.events.ConnectionTerminated():
                raise AssertionError(f"h2 heard our GOAWAY: {event.additional_data!r}")
            case _:
                pass

    # -- the story --

    def pick(self, number: int) -> int | None:
        """One of the streams opened so far that nobody has reset."""
        alive = [stream_id for stream_id in self.ids if stream_id not in self.reset]
        return alive[number % len(alive)] if alive else None

    def play(self, step: tuple[Any, ...]) -> None:
        name, *arguments = step
        if name in {"open", "our ping", "their ping", "their window", "exchange"}:
            getattr(self, name.replace(" ", "_"))(*arguments)
            return
        stream_id = self.pick(arguments[0])
        if stream_id is not None:
            getattr(self, name.replace(" ", "_"))(stream_id, *arguments[1:])

    def open(self, settle: bool) -> None:
        if self.us.role is Role.CLIENT:
            stream = self.connection.open_stream(CONNECT, None)
            self.ids.append(stream.id)
            self.streams[stream.id] = stream
        else:
            stream_id = self.they.get_next_available_stream_id()
            self.they.send_headers(stream_id, list(CONNECT))
            self.ids.append(stream_id)
        if settle:
            self.exchange([])

    def content(self, n: int) -> bytes:
        self.payloads += 1
        return (b"%d," % self.payloads * n)[:n]

    def our_data(self, stream_id: int, size: int) -> None:
        stream = self.streams.get(stream_id)
        n = min(size, self.connection.sendable(stream)) if stream else 0
        if stream and n:
            content = self.content(n)
            self.us.send(stream, content)
            self.ours.sent[stream_id] += content

    def their_data(self, stream_id: int, size: int, padding: int | None) -> None:
        if not self.they_may_send(stream_id):
            return
        extra = 0 if padding is None else padding + 1
        n = min(size, self.they.local_flow_control_window(stream_id) - extra, self.they.max_outbound_frame_size - extra)
        if n > 0:
            content = self.content(n)
            self.they.send_data(stream_id, content, pad_length=padding)
            self.theirs.sent[stream_id] += content

    def they_may_send(self, stream_id: int) -> bool:
        """Has h2 opened (or answered) this stream, and not ended it?"""
        stream = self.they.streams.get(stream_id)
        if stream is None or stream.closed or stream_id in self.theirs.ended:
            return False
        return self.us.role is Role.SERVER or bool(stream.state_machine.headers_sent)

    def our_end(self, stream_id: int) -> None:
        # h2 refuses an empty DATA frame while its window is negative, which RFC 9113 §6.9.1 allows; so let the two
        # agree about the window first.
        self.exchange([])
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state is not StreamState.CLOSED and stream.send_window >= 0:
            self.connection.end(stream)
            self.ours.ended.add(stream_id)

    def our_trailers(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and stream.sending:
            self.connection.send_headers(stream, [(b"x", b"y")], end_stream=True)
            self.ours.ended.add(stream_id)

    def their_end(self, stream_id: int) -> None:
        if self.they_may_send(stream_id):
            self.they.end_stream(stream_id)
            self.theirs.ended.add(stream_id)

    def their_trailers(self, stream_id: int) -> None:
        if self.they_may_send(stream_id):
            self.they.send_headers(stream_id, [(b"x", b"y")], end_stream=True)
            self.theirs.ended.add(stream_id)

    def our_reset(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state is not StreamState.CLOSED:
            self.connection.reset(stream, code)
            self.reset.add(stream_id)

    def their_reset(self, stream_id: int, code: int) -> None:
        stream = self.they.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self.they.reset_stream(stream_id, code)
            self.reset.add(stream_id)

    def we_take(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.connection.consumed(stream, self.untaken.pop(stream_id, 0))

    def they_take(self, stream_id: int) -> None:
        size = self.their_untaken.pop(stream_id, 0)
        if size:
            self.they.acknowledge_received_data(size, stream_id)

    def our_ping(self) -> None:
        self.connection.ping(b"from us!")
        self.pings += 1

    def their_ping(self) -> None:
        self.they.ping(b"from h2!")
        self.pings += 1

    def their_window(self, window: int) -> None:
        self.they.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})

    def finish(self) -> None:
        """All that is open is taken, then ended from both sides."""
        self.their_window(200_000)  # more than is ever on its way: no window is negative then
        self.exchange([])
        for stream_id in self.ids:
            if stream_id in self.reset:
                continue
            self.we_take(stream_id)
            self.they_take(stream_id)
            self.our_end(stream_id)
            self.their_end(stream_id)
        self.exchange([])


def split(text: bytes, cuts: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    for size in cuts:
        if text:
            pieces.append(text[:size])
            text = text[size:]
    return [*pieces, text] if text else pieces


def check(pair: Pair) -> None:
    for stream_id in pair.ids:
        for ledger in (pair.ours, pair.theirs):
            if stream_id in pair.reset:
                assert ledger.sent[stream_id].startswith(ledger.got[stream_id])
            else:
                assert ledger.sent[stream_id] == ledger.got[stream_id]
                assert stream_id in ledger.got_end
    assert pair.pongs == pair.pings
    assert not pair.connection.streams
    assert pair.connection.last_error is None


@given(story=STORY, window=WINDOWS, frame=FRAMES)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_our_client_and_an_h2_server_carry_every_byte(story: list[Any], window: int, frame: int) -> None:
    run(Pair(Role.CLIENT, window, frame), story)


@given(story=STORY, window=WINDOWS, frame=FRAMES)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_our_server_and_an_h2_client_carry_every_byte(story: list[Any], window: int, frame: int) -> None:
    run(Pair(Role.SERVER, window, frame), story)


def run(pair: Pair, story: list[Any]) -> None:
    """Three streams are open when the story begins, all that are open end with it."""
    pair.exchange([])
    for _ in range(3):
        pair.open(settle=True)
    for step in story:
        pair.play(step)
    pair.finish()
    check(pair)
