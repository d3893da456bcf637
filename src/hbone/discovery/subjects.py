"""Workloads as policy sees them, and manifests read whole: the mesh and its security policies, all problems at once."""

from collections.abc import Mapping
from dataclasses import replace

from hbone.discovery.manifests import Defaults, Manifests, parse_manifests
from hbone.discovery.model import GatewayAddress, MeshState, NamespacedHostname, Protocol, Service, Workload
from hbone.documents.document import read_documents
from hbone.documents.values import Document, objects
from hbone.errors import InvalidConfiguration, Problem
from hbone.policy.compile import compile_policies
from hbone.policy.manifests import Policies
from hbone.policy.model import Authorization, MeshNames, Subject, Transport
from hbone.policy.parse import SECURITY_KINDS, read_policies
from hbone.policy.world import World
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredMesh:
    """What a set of manifests says, policies included."""

    manifests: Manifests
    policies: Policies


def parse_secured(files: Mapping[str, str | bytes], defaults: Defaults | None = None) -> SecuredMesh:
    """Files by name, with their text. Raises InvalidConfiguration with every problem, of policies too."""
    problems: list[Problem] = []
    try:
        manifests = parse_manifests(files, defaults)
        documents = list(manifests.other)
    except InvalidConfiguration as error:
        manifests = None
        problems.extend(error.problems)
        documents = _security_documents(files)
    policies = read_policies(documents, problems)
    if problems or manifests is None:
        distinct = dict.fromkeys(problems)
        raise InvalidConfiguration(sorted(distinct, key=lambda problem: (problem.file or "", problem.line or 0)))
    return SecuredMesh(manifests=manifests, policies=policies)


def _security_documents(files: Mapping[str, str | bytes]) -> list[Document]:
    """The policies among documents of which others are wrong; what cannot be read has been reported."""
    reported: list[Problem] = []
    found: list[Document] = []
    for file, text in files.items():
        for document in read_documents(file, text, reported):
            for item in objects(document):
                value = item.value
                if isinstance(value, dict) and value.get("kind") in SECURITY_KINDS:
                    found.append(item)
    return found


def world_of(mesh: SecuredMesh, names: MeshNames) -> World:
    """The mesh as questions of policy need it."""
    return World(names=names, policies=mesh.policies, subjects=subjects_of(mesh.manifests))


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What nodes are to be told: the mesh, each workload naming the policies that select it, and all policies."""

    state: MeshState
    authorizations: tuple[Authorization, ...]


def put_in_force(mesh: SecuredMesh, names: MeshNames) -> InForce:
    """Compiles the policies and attaches them to the workloads."""
    compiled = compile_policies(mesh.policies, names)
    known: dict[object, tuple[str, ...]] = {}  # most workloads are one of many alike

    def with_policies(workload: Workload) -> Workload:
        key = workload.namespace, frozenset(workload.labels.items())
        if key not in known:
            known[key] = compiled.keys_for(subject_of(workload, {}))
        return replace(workload, authorization_policies=known[key]) if known[key] else workload

    state = mesh.manifests.state
    workloads = tuple(map(with_policies, state.workloads))
    return InForce(state=replace(state, workloads=workloads), authorizations=compiled.authorizations)


def subjects_of(manifests: Manifests) -> tuple[Subject, ...]:
    services = {service.key: service for service in manifests.state.services}
    return tuple(subject_of(one, services, manifests.origins.get(one.uid)) for one in manifests.state.workloads)


def subject_of(workload: Workload, services: Mapping[str, Service], place: str | None = None) -> Subject:
    """`services` by "namespace/hostname", `place` where the workload is written."""
    member_of = [services[key] for key in workload.services if key in services]
    return Subject(
        namespace=workload.namespace,
        name=workload.name,
        identity=workload.identity,
        labels=workload.labels,
        addresses=workload.addresses,
        transport=Transport.HBONE if workload.protocol is Protocol.HBONE else Transport.PLAINTEXT,
        ports=frozenset(target for ports in workload.services.values() for target in ports.values() if target),
        services=tuple(sorted({f"{service.namespace}/{service.name}" for service in member_of})),
        waypoints=_waypoints(workload.waypoint, *(service.waypoint for service in member_of)),
        place=place,
    )


def _waypoints(*gateways: GatewayAddress | None) -> tuple[str, ...]:
    """ "infra/waypoint.infra.svc.cluster.local" → "infra/waypoint"."""
    named = [gateway.destination for gateway in gateways if gateway is not None]
    hosts = [one for one in named if isinstance(one, NamespacedHostname)]
    return tuple(sorted({f"{one.namespace}/{one.hostname.partition('.')[0]}" for one in hosts}))
