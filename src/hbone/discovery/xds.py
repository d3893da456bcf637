"""The delta-xDS conversation, subscriber's side: subscribe, ACK, NACK, resume.

A stream begins with one request per type that says what we hold already (`start_stream`). Every response is first
taken apart (`receive`), then applied by the caller, then answered (`answer`) with an ACK or, if resources were
rejected, with a NACK that names them: the good ones of a partly bad response are in force all the same, a rejected
one leaves its former version in force. What we hold outlives the stream, so the next one resumes.

Servers of hbone send a large state in parts and mark each that has a successor by a "+" at the end of
`system_version_info`; other servers never do, and each of their responses is whole.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Final

from google.protobuf.message import DecodeError

from hbone.errors import PeerViolation
from hbone.proto.core_pb2 import Node
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.values import dataclass

ADDRESS_TYPE: Final = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE: Final = "type.googleapis.com/istio.security.Authorization"

WILDCARD: Final = "*"
MORE_FOLLOWS: Final = "+"
TAKES_PARTS: Final = "HBONE_TAKES_PARTS"
"""Node metadata key (any value) by which we say that we know that mark. To others the first response is all."""
HOLDER: Final = "HBONE_HOLDER"
"""Node metadata key: what this subscriber calls itself when it asks the CA for certificates."""

MAX_RESPONSE_BYTES: Final = 200 * 1024 * 1024  # as ztunnel
_MAX_NACK_CHARS = 4096  # a reason is for a person; ten thousand of them are not
_INVALID_ARGUMENT = 3  # google.rpc.Code


class XdsViolation(PeerViolation):
    """A message that is not of the conversation."""


class Interest(Enum):
    """What is asked for of a type: everything, everything if the server knows the type at all (nobody waits for it),
    or only what is demanded by name."""

    WILDCARD = "wildcard"
    IF_OFFERED = "if offered"
    ON_DEMAND = "on demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Who subscribes. That we take a state in parts is added to `metadata`."""

    id: str
    metadata: Mapping[str, str | float | bool]
    cluster: str = ""

    def message(self) -> Node:
        node = Node(id=self.id, cluster=self.cluster)
        for key, value in self.metadata.items():
            node.metadata[key] = value
        node.metadata[TAKES_PARTS] = True
        return node


@dataclass(frozen=True, slots=True)
class Update:
    """A resource that was sent: `body` is its serialized message."""

    name: str
    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reject:
    """A resource that cannot be taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One response, taken apart. `rejects` were found out already; `names` releases whoever demanded one of them."""

    type_url: str
    nonce: str
    updates: tuple[Update, ...]
    removed: tuple[str, ...]
    rejects: tuple[Reject, ...]
    names: frozenset[str]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionView:
    """One type, as the operator sees it."""

    type_url: str
    interest: str
    resources: int
    synced: bool
    demanded: int
    rejected: tuple[Reject, ...]


class _Held:
    """One type's state."""

    __slots__ = ("demanded", "interest", "rejected", "synced", "versions")

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        self.versions: dict[str, str] = {}
        self.demanded: dict[str, None] = {}
        self.rejected: dict[str, Reject] = {}
        self.synced = False


