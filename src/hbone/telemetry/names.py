"""Every metric, label and access-line field: name, unit, help. Code, documentation and dashboard read these tables.

Names and label order of the `istio_` metrics, and names and order of the access fields, are those that ambient's
dashboards and log parsers know; what only hbone has is named `hbone_`.
"""

from enum import Enum
from typing import Final

from hbone.values import dataclass

UNKNOWN: Final = "unknown"
"""The value of a label that has none."""


class Kind(Enum):
    """The OpenMetrics types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric family. `name` is without the `_total` that a counter's samples get."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""


SOURCE_LABELS: Final = (
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
)
SERVICE_LABELS: Final = ("destination_service", "destination_service_namespace", "destination_service_name")
DESTINATION_LABELS: Final = (
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
)
LOCALITY_LABELS: Final = ("source_region", "source_zone", "destination_region", "destination_zone")
TRAFFIC_LABELS: Final = (
    "reporter",
    *SOURCE_LABELS,
    *SERVICE_LABELS,
    *DESTINATION_LABELS,
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    *LOCALITY_LABELS,
)

LABEL_HELP: Final = {
    "reporter": "which end reports: source or destination",
    "request_protocol": "always tcp",
    "response_flags": "why the connection failed, - when it did not",
    "connection_security_policy": "mutual_tls or unknown",
    "direction": "inbound or outbound",
    "result": "ok, or what went wrong in one word",
    "limit": "the setting that names the limit",
    "identity": "SPIFFE ID",
    "policy": "namespace/name",
    "would": "what it would have done: deny or allow",
    "component": "always hbone",
    "tag": "version",
}

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

CONNECTIONS_OPENED: Final = Metric(
    name="istio_tcp_connections_opened", kind=_COUNTER, labels=TRAFFIC_LABELS, help="Connections opened"
)
CONNECTIONS_CLOSED: Final = Metric(
    name="istio_tcp_connections_closed", kind=_COUNTER, labels=TRAFFIC_LABELS, help="Connections closed"
)
CONNECTIONS_FAILED: Final = Metric(
    name="istio_tcp_connections_failed", kind=_COUNTER, labels=TRAFFIC_LABELS, help="Connections that failed, by why"
)
RECEIVED_BYTES: Final = Metric(
    name="istio_tcp_received_bytes", kind=_COUNTER, labels=TRAFFIC_LABELS, help="Bytes from the client to the server"
)
SENT_BYTES: Final = Metric(
    name="istio_tcp_sent_bytes", kind=_COUNTER, labels=TRAFFIC_LABELS, help="Bytes from the server to the client"
)
TRAFFIC: Final = (CONNECTIONS_OPENED, CONNECTIONS_CLOSED, CONNECTIONS_FAILED, RECEIVED_BYTES, SENT_BYTES)

SOCKETS_OPEN: Final = Metric(
    name="istio_tcp_sockets_open", kind=_GAUGE, labels=("reporter",), help="Connections open now"
)
BUILD: Final = Metric(name="istio_build", kind=_GAUGE, labels=("component", "tag"), help="1, with the version as label")
OPEN_FDS: Final = Metric(name="process_open_fds", kind=_GAUGE, help="File descriptors open")
MAX_FDS: Final = Metric(name="process_max_fds", kind=_GAUGE, help="File descriptors allowed")

TUNNELS_OPEN: Final = Metric(
    name="hbone_tunnels_open", kind=_GAUGE, labels=("direction",), help="HBONE tunnels open now"
)
TUNNELS_OPENED: Final = Metric(
    name="hbone_tunnels_opened", kind=_COUNTER, labels=("direction",), help="HBONE tunnels that were set up"
)
STREAMS_OPEN: Final = Metric(
    name="hbone_streams_open", kind=_GAUGE, labels=("direction",), help="Streams open now in HBONE tunnels"
)
TUNNEL_FAILURES: Final = Metric(
    name="hbone_tunnel_failures",
    kind=_COUNTER,
    labels=("direction", "result"),
    help="Tunnels that failed to come up or broke",
)
HANDSHAKES: Final = Metric(
    name="hbone_tls_handshakes", kind=_COUNTER, labels=("direction", "result"), help="TLS handshakes that ended"
)
HANDSHAKE_SECONDS: Final = Metric(
    name="hbone_tls_handshake_seconds",
    kind=_HISTOGRAM,
    labels=("direction",),
    unit="seconds",
    help="Time that TLS handshakes took",
)
LIMIT_REACHED: Final = Metric(
    name="hbone_limit_reached", kind=_COUNTER, labels=("limit",), help="What was refused because of a limit"
)
SVID_EXPIRY: Final = Metric(
    name="hbone_svid_expiry_timestamp_seconds",
    kind=_GAUGE,
    labels=("identity",),
    unit="seconds",
    help="When the certificate of an identity expires, Unix time",
)
SVID_EXPIRY_SECONDS: Final = Metric(
    name="hbone_svid_expiry_seconds",
    kind=_GAUGE,
    labels=("identity",),
    unit="seconds",
    help="How long the certificate of an identity still lasts; below zero once it has ended",
)
SVID_RENEWALS: Final = Metric(
    name="hbone_svid_renewals", kind=_COUNTER, labels=("result",), help="Certificates asked for"
)
POLICY_DRY_RUN: Final = Metric(
    name="hbone_policy_dry_run",
    kind=_COUNTER,
    labels=("policy", "would"),
    help="Connections that a dry-run policy would have decided otherwise",
)
POLICY_AUDITED: Final = Metric(
    name="hbone_policy_audited", kind=_COUNTER, labels=("policy",), help="Connections that an AUDIT policy fitted"
)
CONFIG_RELOADS: Final = Metric(
    name="hbone_configuration_reloads", kind=_COUNTER, labels=("result",), help="Changes of manifests or settings"
)
WORKLOADS: Final = Metric(name="hbone_workloads", kind=_GAUGE, help="Workloads known")
SERVICES: Final = Metric(name="hbone_services", kind=_GAUGE, help="Services known")
LINES_DROPPED: Final = Metric(
    name="hbone_log_lines_dropped", kind=_COUNTER, help="Log and access lines lost because their reader was slow"
)
SERIES_OVERFLOW: Final = Metric(
    name="hbone_metric_series_overflow",
    kind=_COUNTER,
    help="Times a new label set was counted under 'other' because a metric had too many",
)

METRICS: Final = (
    *TRAFFIC,
    SOCKETS_OPEN,
    BUILD,
    OPEN_FDS,
    MAX_FDS,
    TUNNELS_OPEN,
    TUNNELS_OPENED,
    STREAMS_OPEN,
    TUNNEL_FAILURES,
    HANDSHAKES,
    HANDSHAKE_SECONDS,
    LIMIT_REACHED,
    SVID_EXPIRY,
    SVID_EXPIRY_SECONDS,
    SVID_RENEWALS,
    POLICY_DRY_RUN,
    POLICY_AUDITED,
    CONFIG_RELOADS,
    WORKLOADS,
    SERVICES,
    LINES_DROPPED,
    SERIES_OVERFLOW,
)

FLAGS: Final = {
    "-": "no failure",
    "DENY": "a policy forbids it",
    "CONNECT": "the connection could not be made, or another error",
    "TLS_FAILURE": "the TLS handshake failed or a certificate was refused",
    "H2_HANDSHAKE_FAILURE": "the HTTP/2 connection could not be set up, or broke",
    "NETWORK_POLICY": "no answer on port 15008, most often a network policy",
    "IDENTITY_ERROR": "no valid certificate for the identity",
    "CERT_REVOKED": "the peer's certificate is revoked",
}
"""Values of `response_flags`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessField:
    """One field of an access line. `quoted`: text in quotes in the plain layout."""

    name: str
    help: str
    quoted: bool = True


