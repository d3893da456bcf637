"""From a node's settings to what each part of the data plane takes."""

import socket
from dataclasses import replace

from hbone.addr import HostPort, SocketAddress
from hbone.app.naming import Naming
from hbone.config.listen import InheritedListen, Listen, TcpListen, UnixListen
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.refs import AccountRef
from hbone.discovery.model import Protocol, Workload
from hbone.discovery.store import Store
from hbone.errors import UsageError
from hbone.identity.spiffe import DomainNames
from hbone.net.budget import BufferBudget
from hbone.net.closing import Closing
from hbone.net.dialoptions import DialOptions
from hbone.net.heartbeat import PingPolicy
from hbone.net.linkparts import LinkParts
from hbone.net.members import Members
from hbone.net.poller import Poller
from hbone.net.sockets import KeepAlive, bind_listener, bind_unix_listener
from hbone.net.tls import ReadBuffer
from hbone.policy.model import MeshNames
from hbone.protocol.outbox import BufferPool
from hbone.protocol.settings import LocalSettings
from hbone.proxy.local import DedicatedWorkload, Exposed, SharedWorkloads
from hbone.proxy.pooling import PoolPolicy
from hbone.proxy.served import LocalWorkloads
from hbone.proxy.tunnelparts import TunnelParts
from hbone.times import Clock


class ListenerFailed(UsageError):
    """A listener cannot have its place. `setting` asked for it ("listeners.inbound")."""

    def __init__(self, error: UsageError, setting: str) -> None:
        super().__init__(error.what, why=error.why, fix=error.fix)
        self.setting = setting


def open_listener(listen: Listen, setting: str) -> socket.socket:
    """The listening socket that a setting asks for; raises ListenerFailed."""
    try:
        return _opened(listen)
    except UsageError as error:
        raise ListenerFailed(error, setting) from error


def _opened(listen: Listen) -> socket.socket:
    match listen:
        case TcpListen(address=address):
            return bind_listener(address)
        case UnixListen(path=path):
            return bind_unix_listener(path)
        case InheritedListen(fd=fd):
            try:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
            except OSError as error:
                raise UsageError(
                    f"descriptor {fd} is no socket", why=error.strerror or "", fix="check the socket unit"
                ) from error
            return sock


def mesh_names(settings: NodeSettings | ControlSettings) -> MeshNames:
    """What policies call this mesh."""
    return MeshNames(
        root_namespace=settings.root_namespace,
        trust_domain=settings.trust_domain,
        trust_domain_aliases=settings.trust_domain_aliases,
    )


def domain_names(settings: NodeSettings | ControlSettings) -> DomainNames:
    """The trust domain under all its names."""
    return DomainNames(settings.trust_domain, frozenset(settings.trust_domain_aliases))


def stand_in(settings: NodeSettings, account: AccountRef, name: str | None) -> Workload:
    """A workload that the mesh does not know (yet): it can call, and has an identity."""
    called = name or account.service_account
    return Workload(
        uid=f"{settings.cluster_id}//Local/{account.namespace}/{called}",
        name=called,
        namespace=account.namespace,
        service_account=account.service_account,
        trust_domain=settings.trust_domain,
        network=settings.network,
        cluster_id=settings.cluster_id,
        node=settings.node_name,
        protocol=Protocol.HBONE,
        workload_name=called,
        canonical_name=called,
        canonical_revision="latest",
    )


def local_workloads(settings: NodeSettings, store: Store, naming: Naming | None = None) -> LocalWorkloads:
    exposed = Exposed(dials=_dials(settings))
    info = settings.workload
    if settings.mode == "dedicated" and info is not None:
        named = naming or Naming(domain_names(settings))
        own = stand_in(settings, info.account, info.name)
        return DedicatedWorkload(store, own, info.name, exposed, lambda: named.now)
    return SharedWorkloads(store, settings.network, settings.node_name, exposed)


def _dials(settings: NodeSettings) -> dict[str, dict[int, SocketAddress]]:
    dials: dict[str, dict[int, SocketAddress]] = {}
    for expose in settings.exposes:
        target = expose.to
        if isinstance(target, HostPort):
            if target.host != "localhost":
                raise UsageError(f"exposes: {target} is a name", fix="write an address, or localhost")
            target = SocketAddress.of(("127.0.0.1", target.port))
        dials.setdefault(str(expose.workload), {})[expose.port] = target
    return dials


def keep_alive(settings: NodeSettings) -> KeepAlive | None:
    tcp = settings.tcp
    if not tcp.keepalive_enabled:
        return None
    idle_s, interval_s = int(tcp.keepalive_time_s), int(tcp.keepalive_interval_s)
    gives_up_s = idle_s + interval_s * tcp.keepalive_retries if tcp.user_timeout_enabled else None
    return KeepAlive(idle_s=idle_s, interval_s=interval_s, probes=tcp.keepalive_retries, user_timeout_s=gives_up_s)


def app_dial(settings: NodeSettings) -> DialOptions:
    return DialOptions(timeout_s=settings.timeouts.connect_timeout_s, keep_alive=keep_alive(settings))


def pool_policy(settings: NodeSettings) -> PoolPolicy:
    timeouts = settings.timeouts
    return PoolPolicy(
        max_streams=settings.http2.pool_max_streams_per_tunnel,
        max_total=settings.limits.max_outbound_tunnels,
        idle_s=timeouts.idle_tunnel_timeout_s,
        wait_s=timeouts.connect_timeout_s + timeouts.handshake_timeout_s,
    )


def tunnel_parts(settings: NodeSettings, clock: Clock, poller: Poller) -> TunnelParts:
    http2, limits, timeouts = settings.http2, settings.limits, settings.timeouts
    windows = LocalSettings(
        initial_window_bytes=http2.stream_window_bytes,
        connection_window_bytes=http2.connection_window_bytes,
        max_frame_bytes=http2.max_frame_bytes,
        max_header_list_bytes=limits.max_header_list_bytes_inbound,
        max_concurrent_streams=http2.max_streams_per_connection_inbound,
    )
    return TunnelParts(
        poller=poller,
        link=LinkParts(
            buffer=ReadBuffer(),
            clock=clock,
            pings=PingPolicy(interval_s=timeouts.ping_interval_s, timeout_s=timeouts.ping_timeout_s),
            closing=Closing(poller),
            budget=BufferBudget(limits.max_buffered_bytes),
            open=Members(),
        ),
        buffers=BufferPool(),
        client=replace(
            windows, max_header_list_bytes=limits.max_header_list_bytes_outbound, max_concurrent_streams=None
        ),
        server=windows,
        limits=settings.frames.limits(),
        dial=replace(app_dial(settings), hbone=True, keep_alive=None),
        handshake_timeout_s=timeouts.handshake_timeout_s,
    )
