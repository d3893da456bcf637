"""What agent and worker say to each other: values, and their bytes.

Each message is one JSON object behind its length, four bytes, the most significant first. Both ends are of the same
version: the agent starts its workers from the same files.
"""

import struct
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, TypeAlias

import orjson

from hbone.errors import PeerViolation
from hbone.values import dataclass

PREFIX: Final = struct.Struct(">I")
MAX_MESSAGE_BYTES: Final = 512 << 20  # metrics of 10,000 label sets are 15 MB, 65,000 connections 40 MB


class InvalidMessage(PeerViolation):
    """Not a message of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """The agent's first words. `settings`: those of a node, JSON-shaped, its listeners descriptors.

    `balance`: descriptors of what spreads tunnels over workers (`Balancing.handed`); None where nothing does.
    `feeds`: Unix sockets that tell the mesh, by the name of the source they tell of; certificates come from the first.
    `directory` is the private one that they are in; `turn` a file whose lock is held while lines are written.
    """

    number: int
    settings: Mapping[str, Any]
    feeds: Mapping[str, str]
    directory: str
    turn: str
    levels: str
    balance: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Say what you hold: `topics` are names in `worker.TOPICS`."""

    id: int
    topics: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """These log levels are in force now."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Stop accepting, finish, end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the worker still waits for before it takes connections; nothing: it takes them."""

    pending: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The answer to an Ask, by topic."""

    id: int
    topics: Mapping[str, Any] = field(default_factory=dict[str, Any])


Message: TypeAlias = Begin | Ask | Levels | Drain | Waiting | Said
_KINDS: Final[Mapping[str, type[Message]]] = {
    kind.__name__: kind for kind in (Begin, Ask, Levels, Drain, Waiting, Said)
}


def encode(message: Message) -> bytes:
    """With its length before it."""
    body = orjson.dumps({"kind": type(message).__name__, "says": message})
    return PREFIX.pack(len(body)) + body


def length_of(prefix: bytes) -> int:
    """Bytes that follow; raises InvalidMessage."""
    (length,) = PREFIX.unpack(prefix)
    if length > MAX_MESSAGE_BYTES:
        raise InvalidMessage(f"a message of {length} bytes", why=f"the limit is {MAX_MESSAGE_BYTES}")
    return int(length)


def decode(body: bytes) -> Message:
    """Without its length; raises InvalidMessage."""
    try:
        value = orjson.loads(body)
        return _KINDS[value["kind"]](**value["says"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidMessage("not a message between a node's processes", why=repr(error)[:200]) from error