ACCESS_FIELDS: Final = (
    AccessField(name="src.addr", quoted=False, help="address and port of the client"),
    AccessField(name="src.workload", help="workload the connection comes from"),
    AccessField(name="src.namespace", help="its namespace"),
    AccessField(name="src.identity", help="its SPIFFE ID, proven by mutual TLS"),
    AccessField(name="src.cluster", help="its cluster"),
    AccessField(name="dst.addr", quoted=False, help="the actual TCP peer; inbound, our own address"),
    AccessField(name="dst.hbone_addr", quoted=False, help="the :authority that the tunnel was asked for"),
    AccessField(name="dst.service", help="host name of the service"),
    AccessField(name="dst.workload", help="workload the connection goes to"),
    AccessField(name="dst.namespace", help="its namespace"),
    AccessField(name="dst.identity", help="its SPIFFE ID, proven by mutual TLS"),
    AccessField(name="dst.cluster", help="its cluster"),
    AccessField(name="direction", help="inbound or outbound"),
    AccessField(name="bytes_sent", quoted=False, help="bytes the workload here sent"),
    AccessField(name="bytes_recv", quoted=False, help="bytes the workload here received"),
    AccessField(name="duration", help="from accept to the end, in ms"),
    AccessField(name="error", help="why the connection failed, absent when it did not"),
)
"""Fields of an access line in their order; absent ones are left out."""

ACCESS_SCOPE: Final = "access"
ACCESS_COMPLETE: Final = "connection complete"
ACCESS_OPENED: Final = "connection opened"
ACCESS_FAILED: Final = "connection failed"
