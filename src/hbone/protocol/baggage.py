"""The headers that describe a carried connection: `baggage`, `forwarded`, `traceparent`.

Written byte for byte as ztunnel writes them, read with more tolerance. They are for labels and logs, never for a
decision: whoever sends them may write what it likes. So reading never raises: what makes no sense is None.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hbone.addr import InvalidAddress, SocketAddress
from hbone.times import Rng
from hbone.values import dataclass

MAX_BAGGAGE_BYTES: Final = 8192  # W3C Baggage §3.3.2: what all implementations take
MAX_FORWARDED_BYTES: Final = 1024
TRACEPARENT_BYTES: Final = 55
WORKLOAD_TYPES: Final = ("deployment", "cronjob", "pod", "job")

_VISIBLE: Final = re.compile(rb"[\t\x20-\x7e]*")
_UNFIT_VALUE: Final = re.compile(r"[^\x20-\x7e]|[,;]|\A | \Z")  # would end the member, or the header
_KEYS: Final = {  # key on the wire → field of Baggage, in the order on the wire; the workload's name is third
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    "service.name": "service",
    "service.version": "version",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
}
_WORKLOAD_KEYS: Final = {f"k8s.{kind}.name": kind for kind in WORKLOAD_TYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baggage:
    """Who a workload says it is. Empty: not said. `workload_type`: one of WORKLOAD_TYPES, as `workload` names it."""

    cluster: str = ""
    namespace: str = ""
    workload_type: str = ""
    workload: str = ""
    service: str = ""
    version: str = ""
    region: str = ""
    zone: str = ""

    def header(self) -> bytes:
        """The value of the header; empty when nothing is said. A value that cannot stand in a member is left out."""
        members = [(key, getattr(self, field)) for key, field in _KEYS.items()]
        if self.workload_type:
            members.insert(2, (f"k8s.{self.workload_type.lower()}.name", self.workload))
        return ",".join(f"{key}={value}" for key, value in members if value and not _UNFIT_VALUE.search(value)).encode()


def parse_baggage(values: Iterable[bytes]) -> Baggage | None:
    """What the `baggage` lines of one message say, in order; None where they say nothing or are not text.

    Of a key that comes twice the last counts, of a value what is before a second "=". Space around members and
    properties behind ";" are dropped (W3C Baggage §3.3.1; ztunnel takes neither).
    """
    return _parse_baggage(b",".join(values))


@lru_cache(maxsize=256)  # the same workload says the same at each connection
def _parse_baggage(text: bytes) -> Baggage | None:
    if not text or len(text) > MAX_BAGGAGE_BYTES or not _VISIBLE.fullmatch(text):
        return None
    said: dict[str, str] = {}
    for member in text.decode().split(","):
        parts = member.partition(";")[0].split("=")
        key, value = parts[0].strip(), parts[1].strip() if len(parts) > 1 else ""
        if len(parts) < 2:
            continue
        if key in _KEYS:
            said[_KEYS[key]] = value
        elif key in _WORKLOAD_KEYS:
            said |= {"workload_type": _WORKLOAD_KEYS[key] if value else "", "workload": value}
    return Baggage(**said) if any(said.values()) else None


@dataclass(frozen=True, slots=True)
class Forwarded:
    """`client`: the application's socket. `host`: the service it asked for. None: not known."""

    client: SocketAddress | None = None
    host: str | None = None

    def header(self) -> bytes:
        """The value of the header; the address is quoted, as RFC 7239 §6 wants for its colon, the host is not."""
        parts = [f'for="{self.client}"'] if self.client is not None else []
        if self.host:
            parts.append(f"host={self.host}")
        return ";".join(parts).encode()


def parse_forwarded(value: bytes) -> Forwarded | None:
    """What a `forwarded` header says; None if neither part makes sense.

    `host` as ztunnel reads it: the first part that begins with it, in lower case, quoted or not.
    """
    if len(value) > MAX_FORWARDED_BYTES or not _VISIBLE.fullmatch(value):
        return None
    client: SocketAddress | None = None
    host: str | None = None
    for part in value.decode().split(";"):
        name, _, said = part.strip().partition("=")
        said = said.removeprefix('"').removesuffix('"')
        if name == "host" and host is None:
            host = said
        elif name.lower() == "for" and client is None:
            client = _address(said)
    return Forwarded(client=client, host=host or None) if client or host else None


def _address(text: str) -> SocketAddress | None:
    try:
        return SocketAddress.parse(text)
    except InvalidAddress:  # `unknown`, or a hidden one (RFC 7239 §6.3): allowed, and says nothing
        return None


_NO_ZEROS: Final = 1 << 64 | 1  # the last bit of each id: neither is zero
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """W3C Trace Context §3.2: ids of 128 and 64 bits, neither zero on the wire; `flags` a byte."""

    trace_id: int
    parent_id: int
    flags: int = 0

    def header(self) -> bytes:
        return f"00-{self.trace_id:032x}-{self.parent_id:016x}-{self.flags:02x}".encode()


def fresh_traceparent(rng: Rng) -> bytes:
    """The header of a new trace, not sampled: hbone exports no spans."""
    ids = b"%048x" % (rng.getrandbits(192) | _NO_ZEROS)
    return b"00-" + ids[:32] + b"-" + ids[32:] + b"-00"


def parse_traceparent(value: bytes) -> TraceParent | None:
    """The trace that a header of exactly 55 characters names; None for any other, and for ids of zeros."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, parent_id, flags = (int(group, 16) for group in match.groups())
    return TraceParent(trace_id, parent_id, flags) if version != 0xFF and trace_id and parent_id else None
