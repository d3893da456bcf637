"""What a node shows its operator, and the listeners that it shows it on."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, cast

from hbone.addr import SocketAddress
from hbone.admin.mesh_views import service_views, workload_views
from hbone.app.dataplane import DataPlane
from hbone.app.options import open_listener
from hbone.app.policies import NodePolicies, policy_views
from hbone.config.listen import Listen, UnixListen
from hbone.config.model import NodeSettings
from hbone.control.renew import IdentityKeeper
from hbone.control.renewals import IdentityView, State
from hbone.discovery.directory import Directory
from hbone.discovery.model import Workload
from hbone.identity.bundle import TrustBundle
from hbone.net.sockets import remove_socket
from hbone.proxy.served import LocalWorkloads
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.views import (
    CertificateView,
    ConnectionView,
    ListenerView,
    PolicyView,
    ProcessView,
    RootView,
    ServiceView,
    TunnelView,
    WorkloadView,
)
from hbone.times import WallTime
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.admin.http import HttpServer
    from hbone.admin.routes import Before
    from hbone.admin.source import AdminSource, Levels

_STATES = {
    State.AVAILABLE: "valid",
    State.INITIALISING: "pending",
    State.UNAVAILABLE: "failed",
    State.EXPIRED: "expired",
}


class ShownNode(Protocol):
    """What of a node is shown."""

    settings: NodeSettings
    dataplane: DataPlane
    keeper: IdentityKeeper
    policies: NodePolicies

    @property
    def pending(self) -> tuple[str, ...]: ...
    def process(self) -> ProcessView: ...


class NodeWindow:
    """`hbone.admin.source.AdminSource` for a node; `quit` is what shutting down takes."""

    def __init__(self, node: ShownNode, quit_: Callable[[], None], *, extra: Iterable[ListenerView] = ()) -> None:
        self._node = node
        self._quit = quit_
        self._extra = tuple(extra)

    def workloads(self) -> Iterable[WorkloadView]:
        return workload_views(self.directory(), self._served_here)

    def services(self) -> Iterable[ServiceView]:
        return service_views(self.directory())

    def policies(self) -> Iterable[PolicyView]:
        return policy_views(self._node.policies.engine.policies)

    def connections(self) -> Iterable[ConnectionView]:
        return self._node.dataplane.connections()

    def tunnels(self) -> Iterable[TunnelView]:
        return self._node.dataplane.tunnels()

    def certificates(self) -> Iterable[CertificateView]:
        wall = self._node.dataplane.around.clock.wall()
        return [certificate_view(view, wall) for view in self._node.keeper.views()]

    def roots(self) -> Iterable[RootView]:
        seen: dict[str, RootView] = {}
        for view in self._node.keeper.views():
            current = self._node.keeper.current(view.spiffe_id)
            if current is not None:
                seen |= {root.fingerprint: root for root in root_views(current.bundle)}
        return seen.values()

    def listeners(self) -> Iterable[ListenerView]:
        return (*self._node.dataplane.listeners(), *self._extra)

    def process(self) -> ProcessView:
        return self._node.process()

    def config(self) -> Mapping[str, object]:
        return cast("Mapping[str, object]", self._node.settings.model_dump(mode="json"))

    def directory(self) -> Directory:
        return self._node.dataplane.around.store

    def quit(self) -> None:
        self._quit()

    def _served_here(self, workload: Workload) -> bool:
        return served_here(self._node.dataplane.local, workload)


def served_here(local: LocalWorkloads, workload: Workload) -> bool:
    """Is it one of those that this node works for?"""
    return any(
        served is not None and served.workload.uid == workload.uid
        for served in (local.served_at(SocketAddress(ip, workload.hbone_port)) for ip in workload.addresses)
    )


def certificate_view(view: IdentityView, wall: WallTime) -> CertificateView:
    """One identity's certificate as it is shown."""
    return CertificateView(
        identity=str(view.spiffe_id),
        state=_STATES[view.state],
        serial=str(view.serial) if view.serial is not None else "",
        not_after=_text(view.not_after),
        renew_at=_text(WallTime(wall + view.renewal_in_s)),
        expires_in_s=None if view.not_after is None else view.not_after - wall,
        error=view.failing or None,
    )


def root_views(bundle: TrustBundle) -> list[RootView]:
    """The roots of a bundle as they are shown."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return [
        RootView(
            trust_domain=str(domain),
            subject=root.subject.rfc4514_string(),
            fingerprint=root.fingerprint(SHA256()).hex(),
            not_after=root.not_valid_after_utc.isoformat(),
        )
        for domain in sorted(bundle.domains)
        for root in bundle.roots[domain]
    ]


def _text(wall: WallTime | None) -> str:
    return "" if wall is None else datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the listeners serve. `before` is awaited before each answer (`hbone.admin.routes.Before`)."""

    source: "AdminSource"
    levels: "Levels"
    metrics: Metrics
    pending: Callable[[], Iterable[str]]
    before: "Before | None" = None


class Windows:
    """The operator's listeners of one process: bound with the others, served once it runs."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._sockets: dict[str, socket.socket] = {}
        self._unix: list[str] = []

    def bind(self) -> None:
        """Take the ports, or none; raises UsageError."""
        listeners = self._settings.listeners
        wanted: dict[str, Listen | None] = {
            "admin": listeners.admin,
            "readiness": listeners.readiness,
            "metrics": listeners.metrics,
        }
        try:
            for name, listen in wanted.items():
                if listen is not None:
                    self._sockets[name] = open_listener(listen, f"listeners.{name}")
                    if isinstance(listen, UnixListen):
                        self._unix.append(listen.path)
        except BaseException:
            self.unbind()
            raise

    def views(self) -> tuple[ListenerView, ...]:
        return tuple(ListenerView(name=name, address=_name(sock)) for name, sock in self._sockets.items())

    def unbind(self) -> None:
        """Give the ports back: for a start that failed."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._unlink()

    async def serve(self, shown: Shown) -> AsyncExitStack:
        """Serve what is bound; closing the returned stack ends it."""
        undo = AsyncExitStack()
        if not self._sockets:
            return undo
        from hbone.admin.server import open_metrics, open_readiness, open_window

        servers: list[HttpServer] = []
        undo.callback(self._unlink)
        undo.push_async_callback(_close_all, servers)
        try:
            if (sock := self._sockets.get("admin")) is not None:
                from hbone.admin.endpoints import Window  # the whole table, which readiness and metrics can do without

                window = Window(source=shown.source, levels=shown.levels)
                servers.append(await open_window(sock, window, before=shown.before))
            if (sock := self._sockets.get("readiness")) is not None:
                servers.append(await open_readiness(sock, shown.pending))
            if (sock := self._sockets.get("metrics")) is not None:
                servers.append(await open_metrics(sock, shown.metrics, before=shown.before))
        except BaseException:
            await undo.aclose()
            raise
        return undo

    def _unlink(self) -> None:
        for path in self._unix:
            remove_socket(path)
        self._unix.clear()


async def _close_all(servers: "list[HttpServer]") -> None:
    await asyncio.gather(*(server.close() for server in servers))


def _name(sock: socket.socket) -> str:
    name = cast("object", sock.getsockname())
    return str(SocketAddress.of(cast("tuple[object, ...]", name))) if isinstance(name, tuple) else str(name)
