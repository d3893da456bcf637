"""The life of a stream: RFC 9113 §5.1."""

import pytest

from hbone.protocol.streams import TRANSITIONS, Stream, StreamInput, StreamState

S, I = StreamState, StreamInput  # noqa: E741 - the table below stays narrow


@pytest.mark.parametrize(
    ("inputs", "state"),
    [
        ((I.SENT_END,), S.HALF_CLOSED_LOCAL),
        ((I.RECEIVED_END,), S.HALF_CLOSED_REMOTE),
        ((I.RESET,), S.CLOSED),
        ((I.SENT_END, I.RECEIVED_END), S.CLOSED),
        ((I.RECEIVED_END, I.SENT_END), S.CLOSED),
        ((I.SENT_END, I.RESET), S.CLOSED),
        ((I.RECEIVED_END, I.RESET), S.CLOSED),
    ],
)
def test_a_stream_closes_by_both_ends_or_by_a_reset(inputs: tuple[StreamInput, ...], state: StreamState) -> None:
    stream = Stream(1)
    stream.receiving = stream.sending = True
    for happened in inputs:
        stream.move(happened)
    assert stream.state is state
    assert stream.sending == (state is S.HALF_CLOSED_REMOTE)
    assert stream.receiving == (state is S.HALF_CLOSED_LOCAL)


def test_nothing_leads_out_of_closed() -> None:
    assert not [state for state, _ in TRANSITIONS if state is S.CLOSED]


def test_an_idle_stream_owns_no_list() -> None:
    assert Stream(1).chunks is Stream(3).chunks


def test_a_stream_shows_its_windows() -> None:
    assert repr(Stream(7, send_window=1, recv_window=2)) == "<Stream 7 OPEN send_window=1 recv_window=2>"
