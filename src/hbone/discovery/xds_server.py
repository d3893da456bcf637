"""The delta-xDS conversation, server's side: one subscriber's stream.

Per type the subscriber is a cursor into the catalogue's log of changes (`hbone.discovery.catalogue`): a wildcard
subscription costs a few numbers whatever the size of the mesh. A subscription by name holds the names asked for and
the names sent.

Responses are limited in size, and few may be unacknowledged: a subscriber that is slow, or never answers, makes the
server hold nothing. What changes meanwhile is sent once, in its newest form. A NACK is kept for the operator; the
resource is sent again when it changes or the subscriber reconnects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Final

from hbone.discovery.catalogue import Catalogue, LogEntry, Published
from hbone.discovery.xds import MORE_FOLLOWS, TAKES_PARTS, WILDCARD, XdsViolation
from hbone.proto.core_pb2 import Node
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.times import Instant
from hbone.values import dataclass

_MAX_UNKNOWN_TYPES = 16
_MAX_NACK_CHARS = 4096
MAX_NAMES: Final = 100_000  # demanded by one subscriber of one type; ztunnel asks for the addresses that its pods call


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much is sent at once, and how much of it may wait for its answer."""

    resources: int = 1000  # measured: 200,000 in thousands take 0.9 s, in one response 2.1 s
    bytes: int = 1024 * 1024
    in_flight: int = 4


