"""Every type of frame in every state of a stream, server and client: what RFC 9113 §5.1 and §6 want.

A row is a state, a column a frame from the peer; a cell is what comes of it:

  -       nothing, and the connection lives
  e       an event for the stream, no frame
  RST x   RST_STREAM with code x (S: STREAM_CLOSED, P: PROTOCOL_ERROR, Z: FRAME_SIZE_ERROR, F: FLOW_CONTROL_ERROR)
  GO x    GOAWAY with code x, and ConnectionFailed
"""

from collections.abc import Callable
from typing import Final

import pytest

from hbone.protocol.codes import ErrorCode
from hbone.protocol.settings import Role
from tests.support import h2frames as h2
from tests.support.h2frames import OK, Endpoint

CODES: Final = {
    "S": ErrorCode.STREAM_CLOSED,
    "P": ErrorCode.PROTOCOL_ERROR,
    "Z": ErrorCode.FRAME_SIZE_ERROR,
    "F": ErrorCode.FLOW_CONTROL_ERROR,
    "C": ErrorCode.COMPRESSION_ERROR,
}
TRAILERS: Final = ((b"x", b"y"),)


def opened(endpoint: Endpoint) -> None:
    """Stream 1 open both ways, the response through."""
    if endpoint.role is Role.SERVER:
        endpoint.accept(1)
    else:
        endpoint.open()
        endpoint.feed(h2.headers(1, OK))


def half_closed_local(endpoint: Endpoint) -> None:
    opened(endpoint)
    endpoint.connection.end(endpoint.stream())


def half_closed_remote(endpoint: Endpoint) -> None:
    opened(endpoint)
    endpoint.feed(h2.data(1, end=True))


def closed_by_ends(endpoint: Endpoint) -> None:
    half_closed_remote(endpoint)
    endpoint.connection.end(endpoint.stream())


def closed_by_our_reset(endpoint: Endpoint) -> None:
    opened(endpoint)
    endpoint.connection.reset(endpoint.stream(), ErrorCode.CANCEL)


def closed_by_their_reset(endpoint: Endpoint) -> None:
    opened(endpoint)
    endpoint.feed(h2.rst_stream(1))


def idle(endpoint: Endpoint) -> None:
    """Stream 1 has never been used."""


def waiting(endpoint: Endpoint) -> None:
    """The request is out, the response is not."""
    if endpoint.role is Role.SERVER:
        endpoint.feed(h2.headers(1))
    else:
        endpoint.open()


FRAMES: Final = {
    "DATA": h2.data(1, b"x"),
    "DATA+END": h2.data(1, b"x", end=True),
    "DATA padded": h2.data(1, b"x", padding=9),
    "TRAILERS": h2.headers(1, TRAILERS, end=True),
    "HEADERS": h2.headers(1, TRAILERS),
    "PRIORITY": h2.priority(1),
    "PRIORITY bad": h2.priority(1, bytes(4)),
    "RST": h2.rst_stream(1),
    "RST bad": h2.raw(3, 0, 1, bytes(3)),
    "PUSH": h2.push_promise(1),
    "WINDOW": h2.window_update(1, 1000),
    "WINDOW 0": h2.window_update(1, 0),
    "WINDOW max": h2.window_update(1, 2**31 - 1),
    "WINDOW bad": h2.raw(8, 0, 1, bytes(5)),
    "CONTINUATION": h2.raw(9, 4, 1),
    "unknown": h2.raw(0xF0, 0, 1, b"?"),
    "SETTINGS": h2.raw(4, 0, 1),
    "PING": h2.raw(6, 0, 1, bytes(8)),
    "GOAWAY": h2.raw(7, 0, 1, bytes(8)),
}

