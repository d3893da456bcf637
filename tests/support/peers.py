"""Independent HBONE peers for tests, on the standard library's TLS and the `h2` package.

They do what they are told, also what no good peer would do: any header list, no certificate, another ALPN.
"""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection

from hbone.addr import SocketAddress
from hbone.bench.pki import Identity

LIMIT_S = 10.0
CHUNK_BYTES = 65_536
Headers = Iterable[tuple[str, str]]


def connect_headers(authority: object) -> list[tuple[str, str]]:
    """A plain CONNECT (RFC 9113 §8.5)."""
    return [(":method", "CONNECT"), (":authority", str(authority))]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back on one stream so far. `reset`: the code of its RST_STREAM, None without one."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def finished(self) -> bool:
        return self.ended or self.reset is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """How a probe presents itself. `identity` None: without a certificate; `alpn` empty: without ALPN."""

    identity: Identity | None
    alpn: Sequence[str] = ("h2",)
    newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    def context(self) -> ssl.SSLContext:
        """A client context; the far side's certificate is not judged: that is not what probes are for."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = self.newest_tls
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.identity:
            context.load_cert_chain(self.identity.chain, self.identity.key)
        return context


class HboneProbe:
    """One TLS and HTTP/2 connection to an inbound proxy, driven step by step.

    With TLS 1.3 a refused certificate shows on the first read: `ended` is then the error, or "eof".
    """

    def __init__(self, address: SocketAddress, hello: Hello) -> None:
        plain = socket.create_connection((str(address.ip), address.port), LIMIT_S)
        try:
            self.tls = hello.context().wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        config = H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.http2 = H2Connection(config)
        self.http2.initiate_connection()
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.ended: str | None = None
        self.went_away: int | None = None
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tls.close()

    def request(self, headers: Headers, *, end_stream: bool = False) -> int:
        """Send a header list on a new stream; its id."""
        stream = self.http2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.http2.send_headers(stream, list(headers), end_stream=end_stream)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end_stream: bool = False) -> None:
        """Send bytes on a stream, no more than its window (65,535 at first)."""
        self.http2.send_data(stream, data, end_stream=end_stream)
        self._flush()

    def send_frame(self, kind: int, *, stream: int, payload: bytes, flags: int = 0) -> None:
        """Send a frame (RFC 9113 §4.1) behind the back of `h2`, which would not."""
        with contextlib.suppress(OSError):  # as in _flush
            self.tls.sendall(
                struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload
            )

    def wait_status(self, stream: int) -> int | None:
        """The status of the answer; None when the stream or the connection ended without one."""
        answer = self.answers[stream]
        self._receive_until(lambda: answer.status is not None or answer.finished)
        return answer.status

    def wait_end(self, stream: int) -> Answer:
        """The whole answer, when its stream or the connection has ended."""
        answer = self.answers[stream]
        self._receive_until(lambda: answer.finished)
        return answer

    def wait_bytes(self, stream: int, count: int) -> bytes:
        """At least `count` bytes of the body, or fewer when the stream ended."""
        answer = self.answers[stream]
        self._receive_until(lambda: len(answer.body) >= count or answer.finished)
        return bytes(answer.body)

    def wait_closed(self) -> str:
        """How the connection ended."""
        self._receive_until(lambda: False)
        assert self.ended is not None
        return self.ended

    def _receive_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not done() and self.ended is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"nothing within {LIMIT_S} s; so far {self.answers}")
            self.tls.settimeout(left_s)
            try:
                data = self.tls.recv(CHUNK_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                self.ended = str(error)
                return
            if not data:
                self.ended = "eof"
                return
            for event in self.http2.receive_data(data):
                self._take(event)
            self._flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=stream, headers=headers):
                answer = self.answers[stream]
                answer.headers = {_text(name): _text(value) for name, value in headers or ()}
                answer.status = int(answer.headers[":status"])
            case h2.events.DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
                self.answers[stream].body += data or b""
                self.http2.acknowledge_received_data(length or 0, stream)
            case h2.events.StreamEnded(stream_id=stream):
                self.answers[stream].ended = True
            case h2.events.StreamReset(stream_id=stream, error_code=code):
                self.answers[stream].reset = int(code or 0)
            case h2.events.ConnectionTerminated(error_code=code):
                self.went_away = int(code or 0)
            case h2.events.RemoteSettingsChanged(changed_settings=changed):
                self.settings |= {int(name): setting.new_value for name, setting in changed.items()}
            case _:
                pass

    def _flush(self) -> None:
        with contextlib.suppress(OSError):  # turned away: the next read tells how
            self.tls.sendall(self.http2.data_to_send())


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
