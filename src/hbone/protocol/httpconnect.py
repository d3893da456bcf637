"""HTTP/1.1 CONNECT (RFC 9110 §9.3.6) as a server: a request's head in, target out; and the answers."""

from typing import Final

from hbone.addr import Authority, InvalidAddress, parse_authority
from hbone.errors import PeerViolation

MAX_HEAD_BYTES: Final = 16_384
END: Final = b"\r\n\r\n"
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}


class HttpViolation(PeerViolation):
    """Not a CONNECT that we can serve. `reply`: bytes to send before closing; none to who speaks no HTTP."""

    reply: bytes = b""


def parse_head(head: bytes) -> Authority:
    """The target of a request head that ends with an empty line; raises HttpViolation."""
    line, _, _ = head.partition(b"\r\n")
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _violation(400, "not an HTTP/1.1 request", "speak SOCKS5 or HTTP CONNECT to this port")
    if parts[0] != "CONNECT":
        raise _violation(405, f"method {parts[0][:20]!r}", "use CONNECT (curl: --proxytunnel), or SOCKS5")
    try:
        return parse_authority(parts[1])
    except InvalidAddress as error:
        raise _violation(400, error.what, error.fix) from error


def too_large() -> HttpViolation:
    return _violation(431, f"a request head of more than {MAX_HEAD_BYTES} bytes", "send fewer headers")


def _violation(status: int, what: str, fix: str) -> HttpViolation:
    return HttpViolation(what, fix=fix, reply=refusal(status, f"{what}; {fix}"))


def refusal(status: int, text: str) -> bytes:
    """An answer other than 200, with the reason as text for whoever reads it."""
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: text/plain; charset=utf-8\r\n"
    extra = "allow: CONNECT\r\n" if status == 405 else ""
    return f"{head}{extra}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
