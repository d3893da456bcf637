"""What workers are told and given: the mesh, and certificates, by the same gRPC that a control plane speaks.

One Unix socket for each source of the mesh, so that a worker knows as well as we do which source says what, and the
stronger one holds in it too. Who calls is known by the process id that the kernel vouches for: our workers, nobody
else, may have any identity that the CA behind us gives.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from grpclib.const import Status
from grpclib.server import Stream

from hbone.ca.csr import MAX_REQUEST_BYTES
from hbone.control.ads_service import DiscoveryService, Subscribers
from hbone.control.ca_client import CaClient
from hbone.control.ca_service import CertificateService
from hbone.control.callers import Call, Caller, Callers, Identify
from hbone.control.channel import ControlRefused
from hbone.control.credentials import SvidSource
from hbone.control.lease import Holder
from hbone.control.local_ca import LocalCa
from hbone.control.publish import Mesh
from hbone.control.rpc import Peer, Refusal, RpcServer, Servable, UnixPeer, answer, receive
from hbone.discovery.catalogue import Resource
from hbone.discovery.resources import InvalidResource
from hbone.discovery.store import Source
from hbone.discovery.xds import Reject, Update
from hbone.errors import HboneError
from hbone.net.sockets import bind_unix_listener
from hbone.proto.citadel_grpc import IstioCertificateServiceBase
from hbone.proto.citadel_pb2 import IstioCertificateRequest, IstioCertificateResponse
from hbone.times import Clock
from hbone.values import dataclass

IN_FORCE_S: Final = 10.0  # for workers to take what is pushed; they do within milliseconds

log = logging.getLogger("hbone.node")

Certificates = Callable[[Identify], Servable]
"""The certificate service of one connection."""


def certificates_of(source: SvidSource) -> Certificates:
    """Certificates for workers from where a node of one process would have its own: a CA in this process, or one
    somewhere else, to which requests are passed on."""
    match source:
        case LocalCa(issuer=issuer):
            return lambda identify: CertificateService(issuer, identify)
        case CaClient():
            return lambda identify: _Forwarded(source, identify)
        case _:
            raise TypeError(f"no way to ask {source!r} for others")  # one of ours, or a test's


class _Forwarded(IstioCertificateServiceBase):
    def __init__(self, client: CaClient, identify: Identify) -> None:
        self._client = client
        self._identify = identify

    async def CreateCertificate(self, stream: Stream[Any, Any]) -> None:
        await self._identify(stream.metadata or {})
        request = await receive(stream, IstioCertificateRequest, max_bytes=MAX_REQUEST_BYTES + 64 * 1024)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        try:
            chain = await self._client.pass_on(request)
        except ControlRefused as error:
            raise Refusal(Status[error.code], error.what, why=error.why, fix=error.fix) from error
        except HboneError as error:
            raise Refusal(Status.UNAVAILABLE, error.what, why=error.why, fix=error.fix) from error
        await answer(stream, IstioCertificateResponse(cert_chain=chain))


@dataclass(frozen=True, slots=True)
class _Workers:
    """The processes that we started (`Authenticator`)."""

    pids: Callable[[], frozenset[int]]

    async def authenticate(self, call: Call) -> Caller | None:
        peer = call.peer
        if not isinstance(peer, UnixPeer) or peer.pid not in self.pids():
            return None
        label = f"worker (pid {peer.pid})"
        holder = Holder(uid=peer.uid, label=label, trusted=False)
        return Caller(label=label, refusal=lambda _: "", holder=holder, sees_mesh=True)


class Feed:
    """One source's mesh, and the workers that subscribe to it."""

    def __init__(self, mesh: Mesh, clock: Clock) -> None:
        self.mesh = mesh
        self.subscribers = Subscribers(mesh, clock)

    async def publish(self, type_url: str, resources: Sequence[Resource], removed: Sequence[str]) -> bool:
        """Tell the workers, and wait until it is in force in each; whether it is, in good time."""
        self.mesh.publish(type_url, resources, removed)
        answered = asyncio.Event()
        end = self.subscribers.on_answer(answered.set)
        try:
            async with asyncio.timeout(IN_FORCE_S):
                while not self._taken(type_url):
                    answered.clear()
                    await answered.wait()
        except TimeoutError:
            return False
        finally:
            end()
        return True

    def _taken(self, type_url: str) -> bool:
        revision = self.mesh.catalogues[type_url].revision
        views = [view for one in self.subscribers.views() for view in one.types if view.type_url == type_url]
        return all(view.acknowledged >= revision for view in views)


class Forwarder:
    """Passes resources of one type on to the workers, as they are (`hbone.control.subscribe.Sink`).

    They are acknowledged to the control plane only when every worker has them in force: it may then sign by a new root.
    One that hangs is not waited for without end: it makes no handshake either. What a worker cannot understand it
    judges itself, a policy for instance by closing what that protects; `check` may refuse a resource before.
    """

    def __init__(
        self, feed: Feed, type_url: str, check: Callable[[str, bytes], object] = lambda name, body: None
    ) -> None:
        """`check` raises InvalidResource."""
        self._feed = feed
        self._type_url = type_url
        self._check = check

    async def take(self, updates: Sequence[Update], removed: Sequence[str]) -> Sequence[Reject]:
        good: list[Resource] = []
        rejects: list[Reject] = []
        for update in updates:
            try:
                self._check(update.name, update.body)
            except InvalidResource as error:
                rejects.append(Reject(update.name, error.what))
            else:
                good.append(Resource(name=update.name, body=update.body))
        if (good or removed) and not await self._feed.publish(self._type_url, good, removed):
            log.warning("a worker has not yet taken what was pushed", extra={"type": self._type_url})
        return rejects


class Feeds:
    """The Unix sockets in `directory`. `start`, then `close`."""

    def __init__(self, meshes: Mapping[Source, Mesh], certificates: Certificates, clock: Clock) -> None:
        self._feeds = {source: Feed(mesh, clock) for source, mesh in meshes.items()}
        self._certificates = certificates
        self._servers: list[RpcServer] = []
        self.paths: dict[Source, Path] = {}

    async def start(self, directory: Path, pids: Callable[[], frozenset[int]]) -> None:
        """Serve the processes whose ids `pids` tells. Raises UsageError."""
        callers = Callers([_Workers(pids)])
        for source, feed in self._feeds.items():
            path = directory / f"{source.name.lower()}.sock"
            server = RpcServer(self._services(feed.subscribers, callers))
            self._servers.append(server)
            await server.start(bind_unix_listener(os.fspath(path)))
            self.paths[source] = path

    def feed(self, source: Source) -> Feed:
        return self._feeds[source]

    def _services(self, subscribers: Subscribers, callers: Callers) -> Callable[[Peer], Sequence[Servable]]:
        def services(peer: Peer) -> Sequence[Servable]:
            identify = callers.on(peer)
            return self._certificates(identify), DiscoveryService(subscribers, identify)

        return services

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
        for feed in self._feeds.values():
            feed.subscribers.close()
