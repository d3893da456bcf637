"""What our side does to a connection."""

import pytest

from hbone.errors import TunnelFailure, UsageError
from hbone.protocol.codes import ErrorCode
from hbone.protocol.outbox import OutboxOverflow
from hbone.protocol.sending import StreamsExhausted, TunnelClosing
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import StreamState
from tests.support import h2frames as h2
from tests.support.h2frames import CONNECT, OK, PREFACE, Endpoint, drain, parse

LONG = (*CONNECT, (b"x", b"v" * 40_000))


@pytest.fixture
def client() -> Endpoint:
    return Endpoint(Role.CLIENT, LocalSettings.for_client())


@pytest.fixture
def server() -> Endpoint:
    return Endpoint()


# -- start --


def test_a_client_begins_with_preface_settings_and_its_window() -> None:
    endpoint = Endpoint(Role.CLIENT, LocalSettings.for_client(), greeted=False)
    text = drain(endpoint.outbox)
    assert text.startswith(PREFACE)  # RFC 9113 §3.4
    first, second = parse(text)
    assert (first.name, first.flags) == ("SETTINGS", 0)
    assert (second.name, second.stream_id, second.code) == ("WINDOW_UPDATE", 0, 16 * 2**20 - 65_535)


def test_a_server_begins_with_settings_and_no_window_update_where_the_default_is_meant() -> None:
    endpoint = Endpoint(settings=LocalSettings(connection_window_bytes=65_535), greeted=False)
    assert [frame.name for frame in endpoint.written()] == ["SETTINGS"]


# -- opening --


def test_streams_get_odd_numbers_in_order_and_their_owner(client: Endpoint) -> None:
    owner = object()
    opened = [client.connection.open_stream(CONNECT, owner) for _ in range(3)]
    assert [stream.id for stream in opened] == [1, 3, 5]  # §5.1.1
    assert opened[0].owner is owner
    assert [(frame.name, frame.stream_id, frame.flags) for frame in client.written()] == [
        ("HEADERS", 1, 4),
        ("HEADERS", 3, 4),
        ("HEADERS", 5, 4),
    ]


def test_data_may_follow_a_request_before_its_answer(client: Endpoint) -> None:
    stream = client.open()
    assert client.connection.sendable(stream) == 65_535
    client.send(stream, b"early")
    assert drain(client.outbox) == h2.data(1, b"early")
    assert client.connection.sendable(stream) == 65_530


def test_before_its_settings_a_peer_gets_a_hundred_streams() -> None:
    client = Endpoint(Role.CLIENT, greeted=False)
    assert client.connection.free_streams == 100
    for _ in range(100):
        client.connection.open_stream(CONNECT, None)
    with pytest.raises(StreamsExhausted, match="it holds 100, the peer allows 100"):
        client.connection.open_stream(CONNECT, None)


def test_the_peers_limit_holds_and_a_closed_stream_makes_room() -> None:
    client = Endpoint(Role.CLIENT, peer_settings={3: 1})
    stream = client.open()
    assert client.connection.free_streams == 0
    client.connection.reset(stream, ErrorCode.CANCEL)
    assert client.connection.free_streams == 1


def test_a_limit_below_what_is_open_leaves_none_free(client: Endpoint) -> None:
    client.open()
    client.open()
    client.feed(h2.settings({3: 1}))
    assert client.connection.free_streams == 0


def test_stream_numbers_run_out(client: Endpoint) -> None:
    client.connection._next_id = 2**31 - 1  # pyright: ignore[reportPrivateUsage] - two thousand million streams
    assert client.connection.free_streams == 1
    assert client.open().id == 2**31 - 1
    assert client.connection.free_streams == 0
    with pytest.raises(StreamsExhausted):
        client.connection.open_stream(CONNECT, None)


def test_a_server_opens_no_streams(server: Endpoint) -> None:
    assert server.connection.free_streams == 0
    with pytest.raises(TunnelClosing, match="only the client"):
        server.connection.open_stream(CONNECT, None)


@pytest.mark.parametrize("end", ["ours", "theirs", "failure"])
def test_a_connection_that_goes_away_takes_no_stream(client: Endpoint, end: str) -> None:
    if end == "ours":
        client.connection.announce_going_away()
    else:
        client.feed(h2.goaway(0) if end == "theirs" else h2.raw(6, 0, 1, bytes(8)))
    assert client.connection.free_streams == 0
    with pytest.raises(TunnelClosing, match="going away"):
        client.connection.open_stream(CONNECT, None)


# -- headers --


def test_a_long_block_is_cut_to_the_peers_frame_size(client: Endpoint) -> None:
    client.connection.open_stream(LONG, None)
    assert [len(frame.payload) for frame in client.written()][:2] == [16_384, 16_384]  # §4.2


