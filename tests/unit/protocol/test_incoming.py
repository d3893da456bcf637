"""What each frame from the peer means: scripts of frames in, events and frames out."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from hbone.protocol.codes import ErrorCode
from hbone.protocol.limits import LARGE_HEADER_BYTES, Limits, Rate
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import StreamState
from tests.support import h2frames as h2
from tests.support.h2frames import CONNECT, OK, Endpoint, Fields, drain

E = ErrorCode


@pytest.fixture
def client() -> Endpoint:
    return Endpoint(Role.CLIENT, LocalSettings.for_client())


@pytest.fixture
def server() -> Endpoint:
    return Endpoint()


def failure(code: ErrorCode) -> list[tuple[str, ErrorCode]]:
    return [("failed", code)]


# -- by a frame's header alone --


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (h2.raw(0x77, 0, 1, b"", length=2**20 + 1), E.FRAME_SIZE_ERROR),  # RFC 9113 §4.2
        (h2.push_promise(1), E.PROTOCOL_ERROR),  # §8.4
        (h2.headers(2), E.PROTOCOL_ERROR),  # §5.1.1: of the server's number space
        (h2.rst_stream(9), E.PROTOCOL_ERROR),  # idle
    ],
)
def test_what_is_refused_whatever_it_holds(server: Endpoint, frame: bytes, code: ErrorCode) -> None:
    assert server.feed(frame) == failure(code)


def test_before_settings_nothing_else_is_taken(client: Endpoint) -> None:
    early = Endpoint(Role.CLIENT, greeted=False)
    assert early.feed(h2.ping()) == failure(E.PROTOCOL_ERROR)  # §3.4
    assert client.feed(h2.ping()) == []


# -- HEADERS: §6.2, §8 --


@pytest.mark.parametrize(
    "frame",
    [
        h2.headers(1),
        h2.headers(1, padding=0),
        h2.headers(1, padding=255),
        h2.headers(1, priority=b"\x80\0\0\0\x10"),
        h2.headers(1, priority=b"\0\0\0\x01\x10"),  # depends on itself: deprecated with the rest of priorities (§5.3)
        h2.headers(1, padding=7, priority=b"\0\0\0\0\x10"),
        h2.headers(1, parts=2),
        h2.headers(1, parts=9, padding=3, priority=b"\0\0\0\0\x10"),
    ],
)
def test_a_request_is_read_however_it_is_wrapped(server: Endpoint, frame: bytes) -> None:
    assert server.feed(frame) == [("headers", 1, CONNECT, False)]
    assert server.stream().state is StreamState.OPEN


def test_a_request_may_end_its_half_at_once(server: Endpoint) -> None:
    assert server.feed(h2.headers(1, end=True)) == [("headers", 1, CONNECT, True)]
    assert server.stream().state is StreamState.HALF_CLOSED_REMOTE


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (h2.raw(1, 4 | 8, 1), E.FRAME_SIZE_ERROR),  # no room for the padding's length
        (h2.raw(1, 4 | 0x20, 1, b"1234"), E.FRAME_SIZE_ERROR),  # none for the priority
        (h2.raw(1, 4 | 8 | 0x20, 1, b"\x0012345"), E.COMPRESSION_ERROR),  # exactly enough, and an empty block...
        (h2.raw(1, 4 | 8, 1, b"\x05abc"), E.PROTOCOL_ERROR),  # more padding than payload (§6.2)
        (h2.raw(1, 4 | 8 | 0x20, 1, b"\x0112345"), E.PROTOCOL_ERROR),
        (h2.raw(1, 4, 1, b"\x80"), E.COMPRESSION_ERROR),
    ],
)
def test_broken_headers_end_the_connection(server: Endpoint, frame: bytes, code: ErrorCode) -> None:
    if code is E.COMPRESSION_ERROR and frame[9:10] == b"\0":  # ... which is a request without a method
        assert server.feed(frame) == [("refused", 1, E.PROTOCOL_ERROR)]
    else:
        assert server.feed(frame) == failure(code)


@pytest.mark.parametrize(
    "fields",
    [
        ((b":method", b"CONNECT"),),
        (*CONNECT, (b":scheme", b"https")),
        (*CONNECT, (b":path", b"/")),
        (*CONNECT, (b":protocol", b"connect-tcp"), (b":scheme", b"https"), (b":path", b"/")),
        (*CONNECT, (b"Upper", b"x")),
        (*CONNECT, (b":authority", b"x:1")),
        (*CONNECT, (b"te", b"gzip")),
        (*CONNECT, (b"connection", b"close")),
        ((b"x", b"y"), *CONNECT),
    ],
)
def test_a_malformed_request_is_reset_and_the_connection_lives(server: Endpoint, fields: Fields) -> None:
    assert server.feed(h2.headers(1, fields)) == [("refused", 1, E.PROTOCOL_ERROR)]  # §8.1.1
    assert drain(server.outbox) == h2.rst_stream(1, 1)
    assert server.feed(h2.data(1, b"dropped"), h2.headers(3)) == [("headers", 3, CONNECT, False)]


@pytest.mark.parametrize(
    "fields",
    [
        ((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")),
        ((b":method", b"CONNECT"), (b":authority", b"no port")),
    ],
)
def test_what_the_node_must_answer_with_400_is_passed_on(server: Endpoint, fields: Fields) -> None:
    assert server.feed(h2.headers(1, fields)) == [("headers", 1, fields, False)]


def test_a_header_list_beyond_what_we_announced_is_answered_431_and_the_connection_lives() -> None:
    server = Endpoint(settings=LocalSettings(max_header_list_bytes=1024))
    assert server.feed(h2.headers(1, (*CONNECT, (b"x", b"v" * 2000)))) == [("refused", 1, E.ENHANCE_YOUR_CALM)]
    answer, stop = server.written()
    assert (answer.name, answer.flags, answer.payload) == ("HEADERS", 5, b"\x08\x03431")
    assert (stop.name, stop.code) == ("RST_STREAM", 0)
    assert server.feed(h2.headers(3))[0][0] == "headers"


def test_a_header_list_beyond_the_hard_limit_ends_the_connection() -> None:
    server = Endpoint(settings=LocalSettings(max_header_list_bytes=1024))
    assert server.feed(h2.headers(1, (*CONNECT, (b"x", b"v" * 5000)))) == failure(E.ENHANCE_YOUR_CALM)


def test_streams_beyond_our_limit_are_refused_one_by_one() -> None:
    server = Endpoint(settings=LocalSettings(max_concurrent_streams=2))
    assert [event[0] for event in server.feed(*(h2.headers(n) for n in (1, 3, 5, 7)))] == [
        "headers",
        "headers",
        "refused",
        "refused",
    ]
    assert drain(server.outbox) == h2.rst_stream(5, 7) + h2.rst_stream(7, 7)  # §5.1.2: REFUSED_STREAM, safe to retry
    server.feed(h2.rst_stream(1))
    assert server.feed(h2.headers(9))[0][0] == "headers"


def test_without_a_limit_any_number_of_streams_is_taken() -> None:
    server = Endpoint(settings=LocalSettings(max_concurrent_streams=None))
    assert len(server.feed(*(h2.headers(n) for n in range(1, 1001, 2)))) == 500


def test_a_stream_number_that_goes_back_is_a_closed_stream(server: Endpoint) -> None:
    server.feed(h2.headers(5))
    assert server.feed(h2.headers(3)) == []  # §5.1.1: numbers that were skipped are closed
    assert drain(server.outbox) == h2.rst_stream(3, 5)


def test_after_our_last_word_new_streams_are_refused(server: Endpoint) -> None:
    server.connection.go_away(0)
    assert server.feed(h2.headers(1)) == [("refused", 1, E.REFUSED_STREAM)]  # §6.8


# -- responses and trailers --


def test_a_response_is_reported_with_unknown_headers(client: Endpoint) -> None:
    client.open()
    fields = (*OK, (b"date", b"now"), (b"server", b"envoy"))
    assert client.feed(h2.headers(1, fields)) == [("headers", 1, fields, False)]


def test_a_response_may_end_the_stream(client: Endpoint) -> None:
    stream = client.open()
    assert client.feed(h2.headers(1, OK, end=True)) == [("headers", 1, OK, True)]
    assert stream.state is StreamState.HALF_CLOSED_REMOTE
    client.connection.end(stream)
    assert not client.connection.streams


def test_a_response_with_end_stream_to_a_request_that_ended_closes_it(client: Endpoint) -> None:
    client.connection.end(client.open())
    client.feed(h2.headers(1, OK, end=True))
    assert not client.connection.streams


def test_an_interim_response_is_passed_over(client: Endpoint) -> None:
    client.open()
    assert client.feed(h2.headers(1, ((b":status", b"103"),))) == []
    assert client.feed(h2.headers(1, OK)) == [("headers", 1, OK, False)]


@pytest.mark.parametrize(
    "frame",
    [
        h2.headers(1, ((b":status", b"100"),), end=True),
        h2.headers(1, ((b":status", b"101"),)),
        h2.headers(1, ((b"x", b"y"),)),
        h2.headers(1, CONNECT),
        h2.data(1, b"before the response"),
    ],
)
def test_a_malformed_response_resets_its_stream(client: Endpoint, frame: bytes) -> None:
    client.open()
    assert client.feed(frame) == [("reset", 1, E.PROTOCOL_ERROR, "by us")]
    assert drain(client.outbox) == h2.rst_stream(1, 1)


@pytest.mark.parametrize("role", Role)
def test_trailers_end_the_stream(role: Role) -> None:
    endpoint = Endpoint(role)
    if role is Role.SERVER:
        endpoint.accept()
    else:
        endpoint.open()
        endpoint.feed(h2.headers(1, OK))
    fields = ((b"x", b"y"),)
    assert endpoint.feed(h2.headers(1, fields, end=True)) == [("trailers", 1, fields), ("end", 1)]
    assert endpoint.stream().state is StreamState.HALF_CLOSED_REMOTE


@pytest.mark.parametrize("frame", [h2.headers(1), h2.headers(1, CONNECT, end=True)])
def test_malformed_trailers_reset_the_stream(server: Endpoint, frame: bytes) -> None:
    server.accept()
    assert server.feed(frame) == [("reset", 1, E.PROTOCOL_ERROR, "by us")]  # §8.1


def test_oversized_trailers_reset_the_stream() -> None:
    server = Endpoint(settings=LocalSettings(max_header_list_bytes=1024))
    server.accept()
    frame = h2.headers(1, ((b"x", b"v" * 2000),), end=True)
    assert server.feed(frame) == [("reset", 1, E.ENHANCE_YOUR_CALM, "by us")]


# -- CONTINUATION: §6.10 --


def test_nothing_may_come_amid_a_header_block(server: Endpoint) -> None:
    start = h2.raw(1, 0, 1, b"\x88")
    for frame in (h2.ping(), h2.raw(9, 4, 3), h2.raw(0x40, 0, 1), h2.data(1), h2.headers(1)):
        endpoint = Endpoint()
        assert endpoint.feed(start, frame) == failure(E.PROTOCOL_ERROR)


def test_continuation_needs_headers_before_it(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.raw(9, 4, 1)) == failure(E.PROTOCOL_ERROR)


def test_continuation_frames_are_limited_in_number() -> None:
    server = Endpoint(limits=Limits(continuations=3))
    start = h2.raw(1, 0, 1, h2.block(CONNECT))
    empty = h2.raw(9, 0, 1)
    assert server.feed(start, empty, empty, h2.raw(9, 4, 1)) == [("headers", 1, CONNECT, False)]
    assert server.feed(h2.raw(1, 0, 3), empty.replace(b"\x01", b"\x03"), h2.raw(9, 0, 3)) == []  # two
    assert server.feed(h2.raw(9, 0, 3), h2.raw(9, 0, 3)) == failure(E.ENHANCE_YOUR_CALM)


def test_a_header_block_is_limited_in_bytes_before_they_come() -> None:
    server = Endpoint(limits=Limits(header_block_bytes=100))
    assert server.feed(h2.raw(1, 4, 1, b"", length=101)) == failure(E.ENHANCE_YOUR_CALM)
    server = Endpoint(limits=Limits(header_block_bytes=100))
    assert server.feed(h2.raw(1, 0, 1, bytes(60)), h2.raw(9, 0, 1, b"", length=41)) == failure(E.ENHANCE_YOUR_CALM)


def test_large_header_blocks_are_limited_in_number() -> None:
    server = Endpoint(limits=Limits(large_headers=Rate(burst=2, per_s=1)))
    large = h2.raw(1, 4, 1, h2.block((*CONNECT, (b"x", bytes(range(128, 256)) * 100))))
    assert len(large) > LARGE_HEADER_BYTES

    def opens(stream_id: int, frame: bytes) -> str:
        server.written()
        return str(server.feed(frame[:5] + stream_id.to_bytes(4, "big") + frame[9:])[-1][0])

    assert [opens(1, large), opens(3, large)] == ["headers", "headers"]
    assert opens(5, h2.headers(5)) == "headers"
    server.now += 1
    assert opens(7, large) == "headers"
    assert opens(9, large) == "failed"


# -- RST_STREAM: §6.4 --


def test_a_reset_by_the_peer_is_reported_with_its_code(server: Endpoint) -> None:
    stream = server.accept()
    assert server.feed(h2.rst_stream(1, 0x1234)) == [("reset", 1, 0x1234, "by peer")]
    assert stream.state is StreamState.CLOSED
    assert server.written() == []


def test_no_error_after_the_peers_end_means_stop_sending(client: Endpoint) -> None:
    client.open()
    events = client.feed(h2.headers(1, OK), h2.data(1, b"all", end=True), h2.rst_stream(1, 0))
    assert events[1:] == [("data", 1, b"all"), ("end", 1), ("reset", 1, 0, "by peer")]


def test_what_is_for_a_closed_stream_changes_nothing(server: Endpoint) -> None:
    server.connection.reset(server.accept(), E.CANCEL)
    server.written()
    assert server.feed(h2.rst_stream(1), h2.window_update(1, 1), h2.window_update(1, 0)) == []
    assert server.written() == []


def test_headers_after_the_end_reset_the_stream(server: Endpoint) -> None:
    server.accept()
    server.feed(h2.data(1, end=True))
    assert server.feed(h2.headers(1)) == [("reset", 1, E.STREAM_CLOSED, "by us")]  # §5.1 "half-closed (remote)"


def test_rapid_resets_of_unanswered_requests_end_the_connection() -> None:
    server = Endpoint(limits=Limits(early_resets=Rate(burst=3, per_s=0)))
    for stream_id in (1, 3, 5):
        server.feed(h2.headers(stream_id), h2.rst_stream(stream_id))
    server.accept(7)
    assert server.feed(h2.rst_stream(7)) == [("reset", 7, 8, "by peer")]  # answered: does not count
    assert server.feed(h2.headers(9), h2.rst_stream(9))[-1] == ("failed", E.ENHANCE_YOUR_CALM)


# -- SETTINGS: §6.5 --


def test_settings_are_acknowledged_and_reported(server: Endpoint) -> None:
    assert server.feed(h2.settings({4: 1, 5: 20_000, 99: 7})) == [("settings", {4: 1, 5: 20_000, 99: 7})]
    assert drain(server.outbox) == h2.settings_ack()
    assert server.connection.frame_bytes == 20_000


def test_the_end_of_a_stream_fits_into_a_window_below_zero() -> None:
    """§6.9: an empty frame with END_STREAM needs no window, and ours may be below zero by our own SETTINGS (§6.9.2)."""
    server = Endpoint(settings=LocalSettings(initial_window_bytes=1024), greeted=False)
    server.feed(h2.PREFACE, h2.settings())
    stream = server.accept()
    server.feed(h2.data(1, bytes(16_000)), h2.settings_ack())
    assert stream.recv_window < 0
    assert server.feed(h2.data(1, end=True)) == [("end", 1)]


@pytest.mark.parametrize(
    ("number", "wrong", "right", "code"),
    [(2, 2, 0, E.PROTOCOL_ERROR), (4, 2**31, 1, E.FLOW_CONTROL_ERROR), (5, 1, 16_384, E.PROTOCOL_ERROR)],
)
def test_a_wrong_value_is_not_excused_by_a_right_one_behind_it(number: int, wrong: int, right: int, code: E) -> None:
    """§6.5.3: the values are processed in the order in which they appear."""
    server = Endpoint()
    both = struct.pack(">HLHL", number, wrong, number, right)
    assert server.feed(h2.raw(4, 0, 0, both)) == failure(code)


def test_the_smallest_of_several_table_sizes_is_answered() -> None:
    """RFC 7541 §4.2: the encoder says that it went down to it, whatever it may do since."""
    server = Endpoint()
    server.feed(h2.raw(4, 0, 0, struct.pack(">HLHL", 1, 0, 1, 4096)), h2.headers(1))
    server.written()
    server.connection.send_headers(server.stream(), OK, end_stream=False)
    assert server.written()[0].payload.startswith(b"\x20")


def test_a_changed_initial_window_moves_those_of_open_streams(server: Endpoint) -> None:
    stream = server.accept()
    server.send(stream, bytes(1000))
    server.feed(h2.settings({4: 500}))
    assert stream.send_window == -500  # §6.9.2: may turn negative
    assert server.connection.sendable(stream) == 0
    assert server.feed(h2.window_update(1, 500)) == []
    assert server.feed(h2.window_update(1, 1)) == [("window", 1)]
    assert server.connection.sendable(stream) == 1
    assert server.feed(h2.settings({4: 400}), h2.settings({4: 1000}))[-1] == ("window", 1)


def test_a_window_that_opens_on_a_half_that_has_ended_is_not_news(server: Endpoint) -> None:
    stream = server.accept()
    server.feed(h2.settings({4: 0}))
    server.connection.end(stream)
    assert server.feed(h2.window_update(1, 1)) == []


def test_an_initial_window_that_lifts_a_stream_too_high_ends_the_connection(server: Endpoint) -> None:
    server.accept()
    server.feed(h2.window_update(1, 2**31 - 1 - 65_535))
    assert server.feed(h2.settings({4: 65_536}))[-1:] == failure(E.FLOW_CONTROL_ERROR)


def test_a_smaller_header_table_is_answered_in_the_next_block(server: Endpoint) -> None:
    server.feed(h2.headers(1), h2.settings({1: 0}))
    server.written()
    server.connection.send_headers(server.stream(), OK, end_stream=False)
    assert server.written()[0].payload == b"\x20\x88"


def test_our_settings_are_acknowledged_once() -> None:
    endpoint = Endpoint(greeted=False)
    assert endpoint.feed(h2.PREFACE, h2.settings(), h2.settings_ack())[-1] == ("settings acknowledged",)
    assert endpoint.feed(h2.settings_ack()) == failure(E.PROTOCOL_ERROR)


def test_until_it_acknowledges_a_small_window_the_peer_may_use_the_default_one() -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=100), greeted=False)
    early = server.feed(h2.PREFACE, h2.settings(), h2.headers(1), h2.data(1, bytes(60_000)))
    assert early[-1][0] == "data"  # it cannot know yet (§6.5.3)
    server.connection.consumed(server.stream(), 60_000)
    server.feed(h2.settings_ack())
    assert server.stream().recv_window == 100
    server.feed(h2.headers(3))
    assert server.stream(3).recv_window == 100


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (h2.raw(4, 0, 0, bytes(5)), E.FRAME_SIZE_ERROR),
        (h2.raw(4, 1, 0, bytes(6)), E.FRAME_SIZE_ERROR),
        (h2.raw(4, 0, 1), E.PROTOCOL_ERROR),
        (h2.settings({2: 2}), E.PROTOCOL_ERROR),
        (h2.settings({4: 2**31}), E.FLOW_CONTROL_ERROR),
        (h2.raw(4, 0, 0, bytes(6 * 65)), E.ENHANCE_YOUR_CALM),
    ],
)
def test_broken_settings_end_the_connection(server: Endpoint, frame: bytes, code: ErrorCode) -> None:
    assert server.feed(frame) == failure(code)
    assert server.written()[-1].code == code


# -- PING, GOAWAY, WINDOW_UPDATE: §6.7 to §6.9 --


def test_a_ping_is_answered_and_an_answer_reported(server: Endpoint) -> None:
    assert server.feed(h2.ping(b"12345678")) == []
    assert drain(server.outbox) == h2.ping(b"12345678", ack=True)
    assert server.feed(h2.ping(b"abcdefgh", ack=True)) == [("pong", b"abcdefgh")]
    assert server.written() == []


def test_goaway_ends_what_the_peer_did_not_take(client: Endpoint) -> None:
    first, second = client.open(), client.open()
    assert client.feed(h2.goaway(1, 2, b"why")) == [
        ("goaway", 1, 2, b"why"),
        ("reset", 3, E.REFUSED_STREAM, "by peer"),
    ]
    assert client.connection.peer_going_away
    assert first.state is StreamState.OPEN
    assert second.state is StreamState.CLOSED
    assert client.feed(h2.headers(1, OK)) == [("headers", 1, OK, False)]


def test_both_steps_of_a_graceful_goaway_are_reported(client: Endpoint) -> None:
    client.open()
    assert client.feed(h2.goaway(2**31 - 1), h2.goaway(1)) == [("goaway", 2**31 - 1, 0, b""), ("goaway", 1, 0, b"")]
    assert client.stream().state is StreamState.OPEN


def test_a_clients_goaway_does_not_touch_its_own_streams(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.goaway(0)) == [("goaway", 0, 0, b"")]
    assert server.connection.streams


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (h2.raw(7, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
        (h2.raw(7, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
        (h2.raw(7, 0, 0, b"", length=20_000), E.ENHANCE_YOUR_CALM),
        (h2.raw(6, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
        (h2.raw(6, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
        (h2.raw(8, 0, 0, bytes(3)), E.FRAME_SIZE_ERROR),
        (h2.window_update(0, 0), E.PROTOCOL_ERROR),
        (h2.window_update(0, 2**31 - 1), E.FLOW_CONTROL_ERROR),
        (h2.raw(3, 0, 1, bytes(5)), E.FRAME_SIZE_ERROR),
    ],
)
def test_broken_control_frames_end_the_connection(server: Endpoint, frame: bytes, code: ErrorCode) -> None:
    assert server.feed(frame) == failure(code)


def test_the_connections_window_is_reported_when_it_opens(client: Endpoint) -> None:
    client.feed(h2.settings({4: 2**20}))
    stream = client.open()
    client.send(stream, bytes(65_535))
    assert client.feed(h2.window_update(0, 1)) == [("window", None)]
    assert client.feed(h2.window_update(0, 1)) == []


@pytest.mark.parametrize(
    ("increment", "code"), [(0, E.PROTOCOL_ERROR), (2**31, E.PROTOCOL_ERROR), (2**31 - 1, E.FLOW_CONTROL_ERROR)]
)
def test_a_wrong_increment_resets_its_stream(server: Endpoint, increment: int, code: ErrorCode) -> None:
    server.accept()
    assert server.feed(h2.window_update(1, increment)) == [("reset", 1, code, "by us")]  # §6.9, §6.9.1
    assert drain(server.outbox) == h2.rst_stream(1, code)


# -- PRIORITY and unknown types: §5.3, §5.5, §6.3 --


@pytest.mark.parametrize("stream_id", [1, 2, 3, 99])
def test_priority_means_nothing_on_any_stream(server: Endpoint, stream_id: int) -> None:
    server.accept()
    assert server.feed(h2.priority(stream_id)) == []
    assert server.written() == []


def test_a_priority_of_the_wrong_size_resets_its_stream_and_is_skipped(server: Endpoint) -> None:
    server.accept()
    assert server.feed(h2.priority(1, bytes(6)), h2.ping()) == [("reset", 1, E.FRAME_SIZE_ERROR, "by us")]
    assert server.feed(h2.priority(1, bytes(4)), h2.priority(9, b"")) == []
    assert [frame.name for frame in server.written()] == ["RST_STREAM", "PING"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_unknown_frames_are_skipped_whatever_they_hold(server: Endpoint, pieces: int) -> None:
    server.accept()
    text = h2.raw(0xB, 0xFF, 0, bytes(1000)) + h2.raw(0xFE, 0, 77, b"x") + h2.raw(0xFE, 0, 1) + h2.ping()
    step = len(text) // pieces
    server.feed_in_pieces(text[at : at + step] for at in range(0, len(text), step))
    assert [frame.name for frame in server.written()] == ["PING"]


# -- floods --


def limited(**rates: Rate) -> Endpoint:
    return Endpoint(limits=replace(Limits(), **rates))  # type: ignore[arg-type] # all are rates


THREE = Rate(burst=3, per_s=0)


@pytest.mark.parametrize(
    ("endpoint", "frame"),
    [
        (limited(pings=THREE), h2.ping()),
        (limited(pings=THREE), h2.ping(ack=True)),
        (limited(settings=Rate(burst=5, per_s=0)), h2.settings()),  # two went into the greeting
        (limited(settings=Rate(burst=5, per_s=0)), h2.goaway()),
        (limited(ignored_frames=THREE), h2.priority(1)),
        (limited(ignored_frames=THREE), h2.raw(0xBB)),
        (limited(window_updates=THREE), h2.window_update(0, 1)),
        (limited(window_updates=THREE), h2.window_update(1, 1)),
        (limited(empty_data=THREE), h2.data(1)),
        (limited(empty_data=THREE), h2.data(1, padding=10)),
    ],
)
def test_a_flood_of_frames_that_do_nothing_ends_the_connection(endpoint: Endpoint, frame: bytes) -> None:
    endpoint.accept()
    for _ in range(3):
        assert ("failed", E.ENHANCE_YOUR_CALM) not in endpoint.feed(frame)
    assert endpoint.feed(frame) == failure(E.ENHANCE_YOUR_CALM)


def a_response(number: int) -> bytes:
    return h2.headers(number, OK)


def a_request(_number: int) -> bytes:
    return h2.headers(1)


def a_reset(_number: int) -> bytes:
    return h2.rst_stream(1)


def empty_data(_number: int) -> bytes:
    return h2.data(1)


NONE_ALLOWED = Endpoint(limits=Limits(refusals=THREE), settings=LocalSettings(max_concurrent_streams=0))


@pytest.mark.parametrize(
    ("endpoint", "frame"),
    [
        (limited(resets_we_send=THREE), a_response),
        (limited(closed_streams=THREE), a_request),
        (limited(closed_streams=THREE), a_reset),
        (limited(empty_data=THREE), empty_data),
        (NONE_ALLOWED, h2.headers),
    ],
)
def test_a_flood_of_frames_for_no_stream_ends_the_connection(endpoint: Endpoint, frame: Callable[[int], bytes]) -> None:
    endpoint.connection._last_peer_id = 1  # pyright: ignore[reportPrivateUsage] - stream 1 has come and gone
    for number in (3, 5, 7):
        assert ("failed", E.ENHANCE_YOUR_CALM) not in endpoint.feed(frame(number))
    assert endpoint.feed(frame(9)) == failure(E.ENHANCE_YOUR_CALM)


def test_an_honest_rate_never_ends_the_connection(server: Endpoint) -> None:
    server.accept()
    for second in range(1000):
        server.now = float(second)
        assert server.feed(h2.ping(), h2.settings({4: 65_535}), h2.window_update(0, 1), h2.priority(1)) == [
            ("settings", {4: 65_535})
        ]
        server.written()