# A subscriber that does not know parts calls itself ready after its first response: that one must hold everything.
# ztunnel decodes at most 200 MiB.
WHOLE_STATE: Final = BatchLimits(resources=10_000_000, bytes=150 * 1024 * 1024, in_flight=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """What a subscriber refused, in its own words."""

    nonce: str
    message: str
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationView:
    """One type of one subscriber.

    `behind` counts the revisions that it was not sent; `waiting_s` is the age of the oldest unanswered response.
    """

    type_url: str
    wildcard: bool
    names: int
    sent: int
    behind: int
    acknowledged: int
    unanswered: int
    waiting_s: float
    nacks: int
    nack: Nack | None


@dataclass(slots=True)
class _Sent:
    revision: int
    at: Instant


@dataclass(slots=True)
class _Parts:
    """A response in the making: encoded resources, removed names, and whether more is left to send."""

    entries: list[bytes] = field(default_factory=list[bytes])
    removed: list[str] = field(default_factory=list[str])
    more: bool = False
    size: int = 0

    @property
    def count(self) -> int:
        return len(self.entries) + len(self.removed)

    def add(self, item: Published | str) -> None:
        if isinstance(item, str):
            self.removed.append(item)
            self.size += len(item)
        else:
            self.entries.append(item.entry)
            self.size += len(item.entry)


class _Subscription:
    """One type of one subscriber."""

    def __init__(self, catalogue: Catalogue, request: DeltaDiscoveryRequest) -> None:
        self.catalogue = catalogue
        self.wildcard = not request.resource_names_subscribe  # the legacy way to say "*"
        self.wanted: set[str] = set()
        self.delivered: set[str] = set()  # only kept for subscriptions by name
        self.pending: dict[str, None] = {}  # keys to look up and answer, whatever the cursor
        self.have: dict[str, str] = dict(request.initial_resource_versions)
        self.gone = [name for name in self.have if name not in catalogue]  # to be told first
        self.floor = catalogue.revision  # removals up to here are none of its business
        self.cursor = 0 if self.wildcard else catalogue.revision
        self.owed = True  # the first response is sent even if empty: readiness waits for it
        self.unanswered: dict[str, _Sent] = {}
        self.sent = self.acknowledged = self.nacks = 0
        self.nack: Nack | None = None
        for name in self.gone:
            del self.have[name]
        self.change_names(request.resource_names_subscribe, request.resource_names_unsubscribe)
        if not self.wildcard:  # what it holds counts as asked for
            self.wanted.update(self.have)
            self.pending.update(dict.fromkeys(self.have))

    def change_names(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """Raises XdsViolation when more names are asked for than one subscriber may."""
        for key in subscribe:
            if key == WILDCARD:
                self.wildcard, self.cursor = True, 0
                continue
            self.wanted.add(key)
            self.pending[key] = None
            self.have.pop(key, None)  # asked for in so many words: answered even if it is held in that version
        if len(self.wanted) > MAX_NAMES:
            raise XdsViolation("too many names", why=f"more than {MAX_NAMES} of one type", fix='subscribe to "*"')
        for key in unsubscribe:
            if key == WILDCARD:
                self.wildcard, self.cursor = False, self.catalogue.revision
            else:
                self.wanted.discard(key)
                self.pending.pop(key, None)
        if unsubscribe:
            found = (resource.name for key in self.wanted for resource in self.catalogue.find(key))
            self.delivered = set() if self.wildcard else set(found)

    def answered(self, request: DeltaDiscoveryRequest, now: Instant) -> None:
        """An ACK or NACK; one for a nonce that is not waited for says nothing new."""
        sent = self.unanswered.pop(request.response_nonce, None)
        if sent is None:
            return
        if request.HasField("error_detail"):
            self.nacks += 1
            message = request.error_detail.message[:_MAX_NACK_CHARS]
            self.nack = Nack(nonce=request.response_nonce, message=message, at=now)
        else:
            self.acknowledged = max(self.acknowledged, sent.revision)

    def next_parts(self, limits: BatchLimits) -> _Parts | None:
        """What to send now, None if there is nothing to say."""
        parts = _Parts()
        for item in self._items():
            if parts.count >= limits.resources or parts.size >= limits.bytes:
                parts.more = self.owed = True  # so that a whole one ends the series even if the rest vanishes
                return parts
            parts.add(item)
        if not (parts.count or self.owed):
            return None
        self.owed = False
        return parts

    def _items(self) -> Iterator[Published | str]:
        """Resources and removed names, in order. An item is taken off when the next one is asked for."""
        while self.gone:
            if self.gone[-1] not in self.catalogue:
                yield self.gone[-1]
            self.gone.pop()
        while self.pending:
            yield from self._look_up(next(iter(self.pending)))
        for entry in self.catalogue.changes(self.cursor):
            item = self._for_subscriber(entry)
            if item is not None:
                yield item
            self._consumed(entry)
        self.cursor = self.catalogue.revision

    def _look_up(self, key: str) -> Iterator[Published | str]:
        found = self.catalogue.find(key)
        if not found:
            yield key
        elif found[0].name != key:  # an alias: go on with the resources' own names
            for resource in found:
                self.have.pop(resource.name, None)
                self.pending[resource.name] = None
        else:
            if self.have.get(key) != found[0].version:
                yield found[0]
            self.have.pop(key, None)
            self.delivered.add(key)
        del self.pending[key]

    def _for_subscriber(self, entry: LogEntry) -> Published | str | None:
        """What this change means to it, None for nothing."""
        if not self._concerned(entry):
            return None
        if entry.resource is None:
            return entry.name if entry.revision > self.floor else None
        return None if entry.resource.version == self.have.get(entry.name) else entry.resource

    def _consumed(self, entry: LogEntry) -> None:
        self.cursor = entry.revision
        if self.wildcard:
            self.have.pop(entry.name, None)
        elif entry.resource is None:
            self.delivered.discard(entry.name)
        elif self._concerned(entry):
            self.delivered.add(entry.name)

    def _concerned(self, entry: LogEntry) -> bool:
        if self.wildcard or entry.name in self.wanted or entry.name in self.delivered:
            return True
        return entry.resource is not None and not self.wanted.isdisjoint(entry.resource.aliases)


class Conversation:
    """One subscriber, from the first request of its stream to the end of it.

    `catalogues` in the order in which their changes are to arrive: policies before the workloads they are about.
    """

    def __init__(self, catalogues: Mapping[str, Catalogue], limits: BatchLimits | None = None) -> None:
        self.node: Node | None = None
        self.unknown_types: dict[str, None] = {}
        self._catalogues = catalogues
        self._limits = limits
        self._subscriptions: dict[str, _Subscription] = {}
        self._nonce = 0

    def receive(self, request: DeltaDiscoveryRequest, now: Instant) -> None:
        """Any request: first of its type, ACK, NACK, change of names. A type that is not served is only noted."""
        if self.node is None and request.HasField("node"):
            self.node = request.node
            self._limits = self._limits or self._limits_for(request.node)
        subscription = self._subscriptions.get(request.type_url)
        if subscription is not None:
            if request.response_nonce:
                subscription.answered(request, now)
            subscription.change_names(request.resource_names_subscribe, request.resource_names_unsubscribe)
        elif request.type_url in self._catalogues:
            self._subscriptions[request.type_url] = _Subscription(self._catalogues[request.type_url], request)
        elif len(self.unknown_types) < _MAX_UNKNOWN_TYPES:
            self.unknown_types[request.type_url[:200]] = None

    def next_response(self, now: Instant) -> bytes | None:
        """A serialized response to send now; None until something changes or an answer arrives."""
        limits = self._limits or WHOLE_STATE
        for type_url in self._catalogues:
            subscription = self._subscriptions.get(type_url)
            if subscription is None or len(subscription.unanswered) >= limits.in_flight:
                continue
            parts = subscription.next_parts(limits)
            if parts is not None:
                return self._response(subscription, parts, now)
        return None

    def cursor(self, type_url: str) -> int | None:
        """Up to which revision everything was sent; None without a subscription."""
        subscription = self._subscriptions.get(type_url)
        return None if subscription is None else subscription.cursor

    def views(self, now: Instant) -> tuple[ConversationView, ...]:
        return tuple(
            ConversationView(
                type_url=type_url,
                wildcard=one.wildcard,
                names=len(one.wanted),
                sent=one.sent,
                behind=one.catalogue.revision - one.cursor,
                acknowledged=one.acknowledged,
                unanswered=len(one.unanswered),
                waiting_s=max((now - sent.at for sent in one.unanswered.values()), default=0.0),
                nacks=one.nacks,
                nack=one.nack,
            )
            for type_url, one in self._subscriptions.items()
        )

    def _response(self, subscription: _Subscription, parts: _Parts, now: Instant) -> bytes:
        self._nonce += 1
        nonce = f"{self._nonce:x}"
        subscription.unanswered[nonce] = _Sent(subscription.cursor, now)
        subscription.sent += len(parts.entries)
        rest = DeltaDiscoveryResponse(
            system_version_info=f"{subscription.cursor}{MORE_FOLLOWS if parts.more else ''}",
            type_url=subscription.catalogue.type_url,
            nonce=nonce,
            removed_resources=parts.removed,
        )
        # concatenated messages merge (protobuf encoding): the entries were encoded when they were published
        return b"".join((*parts.entries, rest.SerializeToString()))

    @staticmethod
    def _limits_for(node: Node) -> BatchLimits:
        return BatchLimits() if TAKES_PARTS in node.metadata.fields else WHOLE_STATE
