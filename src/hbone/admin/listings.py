"""What a process can list: the endpoints' names, and the tables that `hbone get` prints of them.

Imports nothing that costs: the command line reads it for its help.
"""

from enum import Enum
from typing import Final

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
from hbone.values import dataclass


class Form(Enum):
    """How a value is shown to people."""

    TEXT = "text"
    DURATION = "seconds, as 5m30s"
    BYTES = "bytes, as 1.5 KiB"
    COUNT = "of a list, how many"
    HEALTHY = "of a list, how many are healthy: 2/3"
    FINGERPRINT = "the first 16 characters"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the first of `fields` that has a value."""

    title: str
    fields: tuple[str, ...]
    form: Form = Form.TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One kind of thing, `name` in the plural, shown at `/name` as an array of `view` (`/process`: just one).

    `names` are the fields that a NAME is looked for in. `namespaces` are those that tell namespaces: as such, as
    "namespace/…", or inside a SPIFFE ID.
    """

    name: str
    help: str
    view: type
    columns: tuple[Column, ...]
    names: tuple[str, ...]
    namespaces: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"/{self.name}"


def _column(field: str, title: str | None = None, form: Form = Form.TEXT) -> Column:
    return Column(title or field.replace("_", " "), (field,), form)


WORKLOADS: Final = Listing(
    name="workloads",
    help="workloads of the mesh that this process knows",
    view=WorkloadView,
    columns=(
        _column("namespace"),
        _column("name"),
        _column("addresses"),
        _column("service_account", "account"),
        _column("protocol"),
        _column("health"),
        _column("served_here", "here"),
        _column("waypoint"),
    ),
    names=("name", "uid", "addresses", "services"),
    namespaces=("namespace",),
)

SERVICES: Final = Listing(
    name="services",
    help="services of the mesh, with their endpoints",
    view=ServiceView,
    columns=(
        _column("namespace"),
        _column("name"),
        _column("hostname"),
        _column("vips"),
        _column("ports"),
        _column("endpoints", "healthy", Form.HEALTHY),
        _column("waypoint"),
    ),
    names=("name", "hostname", "vips"),
    namespaces=("namespace",),
)

POLICIES: Final = Listing(
    name="policies",
    help="policies in force",
    view=PolicyView,
    columns=(
        _column("namespace"),
        _column("name"),
        _column("action"),
        _column("scope"),
        _column("dryRun", "dry run"),
        _column("rules", form=Form.COUNT),
    ),
    names=("name",),
    namespaces=("namespace",),
)

CONNECTIONS: Final = Listing(
    name="connections",
    help="connections that are carried now, the oldest first",
    view=ConnectionView,
    columns=(
        _column("direction"),
        Column("from", ("source_workload", "source")),
        Column("to", ("service", "destination_workload", "destination")),
        _column("destination", "address"),
        _column("source_identity", "source identity"),
        _column("destination_identity", "destination identity"),
        _column("security"),
        _column("age_s", "age", Form.DURATION),
        _column("bytes_sent", "sent", Form.BYTES),
        _column("bytes_recv", "received", Form.BYTES),
    ),
    names=("source", "source_workload", "destination", "destination_workload", "service", "upstream"),
    namespaces=("source_identity", "destination_identity"),
)

TUNNELS: Final = Listing(
    name="tunnels",
    help="open HBONE tunnels",
    view=TunnelView,
    columns=(
        _column("id"),
        _column("direction"),
        _column("local_identity", "as"),
        _column("peer_identity", "peer identity"),
        _column("peer"),
        _column("streams"),
        _column("age_s", "age", Form.DURATION),
        _column("idle_s", "idle", Form.DURATION),
        _column("draining"),
        _column("tls_version", "tls"),
        _column("group"),
    ),
    names=("local", "peer", "local_identity", "peer_identity"),
    namespaces=("local_identity", "peer_identity"),
)

CERTIFICATES: Final = Listing(
    name="certificates",
    help="certificates in use, without their keys",
    view=CertificateView,
    columns=(
        _column("identity"),
        _column("state"),
        _column("expires_in_s", "expires in", Form.DURATION),
        _column("not_after"),
        _column("renew_at"),
        _column("serial"),
        _column("error"),
    ),
    names=("identity", "serial"),
    namespaces=("identity",),
)

ROOTS: Final = Listing(
    name="roots",
    help="root certificates that peers are checked against",
    view=RootView,
    columns=(
        _column("trust_domain"),
        _column("subject"),
        _column("not_after"),
        _column("fingerprint", form=Form.FINGERPRINT),
    ),
    names=("trust_domain", "subject", "fingerprint"),
)

LISTENERS: Final = Listing(
    name="listeners",
    help="open listeners",
    view=ListenerView,
    columns=(_column("name"), _column("address"), _column("connections")),
    names=("name", "address"),
)

PROCESS: Final = Listing(
    name="process",
    help="the process itself: state, sources of configuration, descriptors, memory",
    view=ProcessView,
    columns=(
        _column("role"),
        _column("state"),
        _column("pending"),
        _column("uptime_s", "uptime", Form.DURATION),
        _column("pid"),
        _column("open_fds", "descriptors"),
        _column("rss_bytes", "memory", Form.BYTES),
        _column("version"),
    ),
    names=("role", "version"),
)

LISTINGS: Final = (WORKLOADS, SERVICES, POLICIES, CONNECTIONS, TUNNELS, CERTIFICATES, ROOTS, LISTENERS, PROCESS)
