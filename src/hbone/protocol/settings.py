"""SETTINGS of both sides (RFC 9113 §6.5): what we announce, and the peer's values as far as they bind us."""

from enum import Enum
from typing import Final

from hbone.errors import UsageError
from hbone.protocol import frames
from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.flow import DEFAULT_WINDOW, MAX_WINDOW
from hbone.values import dataclass

MIB: Final = 1024 * 1024
UNLIMITED_STREAMS: Final = MAX_WINDOW
STREAMS_BEFORE_SETTINGS: Final = 100
"""RFC 9113 §6.5.2 recommends servers to allow no fewer; ztunnel assumes it too. An honest server refuses the excess."""
DEFAULT_TABLE_BYTES: Final = 4096
LARGEST_SENT_FRAME_BYTES: Final = 256 * 1024 - frames.FRAME_HEADER_BYTES
"""More does not fit into one outbox; such frames save 4 % of bulk CPU against 16 KiB ones. With its header one fills 16
TLS records: nine bytes more would be a record of their own, and look like the end of a burst to the reader."""
RECORD_PAYLOAD_BYTES: Final = frames.DEFAULT_FRAME_BYTES - frames.FRAME_HEADER_BYTES
"""16 375: with its header such a frame fills one TLS record of 16 384 bytes (RFC 8446 §5.1)."""


class Role(Enum):
    """Who speaks first. Clients open streams, with odd numbers."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What we announce. The defaults are ztunnel's; raises UsageError for what RFC 9113 §6.5.2 does not allow.

    The connection's window is four times the stream's: with equal ones, one unread stream blocks its siblings.
    `max_concurrent_streams` None: not sent, unlimited.
    """

    initial_window_bytes: int = 4 * MIB
    connection_window_bytes: int = 16 * MIB
    max_frame_bytes: int = MIB
    max_header_list_bytes: int = 65_536
    max_concurrent_streams: int | None = 200

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("initial_window_bytes", self.initial_window_bytes, 1, MAX_WINDOW),
            ("connection_window_bytes", self.connection_window_bytes, DEFAULT_WINDOW, MAX_WINDOW),
            ("max_frame_bytes", self.max_frame_bytes, frames.DEFAULT_FRAME_BYTES, frames.LARGEST_FRAME_BYTES),
            ("max_header_list_bytes", self.max_header_list_bytes, 1024, MAX_WINDOW),
            ("max_concurrent_streams", self.max_concurrent_streams or 0, 0, MAX_WINDOW),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}", fix=f"use {low} to {high}", name=name, value=value)

    @classmethod
    def for_client(cls) -> "LocalSettings":
        """ztunnel's client: smaller header lists, no word about streams, since the peer opens none."""
        return cls(max_header_list_bytes=16_384, max_concurrent_streams=None)

    def values(self, role: Role) -> dict[int, int]:
        """As they go into the SETTINGS frame. HEADER_TABLE_SIZE stays at its default and is not sent."""
        values = {frames.ENABLE_PUSH: 0} if role is Role.CLIENT else {}
        if self.max_concurrent_streams is not None and role is Role.SERVER:
            values[frames.MAX_CONCURRENT_STREAMS] = self.max_concurrent_streams
        values[frames.INITIAL_WINDOW_SIZE] = self.initial_window_bytes
        values[frames.MAX_FRAME_SIZE] = self.max_frame_bytes
        values[frames.MAX_HEADER_LIST_SIZE] = self.max_header_list_bytes
        return values


class PeerSettings:
    """The peer's values in force; the defaults of RFC 9113 until its SETTINGS come."""

    __slots__ = ("header_table_bytes", "initial_window_bytes", "max_frame_bytes", "max_streams", "received")

    def __init__(self) -> None:
        self.received = False
        self.header_table_bytes = DEFAULT_TABLE_BYTES
        self.initial_window_bytes = DEFAULT_WINDOW
        self.max_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.max_streams = STREAMS_BEFORE_SETTINGS

    def apply(self, values: dict[int, int], role: Role) -> None:
        """Take what a SETTINGS frame says; raises ConnectionViolation for a value that is out of range.

        `role` is ours. Unknown numbers, and those that do not bind a CONNECT-only endpoint, are ignored (§6.5.2).
        A client may send MAX_CONCURRENT_STREAMS and ENABLE_CONNECT_PROTOCOL; Envoy does.
        """
        for number, value in values.items():
            _check(number, value, role)
        if not self.received:
            self.received = True
            self.max_streams = UNLIMITED_STREAMS
        self.header_table_bytes = values.get(frames.HEADER_TABLE_SIZE, self.header_table_bytes)
        self.initial_window_bytes = values.get(frames.INITIAL_WINDOW_SIZE, self.initial_window_bytes)
        self.max_frame_bytes = values.get(frames.MAX_FRAME_SIZE, self.max_frame_bytes)
        self.max_streams = values.get(frames.MAX_CONCURRENT_STREAMS, self.max_streams)


def data_frame_bytes(peer_max_frame_bytes: int) -> int:
    """The largest DATA payload worth sending to a peer that takes frames of `peer_max_frame_bytes`."""
    if peer_max_frame_bytes == frames.DEFAULT_FRAME_BYTES:
        return RECORD_PAYLOAD_BYTES
    return min(peer_max_frame_bytes, LARGEST_SENT_FRAME_BYTES)


def _check(number: int, value: int, role: Role) -> None:
    if number == frames.ENABLE_PUSH and value > (1 if role is Role.SERVER else 0):
        raise _refused("ENABLE_PUSH", value, ErrorCode.PROTOCOL_ERROR)  # §6.5.2: a server must not set it to 1
    if number == frames.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise _refused("INITIAL_WINDOW_SIZE", value, ErrorCode.FLOW_CONTROL_ERROR)
    if number == frames.MAX_FRAME_SIZE and not frames.DEFAULT_FRAME_BYTES <= value <= frames.LARGEST_FRAME_BYTES:
        raise _refused("MAX_FRAME_SIZE", value, ErrorCode.PROTOCOL_ERROR)
    if number == frames.ENABLE_CONNECT_PROTOCOL and value > 1:  # RFC 8441 §3
        raise _refused("ENABLE_CONNECT_PROTOCOL", value, ErrorCode.PROTOCOL_ERROR)


def _refused(name: str, value: int, code: ErrorCode) -> ConnectionViolation:
    return ConnectionViolation(code, f"SETTINGS_{name} of {value}", value=value)
