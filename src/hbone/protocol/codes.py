"""Error codes of HTTP/2 (RFC 9113 §7) and the two ways in which a peer's fault ends something."""

from enum import IntEnum
from typing import Any

from hbone.errors import PeerViolation, TunnelFailure


class ErrorCode(IntEnum):
    """What RST_STREAM and GOAWAY carry. A peer may send others; those stay plain integers."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


_NAMES = {int(code): code.name for code in ErrorCode}


def code_name(code: int) -> str:
    """The name in RFC 9113, or `0x1f` for a code that it does not know."""
    return _NAMES.get(code) or f"{code:#x}"


class StreamViolation(PeerViolation):
    """The peer broke a rule in a way that concerns one stream: RST_STREAM with `code` (RFC 9113 §5.4.2)."""

    def __init__(self, code: ErrorCode, what: str, **values: Any) -> None:
        super().__init__(what, why=f"answered with RST_STREAM {code.name}", **values)
        self.code = code


class ConnectionViolation(PeerViolation, TunnelFailure):
    """The peer broke a rule in a way that ends the connection: GOAWAY with `code` (RFC 9113 §5.4.1)."""

    def __init__(self, code: ErrorCode, what: str, **values: Any) -> None:
        super().__init__(what, why=f"answered with GOAWAY {code.name}", **values)
        self.code = code
