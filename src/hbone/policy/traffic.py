"""Connections out of an access log, in either layout: who really talks to whom.

Both ends of a connection write a line when it ends, so the same connection may be read twice: the end that saw more
of them counts. Connections that a policy kept out, or cut, end with such a line too, and are kept apart: somebody
asked for them, and nobody wanted them. What cannot be placed, such as a line of a connection that was turned away
before it was known for whom it was, is counted and left out.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Final, cast

from hbone.addr import InvalidAddress, IpAddress, SocketAddress
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.policy.model import Subject
from hbone.policy.world import Question, World
from hbone.values import dataclass

COMPLETE: Final = "connection complete"
SCOPES: Final = frozenset({"access", "ztunnel::access"})
DENIALS: Final = (
    "denied by policy",  # our inbound end, on arrival or after a change
    " may not connect: only ",  # `hbone expose --allow`
    "http status: 401",  # the outbound end, ours or ztunnel's
    "http status: 403",  # of an Envoy's policy
    "connection closed due to policy rejection",  # ztunnel's inbound end
    "connection closed due to policy change",
)
"""What an access line's error says, somewhere in it, where a policy ended the connection."""
_FIELD: Final = re.compile(r'([A-Za-z_.]+)=("(?:[^"\\]|\\.)*"|\S*)(?:\s|$)')
_ESCAPE: Final = re.compile(r"\\(?:u\{([0-9a-f]{1,6})\}|(.))")
_SHORT: Final = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One pair of ends. `identity` None: plaintext. `source` and `workload` (the destination) are "namespace/name",
    "" where the log has none."""

    identity: SpiffeId | None
    source_ip: IpAddress
    source: str
    workload: str
    destination_ip: IpAddress
    port: int

    @property
    def caller(self) -> str:
        return str(self.identity) if self.identity is not None else f"{self.source_ip} in plaintext"


@dataclass(slots=True, kw_only=True)
class Traffic:
    """What a log tells: how often each was seen, and how many access lines could not be used, by reason.

    `seen` passed all policies, `denied` did not. `others`: lines that are not blank, and no access lines.
    """

    seen: dict[Seen, int] = field(default_factory=dict[Seen, int])
    denied: dict[Seen, int] = field(default_factory=dict[Seen, int])
    unused: dict[str, int] = field(default_factory=dict[str, int])
    others: int = field(default=0, compare=False)

    @property
    def connections(self) -> int:
        """How many passed."""
        return sum(self.seen.values())

    @property
    def asked(self) -> dict[Seen, int]:
        """What passed and what was denied."""
        return dict(Counter(self.seen) + Counter(self.denied))


def read_traffic(lines: Iterable[str]) -> Traffic:
    """Lines that are no access lines are passed over; nothing in a log is an error."""
    traffic = Traffic()
    passed: _Lines = Counter()
    denied: _Lines = Counter()
    for line in lines:
        fields = fields_of(line)
        if fields is None:
            traffic.others += bool(line.strip())
            continue
        seen = _seen(fields)
        if isinstance(seen, str):
            traffic.unused[seen] = traffic.unused.get(seen, 0) + 1
            continue
        (denied if _was_denied(fields) else passed)[seen, _text(fields, "direction")] += 1
    traffic.seen, traffic.denied = _merged(passed), _merged(denied)
    return traffic


_Lines = Counter[tuple[Seen, str]]
"""How many of each, by direction."""


def _merged(lines: _Lines) -> dict[Seen, int]:
    """Each connection once: as the end saw it that saw more, of equals as the inbound one, for it judges."""
    ends: dict[Seen, dict[str, Counter[Seen]]] = {}
    for (seen, direction), count in lines.items():
        ends.setdefault(_agreed(seen), {}).setdefault(direction, Counter())[seen] = count
    merged: Counter[Seen] = Counter()
    for by_direction in ends.values():
        merged += max(by_direction.items(), key=lambda end: (end[1].total(), end[0] == "inbound"))[1]
    return dict(merged)


def _agreed(seen: Seen) -> Seen:
    """What both ends say alike. In a tunnel the inbound end sees the other proxy's address, and may know no workload
    there."""
    return seen if seen.identity is None else replace(seen, source_ip=seen.destination_ip, source="")


def _was_denied(fields: Mapping[str, object]) -> bool:
    error = _text(fields, "error")
    return any(words in error for words in DENIALS)


def fields_of(line: str) -> Mapping[str, object] | None:
    """The fields of an access line, with `message`; None for any other line."""
    if line.startswith("{"):
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        fields = cast("dict[str, object]", value)
        return fields if fields.get("scope") in SCOPES else None
    parts = line.rstrip("\n").split("\t", 4)
    if len(parts) != 5 or parts[2].partition(":")[0] not in SCOPES:
        return None
    return {"message": parts[3], **{name: _unquoted(value) for name, value in _FIELD.findall(parts[4])}}


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return _ESCAPE.sub(_character, text[1:-1])


def _character(found: re.Match[str]) -> str:
    if found[1] is not None:
        code = int(found[1], 16)
        return chr(code) if code < 0x110000 else "\ufffd"
    return _SHORT.get(found[2], found[2])


def _seen(fields: Mapping[str, object]) -> Seen | str:
    """The connection of an access line, or why there is none."""
    if fields.get("message") != COMPLETE:
        return "turned away or not yet complete"
    try:
        source = SocketAddress.parse(_text(fields, "src.addr"))
        # in a tunnel the port that counts is that of the CONNECT
        target = SocketAddress.parse(_text(fields, "dst.hbone_addr") or _text(fields, "dst.addr"))
    except InvalidAddress:
        return "for a name, not an address"
    identity = _text(fields, "src.identity")
    try:
        spiffe = SpiffeId.parse(identity) if identity else None
    except InvalidSpiffeId:
        return "with an identity that is none"
    return Seen(
        identity=spiffe,
        source_ip=source.ip,
        source=_key(fields, "src"),
        workload=_key(fields, "dst"),
        destination_ip=target.ip,
        port=target.port,
    )


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _key(fields: Mapping[str, object], side: str) -> str:
    namespace, name = _text(fields, f"{side}.namespace"), _text(fields, f"{side}.workload")
    return f"{namespace}/{name}" if namespace and name else ""


def subject_of(seen: Seen, world: World) -> Subject | None:
    """The workload that was called, by its name or else by its address."""
    return (world.find(seen.workload) if seen.workload else None) or world.at(seen.destination_ip)


def question_of(seen: Seen, subject: Subject) -> Question:
    return Question(identity=seen.identity, source_ip=seen.source_ip, subject=subject, port=seen.port)