# what does not depend on the state: connection errors by the frame alone, and what is ignored everywhere
ALWAYS: Final = {
    "RST bad": "GO Z",  # §6.4
    "PUSH": "GO P",  # §8.4
    "WINDOW bad": "GO Z",  # §6.9
    "CONTINUATION": "GO P",  # §6.10: without HEADERS before it
    "unknown": "-",  # §5.5
    "SETTINGS": "GO P",  # §6.5: on a stream
    "PING": "GO P",  # §6.7
    "GOAWAY": "GO P",  # §6.8
    "PRIORITY": "-",  # §6.3: in any state
}
CLOSED: Final = {  # §5.1 "closed": minimal processing, then dropped; HEADERS may have been meant as a request
    "DATA": "-",
    "DATA+END": "-",
    "DATA padded": "-",
    "TRAILERS": "RST S",
    "HEADERS": "RST S",
    "RST": "-",
    "WINDOW": "-",
    "WINDOW 0": "-",
    "WINDOW max": "-",
    "PRIORITY bad": "-",
}
OPEN: Final = {
    "DATA": "e",
    "DATA+END": "e",
    "DATA padded": "e",
    "TRAILERS": "e",
    "HEADERS": "RST P",  # §8.1: a second header section must end the stream
    "RST": "e",
    "WINDOW": "-",
    "WINDOW 0": "RST P",  # §6.9
    "WINDOW max": "RST F",  # §6.9.1
    "PRIORITY bad": "RST Z",  # §6.3
}
REMOTE: Final = OPEN | {  # §5.1 "half-closed (remote)"
    "DATA": "RST S",
    "DATA+END": "RST S",
    "DATA padded": "RST S",
    "TRAILERS": "RST S",
    "HEADERS": "RST S",
}
IDLE: Final = {  # §5.1 "idle": only HEADERS (to a server) and PRIORITY
    "DATA": "GO P",
    "DATA+END": "GO P",
    "DATA padded": "GO P",
    "RST": "GO P",
    "WINDOW": "GO P",
    "WINDOW 0": "GO P",
    "WINDOW max": "GO P",
    "PRIORITY bad": "-",
}
State = Callable[[Endpoint], None]
TABLE: Final[list[tuple[Role, State, dict[str, str]]]] = [
    *(
        row
        for role in Role
        for row in (
            (role, opened, OPEN),
            (role, half_closed_local, OPEN),
            (role, half_closed_remote, REMOTE),
            (role, closed_by_ends, CLOSED),
            (role, closed_by_our_reset, CLOSED),
            (role, closed_by_their_reset, CLOSED),
        )
    ),
    (Role.SERVER, idle, IDLE | {"TRAILERS": "RST P", "HEADERS": "RST P"}),  # malformed as a request
    (Role.CLIENT, idle, IDLE | {"TRAILERS": "GO P", "HEADERS": "GO P"}),
    (Role.SERVER, waiting, OPEN),
    (  # §8.1: the response begins with HEADERS
        Role.CLIENT,
        waiting,
        OPEN | {"DATA": "RST P", "DATA+END": "RST P", "DATA padded": "RST P", "TRAILERS": "RST P"},
    ),
]
CELLS: Final = [
    pytest.param(role, state, frame, (ALWAYS | cells)[frame], id=f"{role.value}-{state.__name__}-{frame}")
    for role, state, cells in TABLE
    for frame in FRAMES
]


@pytest.mark.parametrize(("role", "state", "frame", "expected"), CELLS)
def test_each_frame_in_each_state(role: Role, state: State, frame: str, expected: str) -> None:
    endpoint = Endpoint(role)
    state(endpoint)
    endpoint.written()
    events = endpoint.feed(FRAMES[frame])
    frames = [frame for frame in endpoint.written() if frame.name != "WINDOW_UPDATE"]
    if expected == "-":
        assert (events, frames) == ([], [])
    elif expected == "e":
        assert events
        assert {event[1] for event in events} == {1}
        assert not frames
    else:
        name, code = ("RST_STREAM", expected[4:]) if expected.startswith("RST") else ("GOAWAY", expected[3:])
        assert [(frame.name, frame.code) for frame in frames] == [(name, CODES[code])]
    lives = not expected.startswith("GO")
    assert (endpoint.connection.last_error is None) is lives
    if lives:
        assert endpoint.feed(h2.ping()) == []
        assert [frame.name for frame in endpoint.written()] == ["PING"]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("frame", ["DATA", "TRAILERS", "RST", "WINDOW", "CONTINUATION"])
def test_streams_of_the_servers_number_space_do_not_exist(role: Role, frame: str) -> None:
    endpoint = Endpoint(role)
    opened(endpoint)
    text = bytearray(FRAMES[frame])
    text[8] = 2  # §5.1.1: even numbers are for pushed streams
    assert endpoint.feed(bytes(text)) == [("failed", ErrorCode.PROTOCOL_ERROR)]