def test_a_server_answers_and_may_then_send(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    stream = server.stream()
    assert server.connection.sendable(stream) == 0
    server.connection.send_headers(stream, OK, end_stream=False)
    assert server.connection.sendable(stream) == 65_535
    assert [(frame.name, frame.flags) for frame in server.written()] == [("HEADERS", 4)]


def test_an_answer_with_end_stream_closes_our_half(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    stream = server.stream()
    server.connection.send_headers(stream, OK, end_stream=True)
    assert stream.state is StreamState.HALF_CLOSED_LOCAL
    assert server.connection.sendable(stream) == 0
    assert server.written()[0].flags == 5


def test_an_answer_with_end_stream_to_a_request_that_ended_closes_the_stream(server: Endpoint) -> None:
    server.feed(h2.headers(1, end=True))
    server.connection.send_headers(server.stream(), OK, end_stream=True)
    assert not server.connection.streams


def test_trailers_end_our_half(server: Endpoint, client: Endpoint) -> None:
    for endpoint, stream in ((server, server.accept()), (client, client.open())):
        endpoint.connection.send_headers(stream, [(b"x", b"y")], end_stream=True)
        assert stream.state is StreamState.HALF_CLOSED_LOCAL
        assert [(frame.name, frame.flags) for frame in endpoint.written()] == [("HEADERS", 5)]


def test_headers_out_of_turn_are_refused_here(server: Endpoint, client: Endpoint) -> None:
    stream = server.accept()
    with pytest.raises(UsageError, match="out of turn"):
        server.connection.send_headers(stream, OK, end_stream=False)
    server.connection.end(stream)
    with pytest.raises(UsageError):
        server.connection.send_headers(stream, OK, end_stream=True)
    with pytest.raises(UsageError):
        client.connection.send_headers(client.open(), CONNECT, end_stream=False)


# -- ends --


def test_end_is_an_empty_data_frame_once(client: Endpoint) -> None:
    stream = client.open()
    client.connection.end(stream)
    client.connection.end(stream)
    assert drain(client.outbox) == h2.data(1, end=True)
    assert client.connection.sendable(stream) == 0
    assert stream.state is StreamState.HALF_CLOSED_LOCAL


def test_a_stream_is_forgotten_when_both_halves_have_ended(server: Endpoint) -> None:
    stream = server.accept()
    server.feed(h2.data(1, end=True))
    server.connection.end(stream)
    assert stream.state is StreamState.CLOSED
    assert not server.connection.streams


def test_a_server_cannot_end_what_it_has_not_answered(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    with pytest.raises(UsageError, match="before its response"):
        server.connection.end(server.stream())


def test_on_a_stream_that_closed_meanwhile_nothing_is_sent(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    stream = server.stream()
    server.feed(h2.rst_stream(1))
    server.connection.send_headers(stream, OK, end_stream=False)
    server.connection.end(stream)
    server.connection.reset(stream, ErrorCode.CANCEL)
    server.connection.consumed(stream, 10**9)
    assert server.connection.sendable(stream) == 0
    assert server.written() == []


def test_a_reset_says_its_code_and_forgets_the_stream(client: Endpoint) -> None:
    stream = client.open()
    client.connection.reset(stream, ErrorCode.CANCEL)
    client.connection.reset(stream, ErrorCode.CANCEL)
    assert drain(client.outbox) == h2.rst_stream(1, 8)
    assert not client.connection.streams


# -- flow control --


def test_the_connections_window_bounds_all_streams(client: Endpoint) -> None:
    client.feed(h2.settings({4: 2**20}))
    first, second = client.open(), client.open()
    assert client.connection.sendable(first) == 65_535
    client.send(first, bytes(65_000))
    assert client.connection.sendable(second) == 535
    client.send(second, bytes(535))
    assert client.connection.sendable(first) == 0


def test_a_streams_credit_comes_back_at_half_its_window() -> None:
    server = Endpoint(settings=LocalSettings(initial_window_bytes=100_000))
    stream = server.accept()
    server.feed(h2.data(1, bytes(60_000)))
    server.connection.consumed(stream, 49_999)
    assert server.written() == []
    server.connection.consumed(stream, 1)
    assert [(frame.name, frame.stream_id, frame.code) for frame in server.written()] == [("WINDOW_UPDATE", 1, 50_000)]
    assert stream.recv_window == 90_000


def test_no_credit_for_a_stream_whose_peer_has_ended(server: Endpoint) -> None:
    stream = server.accept()
    server.feed(h2.data(1, bytes(1000), end=True))
    server.connection.consumed(stream, 2**30)
    assert server.written() == []


# -- the connection --


def test_a_ping_has_eight_bytes(client: Endpoint) -> None:
    client.connection.ping(b"12345678")
    assert drain(client.outbox) == h2.ping(b"12345678")
    with pytest.raises(UsageError):
        client.connection.ping(b"1234567")


def test_a_graceful_end_takes_two_steps(server: Endpoint) -> None:
    connection = server.connection
    server.feed(h2.headers(1))
    connection.announce_going_away()
    assert connection.going_away
    assert drain(server.outbox) == h2.goaway(2**31 - 1)  # §6.8
    assert server.feed(h2.headers(3))[0][0] == "headers"
    connection.go_away(ErrorCode.NO_ERROR, b"bye")
    assert drain(server.outbox) == h2.goaway(3, 0, b"bye")
    assert server.feed(h2.headers(5)) == [("refused", 5, ErrorCode.REFUSED_STREAM)]
    assert drain(server.outbox) == h2.rst_stream(5, 7)
    assert server.feed(h2.data(1, b"goes on")) == [("data", 1, b"goes on")]


def test_the_last_stream_of_a_repeated_goaway_does_not_grow(server: Endpoint) -> None:
    server.feed(h2.headers(1))
    server.connection.go_away(0)
    server.feed(h2.headers(3))
    server.written()
    server.connection.go_away(0)
    assert drain(server.outbox) == h2.goaway(1)


def test_a_peer_that_does_not_read_makes_sending_fail_and_no_stream_is_half_made() -> None:
    client = Endpoint(Role.CLIENT, spill_bytes=0)
    connection = client.connection
    client.send(client.open(), bytes(10_000))
    with pytest.raises(OutboxOverflow) as caught:
        for _ in range(50):
            connection.open_stream(LONG, None)
    assert isinstance(caught.value, TunnelFailure)
    ids = [frame.stream_id for frame in client.written() if frame.name == "HEADERS"]
    assert sorted(connection.streams)[1:] == sorted(set(ids))
