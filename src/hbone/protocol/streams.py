"""The life of one stream (RFC 9113 §5.1), as a table.

A stream object exists from its HEADERS to its end; idle and closed streams have none. Pushed streams do not exist here.

                       headers sent or received
                                  |
                                OPEN
              END_STREAM sent  /      \\  END_STREAM received
            HALF_CLOSED_LOCAL          HALF_CLOSED_REMOTE
          END_STREAM received  \\      /  END_STREAM sent
                                CLOSED        (RST_STREAM, either way, leads here from each state)
"""

from enum import IntEnum
from typing import Any, Final

from hbone.protocol.flow import DEFAULT_WINDOW


class StreamState(IntEnum):
    """Where a stream is; seen from our side."""

    OPEN = 1
    HALF_CLOSED_LOCAL = 2
    HALF_CLOSED_REMOTE = 3
    CLOSED = 4


class StreamInput(IntEnum):
    """What moves a stream on."""

    SENT_END = 1
    RECEIVED_END = 2
    RESET = 3


_OPEN, _LOCAL, _REMOTE, _CLOSED = StreamState
TRANSITIONS: Final = {
    (_OPEN, StreamInput.SENT_END): _LOCAL,
    (_OPEN, StreamInput.RECEIVED_END): _REMOTE,
    (_OPEN, StreamInput.RESET): _CLOSED,
    (_LOCAL, StreamInput.RECEIVED_END): _CLOSED,
    (_LOCAL, StreamInput.RESET): _CLOSED,
    (_REMOTE, StreamInput.SENT_END): _CLOSED,
    (_REMOTE, StreamInput.RESET): _CLOSED,
}
"""What is missing here cannot happen: the connection looks at the state before it feeds an input."""

_NOTHING: Final[list[memoryview]] = []


class Stream:
    """One carried connection. Made by `Http2Connection`; only `owner` is the shell's to set.

    `send_window` may be negative. `recv_window` is what the peer may still send. `uncredited`: bytes taken by the local
    side, not yet returned by WINDOW_UPDATE. `chunks`: DATA of the latest `receive()`, valid until the next one.
    `receiving` and `sending` say whether DATA is legal in that direction now: a client gets none before the answer.
    `answered`: the (final) response headers went, or came. `turn`: the `receive()` call that `chunks` belong to.
    """

    __slots__ = (
        "answered",
        "chunks",
        "id",
        "owner",
        "receiving",
        "recv_window",
        "send_window",
        "sending",
        "state",
        "turn",
        "uncredited",
    )

    def __init__(self, stream_id: int, *, send_window: int = DEFAULT_WINDOW, recv_window: int = DEFAULT_WINDOW) -> None:
        self.id = stream_id
        self.state = StreamState.OPEN
        self.send_window = send_window
        self.recv_window = recv_window
        self.uncredited = 0
        self.owner: Any = None  # whatever the shell sets: the core never looks at it
        self.chunks = _NOTHING  # shared and never appended to: an idle stream owns no list
        self.turn = 0
        self.answered = False
        self.receiving = False
        self.sending = False

    def move(self, happened: StreamInput) -> StreamState:
        """Take the transition, and return the new state."""
        self.state = state = TRANSITIONS[self.state, happened]
        if happened is not StreamInput.SENT_END:
            self.receiving = False
        if happened is not StreamInput.RECEIVED_END:
            self.sending = False
        return state

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self.state.name} send_window={self.send_window} recv_window={self.recv_window}>"
