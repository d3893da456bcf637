"""Keeps a store fresh: the delta-xDS client, on top of `hbone.discovery.xds`.

Between streams the last good state stays in force, for however long (fail static). A stream that breaks is opened
again after a jittered pause and resumes from what we hold.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from grpclib.client import Stream
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import H2Error

from hbone.control.backoff import reconnect_after
from hbone.control.channel import Endpoint, calling, opened
from hbone.discovery.model import Service, Workload
from hbone.discovery.resources import AddressDecoder, InvalidResource
from hbone.discovery.store import Update
from hbone.discovery.xds import Batch, Interest, NodeInfo, Reject, Subscriber, SubscriptionView
from hbone.discovery.xds import Update as ResourceUpdate
from hbone.errors import HboneError, Unreachable
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.times import Rng

log = logging.getLogger("hbone.control")

_DECODE_AT_ONCE = 500  # resources between two looks at the loop: about 5 ms

DiscoveryStream = Stream[DeltaDiscoveryRequest, DeltaDiscoveryResponse]


class Sink(Protocol):
    """Takes the resources of one type."""

    async def take(self, updates: Sequence[ResourceUpdate], removed: Sequence[str]) -> Sequence[Reject]:
        """Put a whole response in force, but for what is returned with reasons."""
        ...


class AddressSink:
    """Workloads and services, into a store. `apply` puts an update in force, in one step."""

    def __init__(self, apply: Callable[[Update], object]) -> None:
        self._apply = apply
        self._decoder = AddressDecoder()

    async def take(self, updates: Sequence[ResourceUpdate], removed: Sequence[str]) -> Sequence[Reject]:
        workloads: list[Workload] = []
        services: list[Service] = []
        rejects: list[Reject] = []
        for number, update in enumerate(updates, 1):
            try:
                value = self._decoder.decode(update.name, update.body)
            except InvalidResource as error:
                rejects.append(Reject(update.name, error.what))
                continue
            finally:
                if number % _DECODE_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if isinstance(value, Workload):
                workloads.append(value)
            else:
                services.append(value)
        self._apply(Update(workloads=tuple(workloads), services=tuple(services), removed=tuple(removed)))
        return rejects


class Subscription:
    """One client of one control plane; `run` is its life."""

    def __init__(
        self,
        endpoint: Endpoint,
        node: NodeInfo,
        sinks: Mapping[str, Sink],
        rng: Rng,
        *,
        interests: Mapping[str, Interest] | None = None,
    ) -> None:
        """`sinks` by type URL; types without an entry in `interests` are subscribed to as a whole."""
        self._endpoint = endpoint
        self._sinks = sinks
        self._rng = rng
        chosen = dict.fromkeys(sinks, Interest.WILDCARD)
        self._subscriber = Subscriber(node, {**chosen, **(interests or {})})
        self._stream: DiscoveryStream | None = None
        self._sending = asyncio.Lock()
        self._synced = asyncio.Event()
        self._demanded: dict[tuple[str, str], asyncio.Event] = {}
        self._failures = 0
        self._error: HboneError | None = None

    @property
    def connected(self) -> bool:
        return self._stream is not None

    @property
    def error(self) -> HboneError | None:
        """Why the last stream ended or did not begin; None while one is open."""
        return self._error

    def views(self) -> tuple[SubscriptionView, ...]:
        return self._subscriber.views()

    def feeds(self, sink: Sink) -> bool:
        """Whether what arrives goes to `sink`."""
        return any(one is sink for one in self._sinks.values())

    def resume(self, type_url: str, versions: Mapping[str, str]) -> None:
        """What is in force from before this process, so that only differences are sent; before `run`."""
        self._subscriber.resume(type_url, versions)

    async def wait_synced(self) -> None:
        """Until the whole state has arrived once."""
        await self._synced.wait()

    async def demand(self, type_url: str, name: str) -> None:
        """Subscribe to one resource by name or alias, and wait until it, or its absence, has been answered.

        Waits for as long as it takes; the caller sets the deadline.
        """
        answered = self._demanded.setdefault((type_url, name), asyncio.Event())
        request = self._subscriber.demand(type_url, [name])
        if request is not None:
            # a stream that breaks here is noticed by `run`; the next one begins with all demands
            with contextlib.suppress(GRPCError, StreamTerminatedError, ProtocolError, H2Error, OSError):
                await self._send(request)
        await answered.wait()

    async def run(self) -> None:
        """Connect, converse, reconnect; never returns."""
        while True:
            try:
                async with calling(self._endpoint) as channel:
                    discovery = AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources
                    async with opened(discovery, self._endpoint) as stream:
                        await self._converse(stream)
                self._lost(Unreachable(f"the control plane at {self._endpoint} ended the stream"))
            except HboneError as error:
                self._lost(error)
            await asyncio.sleep(reconnect_after(self._failures, self._rng))

    async def _converse(self, stream: DiscoveryStream) -> None:
        try:
            async with self._sending:
                for request in self._subscriber.start_stream():
                    await stream.send_message(request)
                self._stream = stream
            while (response := await stream.recv_message()) is not None:
                self._works()
                batch = self._subscriber.receive(response)
                rejects = await self._take(batch)
                await self._send(self._subscriber.answer(batch, rejects))
                self._release(batch.type_url, batch.names)
                if self._subscriber.synced:
                    self._synced.set()
        finally:
            self._stream = None

    async def _take(self, batch: Batch) -> Sequence[Reject]:
        sink = self._sinks.get(batch.type_url)
        if sink is None:
            log.info("resources of a type that was not asked for", extra={"type": batch.type_url[:200]})
            return ()
        rejects = await sink.take(batch.updates, batch.removed)
        for reject in (*batch.rejects, *rejects):
            log.warning("resource rejected", extra={"resource": reject.name[:200], "why": reject.reason[:500]})
        return rejects

    async def _send(self, request: DeltaDiscoveryRequest) -> None:
        # two senders at once would mix their frames; without a stream the next one says it
        async with self._sending:
            if self._stream is not None:
                await self._stream.send_message(request)

    def _release(self, type_url: str, names: Iterable[str]) -> None:
        for name in names:
            answered = self._demanded.get((type_url, name))
            if answered is not None:
                answered.set()

    def _works(self) -> None:
        if self._failures or self._error is not None:
            log.info("control plane answers again", extra={"control": str(self._endpoint)})
        self._failures, self._error = 0, None

    def _lost(self, error: HboneError) -> None:
        if self._error is None:  # said once, not at each attempt
            log.warning("control plane lost", extra={"control": str(self._endpoint), "error": str(error)})
        if self._error is not None:
            self._failures += 1
        self._error = error