class Subscriber:
    """All types that one client subscribes to, over any number of successive streams."""

    def __init__(self, node: NodeInfo, interests: Mapping[str, Interest]) -> None:
        self._node = node.message()
        self._types = {type_url: _Held(interest) for type_url, interest in interests.items()}

    @property
    def synced(self) -> bool:
        """Whether of every wildcard type a whole response has been taken without a reject; never false again."""
        return all(held.synced for held in self._types.values() if held.interest is Interest.WILDCARD)

    def held(self, type_url: str) -> Mapping[str, str]:
        """Name → version of what is in force."""
        return self._types[type_url].versions

    def resume(self, type_url: str, versions: Mapping[str, str]) -> None:
        """Name → version of what is in force already, from before this process; only before the first stream."""
        self._types[type_url].versions.update(versions)

    def start_stream(self) -> list[DeltaDiscoveryRequest]:
        """The first requests of a new stream."""
        requests: list[DeltaDiscoveryRequest] = []
        for type_url, held in self._types.items():
            request = DeltaDiscoveryRequest(node=self._node, type_url=type_url, initial_resource_versions=held.versions)
            if held.interest is Interest.ON_DEMAND:
                # both at once is "nothing": an empty list alone would mean everything
                request.resource_names_subscribe.append(WILDCARD)
                request.resource_names_unsubscribe.append(WILDCARD)
            requests.append(request)
            if held.demanded:
                requests.append(DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=held.demanded))
        return requests

    def demand(self, type_url: str, names: Iterable[str]) -> DeltaDiscoveryRequest | None:
        """Ask for resources by name or alias; None if all of them are subscribed to already."""
        held = self._types[type_url]
        new = [name for name in dict.fromkeys(names) if name not in held.demanded]
        if not new:
            return None
        held.demanded.update(dict.fromkeys(new))
        return DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=new)

    def release(self, type_url: str, names: Iterable[str]) -> DeltaDiscoveryRequest | None:
        """Ask no longer for them; None if they were not asked for."""
        held = self._types[type_url]
        known = [name for name in dict.fromkeys(names) if name in held.demanded]
        if not known:
            return None
        for name in known:
            del held.demanded[name]
        return DeltaDiscoveryRequest(type_url=type_url, resource_names_unsubscribe=known)

    def receive(self, response: DeltaDiscoveryResponse) -> Batch:
        """Take a response apart. A type that we did not ask for gives an empty batch, to be acknowledged."""
        known = response.type_url in self._types
        updates: list[Update] = []
        rejects: list[Reject] = []
        names = set(response.removed_resources)
        for resource in response.resources if known else ():
            names.add(resource.name)
            names.update(resource.aliases)
            if resource.resource.type_url == response.type_url:
                updates.append(Update(resource.name, resource.version, resource.resource.value))
            else:
                rejects.append(Reject(resource.name, f"is a {resource.resource.type_url or 'resource without type'}"))
        return Batch(
            type_url=response.type_url,
            nonce=response.nonce,
            updates=tuple(updates),
            removed=tuple(response.removed_resources) if known else (),
            rejects=tuple(rejects),
            names=frozenset(names),
            whole=not response.system_version_info.endswith(MORE_FOLLOWS),
        )

    def answer(self, batch: Batch, rejects: Collection[Reject] = ()) -> DeltaDiscoveryRequest:
        """Record that `batch` is in force but for `rejects`: the ACK or NACK to send."""
        bad = {reject.name: reject for reject in (*batch.rejects, *rejects)}
        request = DeltaDiscoveryRequest(type_url=batch.type_url, response_nonce=batch.nonce)
        if bad:
            request.error_detail.code = _INVALID_ARGUMENT
            text = "; ".join(f"{reject.name}: {reject.reason}" for reject in bad.values())
            request.error_detail.message = text[:_MAX_NACK_CHARS]
        held = self._types.get(batch.type_url)
        if held is not None:
            self._record(held, batch, bad)
        return request

    def views(self) -> tuple[SubscriptionView, ...]:
        return tuple(
            SubscriptionView(
                type_url=type_url,
                interest=held.interest.value,
                resources=len(held.versions),
                synced=held.synced,
                demanded=len(held.demanded),
                rejected=tuple(held.rejected.values()),
            )
            for type_url, held in self._types.items()
        )

    @staticmethod
    def _record(held: _Held, batch: Batch, bad: Mapping[str, Reject]) -> None:
        for name in batch.removed:
            held.versions.pop(name, None)
            held.rejected.pop(name, None)
        for update in batch.updates:
            if update.name not in bad:
                held.versions[update.name] = update.version
                held.rejected.pop(update.name, None)
        # A rejected resource keeps its former version here as it does in force: the next stream resumes from that,
        # and a removal meanwhile still reaches us (a client that forgot the name would keep the resource for ever).
        held.rejected.update(bad)
        if batch.whole and not bad:
            held.synced = True


def parse_response(data: bytes) -> DeltaDiscoveryResponse:
    """Raises XdsViolation."""
    if len(data) > MAX_RESPONSE_BYTES:
        raise XdsViolation(f"a discovery response of {len(data)} bytes", why=f"the limit is {MAX_RESPONSE_BYTES}")
    try:
        return DeltaDiscoveryResponse.FromString(data)
    except DecodeError as error:
        raise XdsViolation("a discovery response that is not protobuf", why=str(error)) from error
