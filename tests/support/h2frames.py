"""HTTP/2 by hand: frames as a peer writes them, right and wrong, and one endpoint of ours to feed them to.

Built from RFC 9113 alone and not with the product's own frame code, so that the two check each other.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from hpack import Encoder

from hbone.protocol.connection import Http2Connection
from hbone.protocol.events import (
    ConnectionFailed,
    DataReceived,
    EndReceived,
    Event,
    GoAwayReceived,
    HeadersReceived,
    PingAcknowledged,
    RequestRefused,
    SettingsAcknowledged,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
    WindowOpened,
)
from hbone.protocol.limits import Limits
from hbone.protocol.outbox import BufferPool, Outbox
from hbone.protocol.settings import LocalSettings, Role
from hbone.protocol.streams import Stream
from hbone.times import Instant

Fields = Sequence[tuple[bytes, bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECT: Fields = ((b":method", b"CONNECT"), (b":authority", b"10.0.0.1:80"))
OK: Fields = ((b":status", b"200"),)

NAMES = {
    0: "DATA",
    1: "HEADERS",
    2: "PRIORITY",
    3: "RST_STREAM",
    4: "SETTINGS",
    5: "PUSH_PROMISE",
    6: "PING",
    7: "GOAWAY",
    8: "WINDOW_UPDATE",
    9: "CONTINUATION",
}
NUMBERS = {name: number for number, name in NAMES.items()}


def raw(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"", length: int | None = None) -> bytes:
    """Any frame; `length` to lie about it."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream_id) + payload


def data(stream_id: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None) -> bytes:
    flags = 1 if end else 0
    if padding is not None:
        flags |= 8
        payload = bytes((padding,)) + payload + bytes(padding)
    return raw(0, flags, stream_id, payload)


def block(fields: Fields) -> bytes:
    """A header block of a peer that uses no dynamic table, Huffman-coded as `hpack` likes."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields)[1:]  # without the update of the table's size that comes first


def headers(
    stream_id: int,
    fields: Fields = CONNECT,
    *,
    end: bool = False,
    padding: int | None = None,
    priority: bytes = b"",
    parts: int = 1,
) -> bytes:
    """HEADERS; in `parts`, the later ones as CONTINUATION. `priority`: five bytes."""
    whole = block(fields)
    cuts = [len(whole) * n // parts for n in range(parts + 1)]
    pieces = [whole[a:b] for a, b in pairwise(cuts)]
    flags = (1 if end else 0) | (4 if parts == 1 else 0)
    first = pieces[0]
    if priority:
        flags |= 0x20
        first = priority + first
    if padding is not None:
        flags |= 8
        first = bytes((padding,)) + first + bytes(padding)
    rest = [raw(9, 4 if n == parts - 1 else 0, stream_id, piece) for n, piece in enumerate(pieces[1:], 1)]
    return raw(1, flags, stream_id, first) + b"".join(rest)


def rst_stream(stream_id: int, code: int = 8) -> bytes:
    return raw(3, 0, stream_id, struct.pack(">L", code))


def settings(values: dict[int, int] | None = None) -> bytes:
    return raw(4, 0, 0, b"".join(struct.pack(">HL", key, value) for key, value in (values or {}).items()))


def settings_ack() -> bytes:
    return raw(4, 1)


def push_promise(stream_id: int, promised: int = 2) -> bytes:
    return raw(5, 4, stream_id, struct.pack(">L", promised) + block(CONNECT))


def ping(payload: bytes = b"\0" * 8, *, ack: bool = False) -> bytes:
    return raw(6, 1 if ack else 0, 0, payload)


def goaway(last: int = 0, code: int = 0, debug: bytes = b"") -> bytes:
    return raw(7, 0, 0, struct.pack(">LL", last, code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return raw(8, 0, stream_id, struct.pack(">L", increment))


def priority(stream_id: int, payload: bytes = b"\0\0\0\0\x10") -> bytes:
    return raw(2, 0, stream_id, payload)


class Frame(NamedTuple):
    """One frame that our side wrote."""

    name: str
    stream_id: int
    flags: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM and GOAWAY; the increment of WINDOW_UPDATE."""
        at = 4 if self.name == "GOAWAY" else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


