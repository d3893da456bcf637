"""Snapshots that parts publish and that the admin API and `hbone get` show.

JSON-shaped: text, numbers, tuples, further views; units in the names; None where something is not known. Nothing
secret, and nothing alive: a view stays what it was when it was made.
"""

from dataclasses import fields, is_dataclass
from typing import Any, Literal

from hbone.values import dataclass

Direction = Literal["inbound", "outbound"]
Security = Literal["mutual_tls", "plaintext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    """One workload. `protocol`: HBONE or TCP; `services`: "namespace/hostname"; `source`: where it was read."""

    uid: str
    name: str
    namespace: str
    service_account: str
    identity: str
    addresses: tuple[str, ...]
    protocol: str
    health: str
    node: str = ""
    network: str = ""
    cluster: str = ""
    locality: str = ""
    services: tuple[str, ...] = ()
    waypoint: str | None = None
    served_here: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """One workload behind a service; `ports` are "service port:own port"."""

    uid: str
    address: str | None
    ports: tuple[str, ...]
    health: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """One service; `ports` are "port:target port", `vips` addresses as "network/ip"."""

    name: str
    namespace: str
    hostname: str
    vips: tuple[str, ...]
    ports: tuple[str, ...]
    endpoints: tuple[EndpointView, ...]
    subject_alt_names: tuple[str, ...] = ()
    waypoint: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """One policy in force, spelled as in ztunnel's local file, so that it can be read back from here.

    `rules`: of a rule its clauses, of a clause its matches; a rule that is not understood says why instead.
    """

    namespace: str
    name: str
    scope: str
    action: str
    dryRun: bool
    rules: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionView:
    """One connection that is carried now. Identities are None unless mutual TLS proved them.

    `destination` is what the client asked for, `upstream` where it really went. Bytes are seen from the workload here.
    `worker`: the number of the process that carries it, None in a node of one process.
    """

    direction: Direction
    source: str
    destination: str
    upstream: str | None = None
    source_workload: str | None = None
    destination_workload: str | None = None
    service: str | None = None
    source_identity: str | None = None
    destination_identity: str | None = None
    security: Security = "plaintext"
    age_s: float = 0.0
    bytes_sent: int = 0
    bytes_recv: int = 0
    tunnel: int | None = None
    worker: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelView:
    """One HBONE tunnel. `id` is unique in its process, the `worker`; `idle_s` is None while it has streams."""

    id: int
    direction: Direction
    local: str
    peer: str
    local_identity: str
    peer_identity: str
    streams: int
    max_streams: int
    age_s: float
    idle_s: float | None = None
    draining: bool = False
    tls_version: str = ""
    cipher: str = ""
    group: str = ""
    bytes_sent: int = 0
    bytes_recv: int = 0
    rtt_ms: float | None = None
    worker: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateView:
    """A certificate in use. Times are RFC 3339 UTC; `serial` is decimal; `state` valid, expired, pending or failed.

    `worker`: the number of the process that holds its key, None in a node of one process.
    """

    identity: str
    state: str
    serial: str = ""
    issuer: str = ""
    not_before: str = ""
    not_after: str = ""
    renew_at: str = ""
    expires_in_s: float | None = None
    error: str | None = None
    worker: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootView:
    """A root of a trust domain's bundle. `fingerprint` is SHA-256 in hexadecimal."""

    trust_domain: str
    subject: str
    fingerprint: str
    not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerView:
    """An open listener; `address` is the real one (a port 0 resolved)."""

    name: str
    address: str
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """A source of configuration: what was last taken, and why the newest version was not, if it was not."""

    name: str
    kind: str
    loaded_at: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One of several processes that share a node's work.

    `state`: starting, ready, draining, silent (it does not answer) or down; `pid` None while there is no process.
    `restarts` counts its predecessors, `last_end` tells how the last of them ended.
    """

    number: int
    pid: int | None
    state: str
    pending: tuple[str, ...] = ()
    restarts: int = 0
    last_end: str | None = None
    open_fds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """A running process. `state`: starting, ready or draining; `pending`: what it still waits for.

    `workers`: the processes that share its work; none in a node of one process. `open_fds` are then those of all.
    """

    role: str
    version: str
    pid: int
    state: str
    started_at: str
    uptime_s: float
    pending: tuple[str, ...] = ()
    listeners: tuple[ListenerView, ...] = ()
    sources: tuple[SourceView, ...] = ()
    open_fds: int | None = None
    rss_bytes: int | None = None
    workers: tuple[WorkerView, ...] = ()


View = (
    WorkloadView
    | ServiceView
    | PolicyView
    | EndpointView
    | ConnectionView
    | TunnelView
    | CertificateView
    | RootView
    | ListenerView
    | SourceView
    | WorkerView
    | ProcessView
)


def as_json(view: Any) -> Any:
    """`view`, or a collection of views, as dicts, lists and plain values, in the order of the fields."""
    if is_dataclass(view) and not isinstance(view, type):
        return {field.name: as_json(getattr(view, field.name)) for field in fields(view)}
    if isinstance(view, tuple | list):
        return [as_json(item) for item in view]  # pyright: ignore[reportUnknownVariableType]  # JSON has no types
    return view
