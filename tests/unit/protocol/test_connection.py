"""How bytes are taken: splits, partial frames, the fast path, failure."""

import pytest

from hbone.protocol.codes import ErrorCode
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import StreamState
from hbone.times import Instant
from tests.support import h2frames as h2
from tests.support.h2frames import CONNECT, OK, PREFACE, Endpoint, drain

E = ErrorCode


@pytest.fixture
def server() -> Endpoint:
    return Endpoint()


# -- the beginning --


def test_a_server_waits_for_the_preface_and_settings() -> None:
    server = Endpoint(greeted=False)
    assert server.feed(PREFACE[:10]) == []
    assert server.feed(PREFACE[10:] + h2.settings()[:4]) == []
    assert server.feed(h2.settings()[4:]) == [("settings", {})]


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1", PREFACE[:-1] + b"\0", b"\x16\x03\x01"])
def test_a_server_refuses_what_is_not_http2(text: bytes) -> None:
    server = Endpoint(greeted=False)
    assert server.feed(text) == [("failed", E.PROTOCOL_ERROR)]  # §3.4
    assert "no connection preface" in str(server.connection.last_error)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(
    "frame", [h2.ping(), h2.headers(1), h2.data(1, b"x"), h2.settings_ack(), h2.raw(0xB), h2.goaway()]
)
def test_the_first_frame_must_be_settings(role: Role, frame: bytes) -> None:
    endpoint = Endpoint(role, greeted=False)
    preface = PREFACE if role is Role.SERVER else b""
    assert endpoint.feed(preface, frame) == [("failed", E.PROTOCOL_ERROR)]  # §3.4


# -- DATA --


def test_the_chunks_of_one_call_come_with_one_event(server: Endpoint) -> None:
    server.accept(1)
    server.accept(3)
    events = server.feed(h2.data(1, b"a"), h2.data(3, b"b"), h2.data(1, b"c"), h2.data(1, b"d", end=True))
    assert events == [("data", 1, b"acd"), ("data", 3, b"b"), ("end", 1)]


def test_chunks_look_into_the_given_bytes_and_do_not_pile_up(server: Endpoint) -> None:
    stream = server.accept()
    text = bytearray(h2.data(1, b"hello"))
    server.connection.receive(memoryview(text), Instant(0))
    text[9:14] = b"HELLO"
    assert [bytes(chunk) for chunk in stream.chunks] == [b"HELLO"]
    assert server.feed(h2.data(1, b"next")) == [("data", 1, b"next")]  # though nobody emptied the list


def test_an_unfinished_data_frame_is_handed_on_as_it_comes(server: Endpoint) -> None:
    server.accept()
    text = h2.data(1, b"0123456789", end=True) + h2.ping()
    assert server.feed(text[:9]) == []
    assert server.feed(text[9:13]) == [("data", 1, b"0123")]
    assert server.feed(text[13:14]) == [("data", 1, b"4")]
    assert server.feed(text[14:]) == [("data", 1, b"56789"), ("end", 1)]
    assert [frame.name for frame in server.written()] == ["PING"]


def test_a_header_cut_anywhere_makes_no_difference() -> None:
    text = h2.data(1, b"hello", padding=3, end=True)
    for cut in range(len(text)):
        server = Endpoint()
        server.accept()
        events = server.feed(text[:cut]) + server.feed(text[cut:])
        assert b"".join(event[2] for event in events if event[0] == "data") == b"hello"  # type: ignore[misc] # bytes
        assert events[-1] == ("end", 1)


def test_an_empty_data_frame_brings_no_chunk(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.data(1)) == []
    assert server.feed(h2.data(1, end=True)) == [("end", 1)]


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding_counts_for_flow_control_and_is_credited_by_us(padding: int) -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=1000))
    stream = server.accept()
    assert server.feed(h2.data(1, b"abc", padding=padding)) == [("data", 1, b"abc")]
    assert stream.recv_window == 1000 - 3 - 1 - padding  # §6.9.1
    assert stream.uncredited == 1 + padding
    server.connection.consumed(stream, 3)
    assert stream.recv_window + stream.uncredited == 1000


def test_padded_frames_of_one_call_come_with_one_event(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.data(1, b"a", padding=1), h2.data(1, b"b", padding=2)) == [("data", 1, b"ab")]


