"""`envoy.service.discovery.v3.AggregatedDiscoveryService`, delta only: one conversation for each stream.

Reading and writing are two tasks, so that an answer is taken while a large response is on its way. The conversation
(`hbone.discovery.xds_server`) decides what is sent; here it is only woken when something may have changed.
"""

import asyncio
import logging
from collections.abc import Callable

from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.callers import Caller, Identify
from hbone.control.publish import Mesh
from hbone.control.rpc import Refusal, answer, receive
from hbone.discovery.xds import HOLDER
from hbone.discovery.xds_server import Conversation, ConversationView
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceBase
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.times import Clock
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

_MAX_REQUEST_BYTES = 64 * 1024 * 1024  # names and versions of 200,000 resources on a reconnect: 25 MB
_FORGET_ABOVE = 4096  # removals that are remembered before it is worth finding out who still needs them
_GIVE_UP_ABOVE = 100_000  # removals that wait for one subscriber: 20 MB, and a new stream costs it less than they do

DiscoveryStream = Stream[DeltaDiscoveryRequest, DeltaDiscoveryResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberView:
    """One connected subscriber. `unknown_types` are type URLs that it asked for and that are not served.

    `holder`: what it calls itself when it asks for certificates, empty for a client that is not ours.
    """

    node: str
    caller: str
    holder: str
    types: tuple[ConversationView, ...]
    unknown_types: tuple[str, ...]


class _Subscriber:
    def __init__(self, conversation: Conversation, caller: Caller) -> None:
        self.conversation = conversation
        self.caller = caller
        self.changed = asyncio.Event()
        self.given_up = asyncio.Event()


class Subscribers:
    """All streams that are open on this server, and the mesh that they are told about."""

    def __init__(self, mesh: Mesh, clock: Clock) -> None:
        self.mesh = mesh
        self.clock = clock
        self._open: set[_Subscriber] = set()
        self._end = mesh.on_published(self.wake)
        self._answers: dict[object, Callable[[], None]] = {}

    def wake(self) -> None:
        """The catalogues may have changed."""
        for subscriber in self._open:
            subscriber.changed.set()
        self._forget_removals()

    def close(self) -> None:
        self._end()

    def join(self, caller: Caller) -> _Subscriber:
        subscriber = _Subscriber(Conversation(self.mesh.catalogues), caller)
        self._open.add(subscriber)
        return subscriber

    def leave(self, subscriber: _Subscriber) -> None:
        self._open.discard(subscriber)
        self.answered()

    def __len__(self) -> int:
        return len(self._open)

    def views(self) -> tuple[SubscriberView, ...]:
        now = self.clock.now()
        return tuple(
            SubscriberView(
                node=_name(one.conversation),
                holder=_metadata(one.conversation, HOLDER),
                caller=str(one.caller),
                types=one.conversation.views(now),
                unknown_types=tuple(one.conversation.unknown_types),
            )
            for one in self._open
        )

    def on_answer(self, call: Callable[[], None]) -> Callable[[], object]:
        """`call` whenever some subscriber came, answered or went. Returns what ends it."""
        key = object()
        self._answers[key] = call
        return lambda: self._answers.pop(key, None)

    def answered(self) -> None:
        for call in tuple(self._answers.values()):
            call()

    def _forget_removals(self) -> None:
        for type_url, catalogue in self.mesh.catalogues.items():
            if catalogue.removals_remembered > _FORGET_ABOVE:
                cursors = [one.conversation.cursor(type_url) for one in self._open]
                catalogue.forget_removed(min((at for at in cursors if at is not None), default=catalogue.revision))
            if catalogue.removals_remembered > _GIVE_UP_ABOVE:
                self._give_up_the_last(type_url)

    def _give_up_the_last(self, type_url: str) -> None:
        """Who is furthest behind holds up what all others have long been told; on a new stream it says what it has."""
        behind = {one: at for one in self._open if (at := one.conversation.cursor(type_url)) is not None}
        last = min(behind.values(), default=0)
        for one in [one for one, at in behind.items() if at == last]:
            log.warning("subscriber given up", extra={"caller": str(one.caller), "type": type_url, "behind": last})
            self._open.discard(one)
            one.given_up.set()


def _name(conversation: Conversation) -> str:
    """What an operator calls the node: its own name for itself, else the id that ztunnels and Envoys send."""
    named = _metadata(conversation, "NODE_NAME")
    if named or conversation.node is None or HOLDER in conversation.node.metadata.fields:
        return named
    return conversation.node.id


def _metadata(conversation: Conversation, key: str) -> str:
    if conversation.node is None or key not in conversation.node.metadata.fields:
        return ""
    return conversation.node.metadata.fields[key].string_value[:200]


class DiscoveryService(AggregatedDiscoveryServiceBase):
    """For one connection."""

    def __init__(self, subscribers: Subscribers, identify: Identify) -> None:
        self._subscribers = subscribers
        self._identify = identify

    async def DeltaAggregatedResources(self, stream: DiscoveryStream) -> None:
        caller = await self._identify(stream.metadata or {})
        if not caller.sees_mesh:
            raise Refusal(Status.PERMISSION_DENIED, f"{caller} may not see the mesh")
        subscriber = self._subscribers.join(caller)
        writer = asyncio.create_task(self._write(subscriber, stream), name=f"xds to {caller}")
        reader = asyncio.create_task(self._read(subscriber, stream), name=f"xds from {caller}")
        given_up = asyncio.create_task(_give_up(subscriber), name=f"xds with {caller}")
        tasks = {reader, writer, given_up}
        try:
            # the stream lives as long as both: its end ends the writer, a failed write the reader
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._subscribers.leave(subscriber)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, subscriber: _Subscriber, stream: DiscoveryStream) -> None:
        conversation = subscriber.conversation
        while True:
            request = await receive(stream, DeltaDiscoveryRequest, max_bytes=_MAX_REQUEST_BYTES)
            if request is None:
                return
            conversation.receive(request, self._subscribers.clock.now())
            if request.HasField("error_detail"):
                node = conversation.node.id if conversation.node is not None else ""
                reason = request.error_detail.message[:1000]
                log.warning("resources rejected", extra={"node": node, "type": request.type_url[:200], "why": reason})
            subscriber.changed.set()
            self._subscribers.answered()

    async def _write(self, subscriber: _Subscriber, stream: DiscoveryStream) -> None:
        while True:
            subscriber.changed.clear()
            while (response := subscriber.conversation.next_response(self._subscribers.clock.now())) is not None:
                await answer(stream, response)
            await subscriber.changed.wait()


async def _give_up(subscriber: _Subscriber) -> None:
    await subscriber.given_up.wait()
    raise Refusal(
        Status.ABORTED, "too far behind", why="too many removals wait for you", fix="open a new stream, and answer"
    )
