"""The first bytes of a connection: a TLS ClientHello with its SNI and ALPN, the beginning of one, or no TLS at all.

Nothing is decrypted and nothing verified. A ClientHello may be spread over records (RFC 8446 §5.1); more than
`MAX_HELLO_BYTES` of it are not waited for. Bytes that break the format are `NotTls`: no answer but a TLS alert fits.
"""

from enum import IntEnum
from typing import Final

from hbone.values import dataclass

MAX_HELLO_BYTES: Final = 65_536
"""Of handshake message. Post-quantum key shares bring it to 1.8 KiB; OpenSSL takes 128 KiB, most routers 16 KiB."""
MAX_RECORD_BYTES: Final = 16_384  # RFC 8446 §5.1
MAX_RECORDS: Final = 128
"""Of one ClientHello: honest ones come in one or a few. Each is looked at again with whatever comes after it: 65,536 of
one byte took 0.6 s for every packet."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SNI: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43


class Alert(IntEnum):
    """TLS alert descriptions (RFC 8446 §6) that a router sends before any handshake."""

    HANDSHAKE_FAILURE = 40
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    UNRECOGNIZED_NAME = 112
    NO_APPLICATION_PROTOCOL = 120


def alert_bytes(alert: int) -> bytes:
    """A fatal alert in the clear, as the only answer to a ClientHello."""
    return bytes((21, 3, 3, 0, 2, 2, alert))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """`sni`: in lower case, without a final dot; None where absent. `alpn`, `versions`: in the client's order.

    `versions` are those of supported_versions (0x0304 is TLS 1.3), or else the one legacy version.
    """

    sni: str | None
    alpn: tuple[bytes, ...]
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NeedMore:
    """All so far fits; ask again when there is more than `have` bytes."""

    have: int


@dataclass(frozen=True, slots=True)
class NotTls:
    """`why`, in words."""

    why: str


FirstBytes = ClientHello | NeedMore | NotTls


class _Malformed(Exception):
    """A length that points outside, or a value that the format forbids."""


def parse_client_hello(data: bytes | memoryview) -> FirstBytes:
    """What the first bytes of a connection are; `data` from the very first, as many as there are. Never raises."""
    message = _handshake_bytes(bytes(data))
    if not isinstance(message, bytes):
        return message
    try:
        return _hello(_Reader(message))
    except _Malformed as error:
        return NotTls(f"malformed ClientHello: {error}")


def _handshake_bytes(data: bytes) -> bytes | NeedMore | NotTls:
    """The body of the ClientHello, gathered from its records."""
    body, at = b"", 0
    for _ in range(MAX_RECORDS):
        head = data[at : at + 5]
        if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
            return NotTls("no TLS handshake record")
        size = int.from_bytes(head[3:5], "big")
        if len(head) == 5 and not 0 < size <= MAX_RECORD_BYTES:
            return NotTls(f"a handshake record of {size} bytes")
        body += data[at + 5 : at + 5 + size]
        if body and body[0] != _CLIENT_HELLO:
            return NotTls(f"handshake message {body[0]}, not a ClientHello")
        length = int.from_bytes(body[1:4], "big")
        if len(body) >= 4:
            if length > MAX_HELLO_BYTES:
                return NotTls(f"a ClientHello of {length} bytes")
            if len(body) >= 4 + length:
                return body[4 : 4 + length]
        at += 5 + size
        if len(head) < 5 or at > len(data):
            return NeedMore(len(data))
    return NotTls(f"a ClientHello in more than {MAX_RECORDS} records")


class _Reader:
    """Takes fields off the front of bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, n: int) -> bytes:
        end = self._at + n
        if end > len(self._data):
            raise _Malformed("a length beyond its end")
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "big")

    def vector(self, n: int) -> "_Reader":
        """A field behind its length of `n` bytes."""
        return _Reader(self.take(self.number(n)))

    def rest(self) -> bytes:
        return self._data[self._at :]

    def __bool__(self) -> bool:
        return self._at < len(self._data)


def _hello(body: _Reader) -> ClientHello:
    """RFC 8446 §4.1.2."""
    legacy = body.number(2)
    body.take(32)  # random
    for size_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        body.vector(size_bytes)
    sni: str | None = None
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = (legacy,)
    seen: set[int] = set()
    extensions = body.vector(2) if body else _Reader(b"")
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise _Malformed(f"extension {kind} twice")
        seen.add(kind)
        if kind == _SNI:
            sni = _server_name(content.vector(2))
        elif kind == _ALPN:
            alpn = _protocols(content.vector(2))
        elif kind == _SUPPORTED_VERSIONS:
            offered = content.vector(1).rest()
            versions = tuple(int.from_bytes(offered[at : at + 2], "big") for at in range(0, len(offered) - 1, 2))
    return ClientHello(sni=sni, alpn=alpn, versions=versions)


def _server_name(names: _Reader) -> str | None:
    """The host_name of server_name (RFC 6066 §3)."""
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == 0:
            text = name.decode("ascii", "replace").lower().removesuffix(".")
            if not text or not text.isascii() or not text.isprintable() or " " in text:
                raise _Malformed("a server name that is not one")
            return text
    return None


def _protocols(names: _Reader) -> tuple[bytes, ...]:
    """RFC 7301 §3.1."""
    found: list[bytes] = []
    while names:
        name = names.vector(1).rest()
        if not name:
            raise _Malformed("an empty ALPN name")
        found.append(name)
    return tuple(found)
