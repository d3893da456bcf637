"""Credit for the connection as a whole can be held back, and is then due at once."""

from hbone.protocol.settings import LocalSettings
from tests.support import h2frames
from tests.support.h2frames import Endpoint

WINDOWS = LocalSettings(initial_window_bytes=65_535, connection_window_bytes=100_000)


def credited(end: Endpoint) -> list[int]:
    return [frame.code for frame in end.written() if frame.name == "WINDOW_UPDATE" and frame.stream_id == 0]


def test_credit_that_is_held_comes_back_whole_when_it_is_given_again() -> None:
    end = Endpoint(settings=WINDOWS)
    for stream_id in (1, 3):
        end.accept(stream_id)
    end.connection.hold_credit()
    end.feed(h2frames.data(1, bytes(16_000)), h2frames.data(1, bytes(16_000)), h2frames.data(3, bytes(16_000)))
    assert credited(end) == []
    end.connection.give_credit()
    assert credited(end) == [48_000]
    end.feed(h2frames.data(3, bytes(16_000)), h2frames.data(3, bytes(16_000)))
    assert credited(end) == [32_000]


def test_a_peer_held_back_may_send_what_its_window_still_allows_and_no_more() -> None:
    end = Endpoint(settings=WINDOWS)
    for stream_id in (1, 3):
        end.accept(stream_id)
    end.connection.hold_credit()
    end.feed(*(h2frames.data(1, bytes(16_000)) for _ in range(4)), *(h2frames.data(3, bytes(16_000)) for _ in range(2)))
    assert end.feed(h2frames.data(3, bytes(4001)))[-1][0] == "failed"


def test_giving_credit_that_is_not_due_sends_nothing() -> None:
    end = Endpoint(settings=WINDOWS)
    end.connection.hold_credit()
    end.connection.give_credit()
    assert credited(end) == []
