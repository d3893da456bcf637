"""`/config_dump`: everything in one document, in ztunnel's shape, so that tools for ztunnel read it too.

Names are ztunnel's where it has the thing (`istioctl ztunnel-config … --file`); what it has not comes last.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hbone.admin.jsontext import Keyed, Listed
from hbone.admin.source import AdminSource
from hbone.discovery.directory import Directory
from hbone.discovery.localdump import service_fields, workload_fields
from hbone.discovery.model import Service
from hbone.telemetry.views import CertificateView, ConnectionView, RootView, WorkloadView

_STATES: Final = {"valid": "Available", "expired": "Expired", "pending": "Initializing", "failed": "Unavailable"}


def config_dump(source: AdminSource) -> Keyed:
    """The document; large parts are made while it is written."""
    directory = source.directory()
    process = source.process()
    return Keyed(
        (
            ("workloads", Listed(map(workload_fields, directory.workloads()))),
            ("services", Listed(_service(directory, service) for service in directory.services())),
            ("policies", Listed(source.policies())),
            ("version", {"version": process.version}),
            ("config", source.config()),
            ("certificates", Listed(_certificates(source.certificates(), tuple(source.roots())))),
            ("workloadState", Keyed(_workload_state(source.workloads(), tuple(source.connections())))),
            ("process", process),
            ("listeners", Listed(source.listeners())),
            ("tunnels", Listed(source.tunnels())),
        )
    )


def _service(directory: Directory, service: Service) -> dict[str, object]:
    endpoints = {
        endpoint.workload.uid: {
            "workloadUid": endpoint.workload.uid,
            "service": service.key,
            "port": dict(endpoint.ports),
            "status": endpoint.workload.health.value,
        }
        for endpoint in directory.endpoints(service)
    }
    return {**service_fields(service), "endpoints": endpoints}


def _certificates(certificates: Iterable[CertificateView], roots: tuple[RootView, ...]) -> Iterator[dict[str, object]]:
    for certificate in certificates:
        state = _STATES.get(certificate.state, certificate.state)
        domain = certificate.identity.removeprefix("spiffe://").partition("/")[0]
        leaf = {
            "serialNumber": certificate.serial,
            "validFrom": certificate.not_before,
            "expirationTime": certificate.not_after,
        }
        yield {
            "identity": certificate.identity,
            "state": f"{state}: {certificate.error}" if certificate.error else state,
            "certChain": [leaf] if certificate.serial else [],
            "rootCerts": [
                {"subject": root.subject, "sha256": root.fingerprint, "expirationTime": root.not_after}
                for root in roots
                if root.trust_domain == domain
            ],
        }


def _workload_state(
    workloads: Iterable[WorkloadView], connections: tuple[ConnectionView, ...]
) -> Iterator[tuple[str, object]]:
    """Per workload that is served here: its connections."""
    carried: dict[str | None, list[ConnectionView]] = defaultdict(list)
    for connection in connections:
        carried[_own(connection)[0]].append(connection)
    for workload in workloads:
        if workload.served_here:
            # A view has the workload's bare name; the identity, where it is known, tells namesakes apart.
            own = [c for c in carried[workload.name] if _own(c)[1] in {None, workload.identity}]
            yield workload.uid, _state(workload, own)


def _own(connection: ConnectionView) -> tuple[str | None, str | None]:
    """Name and identity of the side that is here."""
    if connection.direction == "inbound":
        return connection.destination_workload, connection.destination_identity
    return connection.source_workload, connection.source_identity


def _state(workload: WorkloadView, connections: list[ConnectionView]) -> Mapping[str, object]:
    both: dict[str, list[dict[str, str]]] = {"inbound": [], "outbound": []}
    for connection in connections:
        entry = {
            "src": connection.source,
            "originalDst": connection.destination,
            "actualDst": connection.upstream or connection.destination,
            "protocol": "HBONE" if connection.security == "mutual_tls" else "TCP",
        }
        both[connection.direction].append(entry)
    info = {"name": workload.name, "namespace": workload.namespace, "serviceAccount": workload.service_account}
    return {"state": "Up", "connections": both, "info": info}
