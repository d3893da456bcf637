"""Laws of `Http2Connection.receive`: how bytes are cut makes no difference, and nothing makes it raise or grow."""

from collections import defaultdict
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from hbone.protocol.codes import ErrorCode
from hbone.protocol.limits import Limits
from hbone.protocol.outbox import CAPACITY_BYTES, MAX_SPILL_BYTES
from hbone.protocol.settings import LocalSettings, Role
from tests.support import h2frames as h2
from tests.support.h2frames import CONNECT, OK, PREFACE, Endpoint, Said, drain

IDS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 9])
FIELDS = st.sampled_from([CONNECT, CONNECT, CONNECT, OK, ((b"x", b"y"),), ((b":method", b"GET"),)])
PADDING = st.one_of(st.none(), st.integers(0, 255))
FRAME = st.one_of(
    st.builds(h2.headers, IDS, FIELDS, end=st.booleans(), padding=PADDING, parts=st.integers(1, 4)),
    st.builds(h2.data, IDS, st.binary(max_size=300), end=st.booleans(), padding=PADDING),
    st.builds(h2.data, IDS, st.binary(max_size=300), padding=PADDING),
    st.builds(h2.rst_stream, IDS, st.integers(0, 20)),
    st.builds(h2.window_update, IDS, st.integers(0, 2**31)),
    st.builds(h2.priority, IDS, st.binary(max_size=6)),
    st.builds(h2.ping, ack=st.booleans()),
    st.builds(h2.settings, st.dictionaries(st.integers(0, 9), st.integers(0, 2**20), max_size=3)),
    st.builds(h2.goaway, st.integers(0, 9), st.integers(0, 3), st.binary(max_size=9)),
    st.builds(h2.raw, st.integers(0, 255), st.integers(0, 255), IDS, st.binary(max_size=30)),
)
GOOD = st.one_of(
    st.builds(h2.data, st.sampled_from([1, 3]), st.binary(max_size=300), padding=PADDING),
    st.builds(h2.window_update, st.sampled_from([0, 1, 3]), st.integers(1, 1000)),
    st.builds(h2.ping),
    st.builds(h2.priority, IDS.filter(bool)),
)
CUTS = st.lists(st.integers(1, 60), max_size=60)


def opened(role: Role) -> Endpoint:
    """Streams 1 and 3 open both ways; small windows, so that they are reached."""
    endpoint = Endpoint(role, LocalSettings(initial_window_bytes=2000, connection_window_bytes=65_535))
    if role is Role.SERVER:
        endpoint.accept(1)
        endpoint.accept(3)
    else:
        for _ in range(2):
            endpoint.feed(h2.headers(endpoint.open().id, OK))
    endpoint.written()
    return endpoint


def by_stream(events: list[Said]) -> dict[object, list[Said]]:
    """The events of each stream in order, payload joined; how those of two streams interleave depends on the cuts."""
    told: dict[object, list[Said]] = defaultdict(list)
    for event in events:
        name = event[0]
        key = event[1] if name in {"headers", "data", "end", "reset", "trailers", "window", "refused"} else "connection"
        lines = told[key]
        if name == "data" and lines and lines[-1][0] == "data":
            joined: Any = lines[-1][2]
            lines[-1] = ("data", key, joined + event[2])
        else:
            lines.append(event)
    return dict(told)


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    cut: list[bytes] = []
    for size in cuts:
        cut.append(text[:size])
        text = text[size:]
    return [*cut, text]


@given(role=st.sampled_from(Role), frames=st.lists(st.one_of(FRAME, GOOD, GOOD), max_size=25), cuts=CUTS)
@settings(max_examples=200, deadline=None)
def test_any_cut_gives_the_same_events_and_the_same_answers(role: Role, frames: list[bytes], cuts: list[int]) -> None:
    text = b"".join(frames)
    whole, bytewise, cut = opened(role), opened(role), opened(role)
    expected = by_stream(whole.feed(text))
    answers = sorted(whole.written())
    assert by_stream(bytewise.feed_in_pieces(text[at : at + 1] for at in range(len(text)))) == expected
    assert sorted(bytewise.written()) == answers
    assert by_stream(cut.feed_in_pieces(pieces(text, cuts))) == expected
    assert sorted(cut.written()) == answers