def parse(text: bytes) -> list[Frame]:
    """Whole frames, and nothing else, behind a preface or not."""
    text = text.removeprefix(PREFACE)
    found: list[Frame] = []
    while text:
        size = int.from_bytes(text[:3], "big")
        kind, flags, stream_id = struct.unpack_from(">BBL", text, 3)
        assert len(text) >= 9 + size, "a frame that is not whole"
        found.append(Frame(NAMES.get(kind, hex(kind)), stream_id, flags, text[9 : 9 + size]))
        text = text[9 + size :]
    return found


def drain(outbox: Outbox) -> bytes:
    """All that the outbox holds, as the TLS write would take it."""
    taken = b""
    while outbox:
        view = outbox.pending()
        taken += bytes(view)
        outbox.advance(len(view))
    return taken


Said = tuple[object, ...]


def said(event: Event) -> Said:
    """An event as a value, with the payload that it brought."""
    match event:
        case HeadersReceived():
            return ("headers", event.stream.id, tuple(event.headers), event.end_stream)
        case TrailersReceived():
            return ("trailers", event.stream.id, tuple(event.headers))
        case DataReceived():
            return ("data", event.stream.id, b"".join(event.stream.chunks))
        case EndReceived():
            return ("end", event.stream.id)
        case StreamReset():
            return ("reset", event.stream.id, event.code, "by peer" if event.by_peer else "by us")
        case RequestRefused():
            return ("refused", event.stream_id, event.error.code)
        case WindowOpened():
            return ("window", event.stream.id if event.stream else None)
        case SettingsReceived():
            return ("settings", event.changed)
        case SettingsAcknowledged():
            return ("settings acknowledged",)
        case PingAcknowledged():
            return ("pong", event.payload)
        case GoAwayReceived():
            return ("goaway", event.last_stream_id, event.code, event.debug)
        case ConnectionFailed():
            return ("failed", event.error.code)


@dataclass
class Endpoint:
    """Our side, started, with the peer's SETTINGS exchanged unless `greeted` is False."""

    role: Role = Role.SERVER
    settings: LocalSettings = field(default_factory=LocalSettings)
    limits: Limits = field(default_factory=Limits)
    peer_settings: dict[int, int] = field(default_factory=dict)
    greeted: bool = True
    now: float = 0.0
    spill_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        self.outbox = Outbox(BufferPool(), max_spill_bytes=self.spill_bytes)
        self.connection = Http2Connection(self.role, self.settings, self.limits, self.outbox)
        self.connection.start()
        if self.greeted:
            self.greet()

    def greet(self) -> None:
        hello = settings(self.peer_settings) + settings_ack()
        self.feed(PREFACE + hello if self.role is Role.SERVER else hello)
        self.written()

    def feed(self, *frames: bytes) -> list[Said]:
        """Receive all in one piece."""
        return [said(event) for event in self.connection.receive(memoryview(b"".join(frames)), Instant(self.now))]

    def feed_in_pieces(self, pieces: Iterable[bytes]) -> list[Said]:
        return [event for piece in pieces for event in self.feed(piece)]

    def written(self) -> list[Frame]:
        """What was put out since the last call."""
        return parse(drain(self.outbox))

    def stream(self, stream_id: int = 1) -> Stream:
        return self.connection.streams[stream_id]

    def open(self, fields: Fields = CONNECT) -> Stream:
        """A client's stream, its HEADERS written."""
        stream = self.connection.open_stream(fields, None)
        self.written()
        return stream

    def accept(self, stream_id: int = 1) -> Stream:
        """A server's stream that was opened and answered with 200."""
        self.feed(headers(stream_id))
        stream = self.stream(stream_id)
        self.connection.send_headers(stream, OK, end_stream=False)
        self.written()
        return stream

    def send(self, stream: Stream, payload: bytes) -> None:
        """DATA, as the shell sends it; it must fit the windows."""
        assert len(payload) <= self.connection.sendable(stream)
        while payload:
            space = self.outbox.reserve(min(len(payload), self.connection.frame_bytes))
            n = len(space)
            space[:] = payload[:n]
            self.outbox.commit(stream.id, n)
            self.connection.sent(stream, n)
            payload = payload[n:]