def test_a_stream_of_nothing_but_padding_does_not_stall() -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=1000))
    server.accept()
    for _ in range(50):
        assert server.feed(h2.data(1, b"", padding=200)) == []
    assert [frame.code for frame in server.written() if frame.stream_id == 1] == [603] * 16


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (h2.raw(0, 8, 1), E.FRAME_SIZE_ERROR),
        (h2.raw(0, 8, 1, b"\x01"), E.PROTOCOL_ERROR),  # §6.1: padding as long as the payload, or longer
        (h2.raw(0, 8, 1, b"\x05abcd"), E.PROTOCOL_ERROR),
        (h2.raw(0, 0, 0, b"x"), E.PROTOCOL_ERROR),
        (h2.raw(0, 0, 3, b"x"), E.PROTOCOL_ERROR),
        (h2.raw(0, 0, 1, b"", length=2**20 + 1), E.FRAME_SIZE_ERROR),
        (h2.raw(0x77, 0, 1, b"", length=2**24 - 1), E.FRAME_SIZE_ERROR),
    ],
)
def test_broken_data_ends_the_connection(server: Endpoint, frame: bytes, code: ErrorCode) -> None:
    server.accept()
    assert server.feed(frame) == [("failed", code)]


def test_the_largest_frame_that_we_announce_is_taken(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.data(1, bytes(2**20))) == [("data", 1, bytes(2**20))]


def test_the_reserved_bit_of_a_stream_number_is_ignored(server: Endpoint) -> None:
    server.accept()
    text = bytearray(h2.data(1, b"x"))
    text[5] |= 0x80  # §4.1
    assert server.feed(bytes(text)) == [("data", 1, b"x")]


def test_data_for_a_closed_stream_is_dropped_and_credited_to_the_connection() -> None:
    server = Endpoint(settings=LocalSettings(connection_window_bytes=100_000))
    stream = server.accept()
    server.connection.reset(stream, E.CANCEL)
    server.written()
    assert server.feed(h2.data(1, bytes(20_000)), h2.data(1, bytes(5000), padding=9, end=True)) == []
    update = server.written()[0]
    assert (update.name, update.stream_id, update.code) == ("WINDOW_UPDATE", 0, 25_010)


def test_a_stream_reset_amid_a_frame_gets_nothing_more(server: Endpoint) -> None:
    stream = server.accept()
    text = h2.data(1, b"0123456789", end=True)
    server.feed(text[:12])
    server.connection.reset(stream, E.CANCEL)
    server.written()
    assert server.feed(text[12:], h2.headers(3)) == [("headers", 3, CONNECT, False)]


def test_the_connections_credit_comes_at_a_quarter_of_its_window() -> None:
    server = Endpoint(settings=LocalSettings(connection_window_bytes=400_000))
    server.accept()
    server.feed(h2.data(1, bytes(99_999)))
    assert server.written() == []
    server.feed(h2.data(1, b"x"))
    assert [(frame.stream_id, frame.code) for frame in server.written()] == [(0, 100_000)]


def test_data_out_of_turn_resets_its_stream(server: Endpoint) -> None:
    server.accept()
    server.feed(h2.data(1, end=True))
    assert server.feed(h2.data(1, b"x")) == [("reset", 1, E.STREAM_CLOSED, "by us")]  # §5.1 "half-closed (remote)"
    client = Endpoint(Role.CLIENT)
    client.open()
    assert client.feed(h2.data(1, b"x")) == [("reset", 1, E.PROTOCOL_ERROR, "by us")]  # §8.1: no HEADERS before it


@pytest.mark.parametrize("padding", [None, 1])
def test_data_beyond_a_streams_window_resets_it(padding: int | None) -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=1000))
    server.accept()
    frame = h2.data(1, bytes(1001), padding=padding)
    assert server.feed(frame) == [("reset", 1, E.FLOW_CONTROL_ERROR, "by us")]  # §6.9.1
    assert server.feed(h2.ping()) == []
    assert server.written()[-1].name == "PING"


