"""What makes a header list malformed (RFC 9113 §8.1.1, §8.2, §8.3, §8.5): a stream error PROTOCOL_ERROR.

What is merely not for us is not judged here: a GET, or a CONNECT whose `:authority` is no address, is a well-formed
request, and the node answers it with 400. Each function returns what is wrong, in words, or None.
"""

import re
from collections.abc import Iterable
from typing import Final

from hbone.protocol.headers import Field

_BAD_NAME: Final = re.compile(rb"[\x00-\x20A-Z:\x7f-\xff]")  # §8.2.1; a name of no bytes is caught apart
_BLANKS: Final = frozenset((b" ", b"\t"))  # §8.2.1: none at either end of a value
_USUAL: Final = frozenset((b"baggage", b"forwarded", b"traceparent", b"date", b"server"))  # well-formed: not looked at
_OF_THE_CONNECTION: Final = frozenset(  # §8.2.2
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_REQUEST: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_RESPONSE: Final = frozenset((b":status",))
_NONE: Final[frozenset[bytes]] = frozenset()
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")


def fault_in_request(fields: Iterable[Field]) -> str | None:
    """Of a request. Extended CONNECT (RFC 8441) is a fault: we never announce it."""
    pseudo = _pseudo_headers(fields, _REQUEST)
    if isinstance(pseudo, str):
        return pseudo
    method = pseudo.get(b":method")
    if not method:
        return "no :method"
    if b":protocol" in pseudo:
        return ":protocol, though extended CONNECT was not announced"
    if method == b"CONNECT":
        if b":authority" not in pseudo:
            return "CONNECT without :authority"
        if b":scheme" in pseudo or b":path" in pseudo:
            return "CONNECT with :scheme or :path"
    elif not pseudo.get(b":scheme") or not pseudo.get(b":path"):
        return f"{method[:20]!r} without :scheme or :path"
    return None


def fault_in_response(fields: Iterable[Field]) -> str | None:
    """Of a response, interim or final."""
    pseudo = _pseudo_headers(fields, _RESPONSE)
    if isinstance(pseudo, str):
        return pseudo
    status = pseudo.get(b":status")
    if status is None:
        return "no :status"
    if not _STATUS.fullmatch(status):
        return f":status {status[:20]!r}"
    return ":status 101, which HTTP/2 does not have" if status == b"101" else None


def fault_in_trailers(fields: Iterable[Field]) -> str | None:
    """Of trailers, which have no pseudo-headers."""
    pseudo = _pseudo_headers(fields, _NONE)
    return pseudo if isinstance(pseudo, str) else None


def is_interim(fields: Iterable[Field]) -> bool:
    """Is this well-formed response a 1xx?"""
    return any(name == b":status" and value.startswith(b"1") for name, value in fields)


def _pseudo_headers(fields: Iterable[Field], known: frozenset[bytes]) -> dict[bytes, bytes] | str:
    """The pseudo-headers by name, or what is wrong with the list."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular:
                return f"{name[:40]!r} after an ordinary field"
            if name not in known:
                return f"pseudo-header {name[:40]!r}"
            if name in pseudo:
                return f"{name!r} twice"
            pseudo[name] = value
        else:
            regular = True
            if name not in _USUAL and (not name or _BAD_NAME.search(name)):
                return f"field name {name[:40]!r}"
            if name in _OF_THE_CONNECTION or (name == b"te" and value != b"trailers"):
                return f"field {name!r}, which is for one connection of HTTP/1"
        if b"\0" in value or b"\n" in value or b"\r" in value or value[:1] in _BLANKS or value[-1:] in _BLANKS:
            return f"value of {name[:40]!r} with a byte that no field may have there"
    return pseudo