@given(role=st.sampled_from(Role), text=st.binary(max_size=400), cuts=CUTS, greeted=st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_garbage_makes_it_raise(role: Role, text: bytes, cuts: list[int], greeted: bool) -> None:
    endpoint = opened(role) if greeted else Endpoint(role, greeted=False)
    events = endpoint.feed_in_pieces(pieces(text, cuts))
    failures = [event for event in events if event[0] == "failed"]
    assert len(failures) <= 1
    assert not failures or events[-1] is failures[0]


@given(role=st.sampled_from(Role), text=st.binary(max_size=100), frames=st.lists(FRAME, max_size=10))
@settings(max_examples=200, deadline=None)
def test_no_frame_makes_it_raise_and_a_failure_is_said_once(role: Role, text: bytes, frames: list[bytes]) -> None:
    endpoint = opened(role)
    events = endpoint.feed(*frames, h2.raw(1, 4, 5, text), *frames)
    failed = [event for event in events if event[0] == "failed"]
    goaways = [frame for frame in endpoint.written() if frame.name == "GOAWAY"]
    assert len(failed) == len(goaways) == (endpoint.connection.last_error is not None)
    for stream in endpoint.connection.streams.values():
        assert stream.recv_window >= 0


FLOODS = {
    "PING": h2.ping(),
    "SETTINGS": h2.settings({4: 70_000}),
    "empty DATA": h2.data(1),
    "PRIORITY": h2.priority(77),
    "unknown": h2.raw(0xFB, 0, 0, bytes(100)),
    "WINDOW_UPDATE": h2.window_update(1, 1),
    "RST_STREAM": h2.rst_stream(1),
    "CONTINUATION": h2.raw(1, 0, 5) + h2.raw(9, 0, 5) * 1000,
    "a header block without end": h2.raw(1, 0, 5, bytes(16_000)) + h2.raw(9, 0, 5, bytes(16_000)) * 100,
    "GOAWAY": h2.goaway(),
    "HEADERS for a closed stream": h2.headers(1),
}


def held(endpoint: Endpoint) -> int:
    """Bytes that the connection holds for its peer."""
    inside: Any = endpoint.connection
    return len(inside._residue) + len(inside._block or b"") + len(endpoint.outbox)


def test_no_flood_makes_the_connection_grow_and_each_ends_it() -> None:
    """The peer repeats one frame for ever and reads nothing."""
    for name, frame in FLOODS.items():
        endpoint = Endpoint()
        if name in {"empty DATA", "WINDOW_UPDATE", "RST_STREAM", "HEADERS for a closed stream"}:
            endpoint.feed(h2.headers(1))
        if name in {"RST_STREAM", "HEADERS for a closed stream"}:
            endpoint.connection.reset(endpoint.stream(), ErrorCode.CANCEL)
        most = 0
        for _ in range(30_000):
            if endpoint.connection.last_error is not None:
                break
            endpoint.feed(frame)
            most = max(most, held(endpoint))
        assert endpoint.connection.last_error is not None, name
        assert endpoint.connection.last_error.code is ErrorCode.ENHANCE_YOUR_CALM, name
        assert most <= CAPACITY_BYTES + MAX_SPILL_BYTES + Limits().header_block_bytes, name


def test_a_flood_of_requests_and_resets_ends_the_connection_and_leaves_no_stream() -> None:
    endpoint = Endpoint()
    for number in range(1, 20_000, 2):
        if endpoint.connection.last_error is not None:
            break
        endpoint.feed(h2.headers(number), h2.rst_stream(number))
        drain(endpoint.outbox)
    assert endpoint.connection.last_error is not None
    assert endpoint.connection.last_error.code is ErrorCode.ENHANCE_YOUR_CALM
    assert len(endpoint.connection.streams) <= 1


def test_streams_that_come_and_go_leave_nothing_behind() -> None:
    endpoint = Endpoint()
    for number in range(1, 4001, 2):
        stream = endpoint.accept(number)
        endpoint.feed(h2.data(number, b"x", end=True))
        endpoint.connection.end(stream)
        endpoint.written()
    assert endpoint.connection.last_error is None
    assert not endpoint.connection.streams


@given(st.binary(min_size=1, max_size=60).filter(lambda text: not PREFACE.startswith(text[: len(PREFACE)])))
def test_whatever_is_not_the_preface_is_refused_at_once(text: bytes) -> None:
    assert Endpoint(greeted=False).feed(text) == [("failed", ErrorCode.PROTOCOL_ERROR)]