@pytest.mark.parametrize("padding", [None, 1])
def test_data_beyond_the_connections_window_ends_it(padding: int | None) -> None:
    server = Endpoint(settings=LocalSettings(connection_window_bytes=65_535))
    server.accept()
    frame = h2.data(1, bytes(65_536), padding=padding)
    assert server.feed(frame) == [("failed", E.FLOW_CONTROL_ERROR)]


def test_one_slow_stream_does_not_stop_its_siblings() -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=100_000, connection_window_bytes=400_000))
    slow, fast = server.accept(1), server.accept(3)
    server.feed(h2.data(1, bytes(100_000)))  # nobody takes it: its window stays shut
    for _ in range(100):
        assert server.feed(h2.data(3, bytes(50_000))) == [("data", 3, bytes(50_000))]
        server.connection.consumed(fast, 50_000)
        server.written()
    assert slow.recv_window == 0


# -- other frames in pieces --


def test_control_frames_are_completed_from_any_pieces(server: Endpoint) -> None:
    text = h2.ping(b"12345678") + h2.headers(1, parts=2) + h2.settings({4: 9})
    events = server.feed_in_pieces(text[at : at + 1] for at in range(len(text)))
    assert events == [("headers", 1, CONNECT, False), ("settings", {4: 9})]
    assert [frame.name for frame in server.written()] == ["PING", "SETTINGS"]


def test_frames_without_meaning_are_skipped_as_they_come(server: Endpoint) -> None:
    text = h2.raw(0xB, 0xFF, 1, bytes(100)) + h2.priority(1) + h2.raw(0xB) + h2.ping()
    for cut in range(len(text)):
        endpoint = Endpoint()
        assert endpoint.feed(text[:cut]) == endpoint.feed(text[cut:]) == []
        assert [frame.name for frame in endpoint.written()] == ["PING"]


def test_a_frame_that_will_be_refused_is_refused_by_its_header(server: Endpoint) -> None:
    assert server.feed(h2.ping()[:9].replace(b"\x08\x06", b"\x07\x06")) == [("failed", E.FRAME_SIZE_ERROR)]


def test_an_unfinished_frame_holds_no_more_than_its_bytes(server: Endpoint) -> None:
    server.accept()
    server.feed(h2.data(1, bytes(1000))[:500])
    assert len(server.connection._residue) == 0  # pyright: ignore[reportPrivateUsage] - DATA leaves integers only


# -- failure --


def test_a_failure_says_goaway_and_is_the_last_event(server: Endpoint) -> None:
    server.accept(5)
    events = server.feed(h2.data(5, b"before"), h2.raw(6, 0, 1, bytes(8)), h2.data(5, b"after"))
    assert events == [("data", 5, b"before"), ("failed", E.PROTOCOL_ERROR)]
    goaway = server.written()[-1]
    assert (goaway.name, goaway.payload[:4], goaway.code) == ("GOAWAY", b"\0\0\0\x05", E.PROTOCOL_ERROR)
    assert goaway.payload[8:] == b"PING on stream 1"
    assert server.feed(h2.ping()) == []
    assert server.written() == []
    assert server.connection.last_error is not None


def test_a_peer_that_asks_and_does_not_read_ends_the_connection() -> None:
    server = Endpoint(spill_bytes=100)
    stream = server.accept()
    server.feed(h2.window_update(0, 2**20), h2.window_update(1, 2**20))
    server.outbox.reserve(2**20)
    server.outbox.commit(stream.id, 320 * 1024 - 4096 - 9 - server.outbox._tail)  # pyright: ignore[reportPrivateUsage]
    events = [event for _ in range(1000) for event in server.feed(h2.settings())]
    assert events[-1] == ("failed", E.ENHANCE_YOUR_CALM)


def test_a_full_outbox_is_no_obstacle_to_failing() -> None:
    server = Endpoint(spill_bytes=0)
    server.outbox.append(bytes(320 * 1024))
    assert server.feed(h2.ping()) == [("failed", E.ENHANCE_YOUR_CALM)]
    assert len(drain(server.outbox)) == 320 * 1024


def test_a_finished_call_keeps_no_event(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    server.connection.send_headers(server.stream(), OK, end_stream=False)
    assert server.stream().state is StreamState.OPEN
    assert server.connection._events == []  # pyright: ignore[reportPrivateUsage] - nor, by it, any payload
