"""Which workloads are endpoints of which services, and where each of the service's ports is there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from enum import Enum
from typing import Final

from hbone.discovery.entries import EntrySpec
from hbone.discovery.model import PortMap
from hbone.discovery.services import PortSpec, Resolution, ServiceSpec
from hbone.documents.objects import Meta
from hbone.values import dataclass

_NO_OWN_PORTS: Final[Mapping[str, int]] = {}


@dataclass(slots=True, kw_only=True)
class Draft:
    """A workload in the making. `spec` is None for a host that a ServiceEntry names without endpoints."""

    uid: str
    meta: Meta
    spec: EntrySpec | None
    hostname: str
    external: bool
    labels: Mapping[str, str]
    services: dict[str, PortMap] = field(default_factory=dict[str, PortMap])

    @property
    def network(self) -> str | None:
        return self.spec.network if self.spec is not None else None

    @property
    def account(self) -> str:
        return self.spec.service_account if self.spec is not None else ""


class Completeness(Enum):
    """Whether every document could be read."""

    WHOLE = "whole"
    PARTIAL = "partial"


def entry_draft(cluster: str, meta: Meta, spec: EntrySpec) -> Draft:
    """The workload of a WorkloadEntry. Its labels are those of the object and, stronger, of the spec."""
    return Draft(
        uid=f"{cluster}/networking.istio.io/WorkloadEntry/{meta.namespace}/{meta.name}",
        meta=meta,
        spec=spec,
        hostname=spec.hostname,
        external=False,
        labels={**meta.labels, **spec.labels},
    )


def join_endpoints(
    cluster: str,
    entries: list[Draft],
    services: Iterable[ServiceSpec],
    completeness: Completeness,
    groups: Sequence[Draft] = (),
) -> list[Draft]:
    """All workloads, with the services they are endpoints of; problems for services that have none.

    A selector that finds nothing is no problem of its own while workloads are missing for other reasons. `groups` are
    given their services as entries are, and are no workloads.
    """
    by_namespace: dict[str, list[Draft]] = {}
    for draft in (*entries, *groups):
        by_namespace.setdefault(draft.meta.namespace, []).append(draft)
    inline: dict[str, Draft] = {}
    for service in services:
        if service.resolution is Resolution.NONE:
            continue
        if service.selector:
            members = [d for d in by_namespace.get(service.meta.namespace, ()) if _selects(service.selector, d.labels)]
        else:
            members = _inline(cluster, service, inline)
        if not members and not (service.selector and completeness is Completeness.PARTIAL):
            _without_endpoints(service)
        keys = [f"{service.meta.namespace}/{host}" for _, host in service.hosts]
        for draft in members:
            own = draft.spec.ports if draft.spec is not None else _NO_OWN_PORTS
            ports = {port.number: at for port in service.ports if (at := _target(service, port, own)) is not None}
            only = [f"{service.meta.namespace}/{draft.hostname}"] if draft.spec is None else keys
            draft.services.update(dict.fromkeys(only, ports))
    return [*entries, *inline.values()]


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _inline(cluster: str, service: ServiceSpec, known: dict[str, Draft]) -> list[Draft]:
    """The workloads that a ServiceEntry defines itself: its endpoints, or else its hosts when DNS knows them."""
    if not service.is_entry:
        return []
    prefix = f"{cluster}/networking.istio.io/ServiceEntry/{service.meta.namespace}/{service.meta.name}/"
    drafts: list[Draft] = []
    for spec in service.endpoints:
        uid = f"{prefix}{spec.address or spec.hostname}"
        if uid in known:
            spec.place.problem("address", f"the endpoint {spec.address or spec.hostname} is there twice", "keep one")
            continue
        drafts.append(
            Draft(
                uid=uid,
                meta=service.meta,
                spec=spec,
                hostname=spec.hostname,
                external=service.external,
                labels=service.meta.labels,
            )
        )
        known[uid] = drafts[-1]
    if service.resolution is Resolution.DNS and not service.place.value.get("endpoints"):
        for _, host in service.hosts:
            drafts.append(
                Draft(
                    uid=f"{prefix}{host}",
                    meta=service.meta,
                    spec=None,
                    hostname=host,
                    external=True,
                    labels=service.meta.labels,
                )
            )
            known[drafts[-1].uid] = drafts[-1]
    return drafts


def _target(service: ServiceSpec, port: PortSpec, own: Mapping[str, int]) -> int | None:
    """Where an endpoint with the named ports `own` has a service's port; None: it has it not.

    A Service's named targetPort is looked up in the endpoint; a ServiceEntry's port is the endpoint's of the same
    name, else its targetPort.
    """
    if service.is_entry and port.name in own:
        return own[port.name]
    if isinstance(port.target, str):
        return own.get(port.target)
    return port.target or port.number


def _without_endpoints(service: ServiceSpec) -> None:
    name = f"service {service.meta.name}"
    if service.place.value.get("endpoints"):
        return  # each of them is a problem already
    if service.selector:
        labels = ", ".join(f"{key}={value}" for key, value in service.selector.items())
        service.place.problem(
            "workloadSelector" if service.is_entry else "selector",
            f"{name} has no endpoints: no WorkloadEntry in namespace {service.meta.namespace} has the labels {labels}",
            "correct the labels, or add the WorkloadEntry",
        )
    elif service.is_entry:
        service.place.problem(
            "endpoints",
            f"{name} has no endpoints",
            "write endpoints: [{address: 10.0.0.7}], a workloadSelector, or resolution: DNS",
        )
    else:
        service.place.problem(
            "selector",
            f"{name} has no endpoints: it selects nothing",
            "write selector: {app: …}, with a WorkloadEntry's labels",
        )
