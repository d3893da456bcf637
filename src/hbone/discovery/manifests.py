"""Manifests, Istio's and Kubernetes' own objects in YAML files → the state of the mesh.

First every document is read by itself, then they are joined: labels of Namespaces, selectors of services,
waypoints. All problems of all files come at once; a state comes only when there are none. Security policies are
recognised and handed on unread.
"""

from collections.abc import Mapping

from hbone.discovery.assembly import Defaults, Gathered, assemble
from hbone.discovery.entries import read_entry
from hbone.discovery.groups import group_key, read_group
from hbone.discovery.joining import Completeness, entry_draft
from hbone.discovery.model import MeshState, Workload
from hbone.discovery.services import ServiceSpec, read_service, read_service_entry
from hbone.documents.fields import Section
from hbone.documents.large import read_large
from hbone.documents.objects import MESH_KINDS, Meta, kind_of, read_meta
from hbone.documents.shapes import Shapes
from hbone.documents.values import Document, objects
from hbone.errors import InvalidConfiguration, Problem
from hbone.values import dataclass

__all__ = ["Defaults", "Manifests", "parse_manifests"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """What a set of files says.

    `groups` is what the members of each WorkloadGroup ("namespace/name") are. `other` are the documents of kinds that
    are not all of the state (policies, WorkloadGroup). `namespaces` are the labels of the Namespaces among the
    documents, by name. `origins` says where each workload (by uid) and service (by key) is written, as file:line.
    """

    state: MeshState
    groups: Mapping[str, Workload]
    other: tuple[Document, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    origins: Mapping[str, str]


def parse_manifests(files: Mapping[str, str | bytes], defaults: Defaults | None = None) -> Manifests:
    """Files by name, with their text. Raises InvalidConfiguration with every problem of every file."""
    problems: list[Problem] = []
    reading = _Reading(defaults or Defaults(), problems)
    shapes = Shapes()
    for file, text in files.items():
        for document in read_large(file, text, problems, shapes):
            for item in objects(document):
                reading.take(item)
    if any(problem.field == "" for problem in problems):
        reading.gathered.completeness = Completeness.PARTIAL
    joined = assemble(reading.gathered, reading.defaults)
    if problems:
        distinct = dict.fromkeys(problems)
        raise InvalidConfiguration(sorted(distinct, key=lambda p: (p.file or "", p.line or 0)))
    return Manifests(
        state=joined.state,
        groups=joined.groups,
        other=tuple(reading.other),
        namespaces={meta.name: meta.labels for meta in reading.gathered.namespaces.values()},
        origins=joined.origins,
    )


class _Reading:
    """Documents one by one, sorted by kind."""

    def __init__(self, defaults: Defaults, problems: list[Problem]) -> None:
        self.defaults = defaults
        self.gathered = Gathered()
        self.other: list[Document] = []
        self._problems = problems
        self._seen: dict[tuple[str, str, str], Meta] = {}

    def take(self, document: Document) -> None:
        """Reads one document; what cannot be read leaves a gap, which others must not be blamed for."""
        if not self._taken(document):
            self.gathered.completeness = Completeness.PARTIAL

    def _taken(self, document: Document) -> bool:
        kind = kind_of(document, self._problems)
        if kind is None:
            return False
        if kind not in MESH_KINDS:
            self.other.append(document)
            if kind != "WorkloadGroup":
                return True
        meta = read_meta(document, kind, self._problems)
        if meta is None:
            return False
        first = self._seen.setdefault((kind, meta.namespace, meta.name), meta)
        if first is not meta:
            meta.root.problem(
                ("metadata", "name"),
                f"{kind} {meta.namespace}/{meta.name} is there twice, first at {first.place}",
                "give it another name, or remove one",
            )
            return False
        return self._read(kind, meta)

    def _read(self, kind: str, meta: Meta) -> bool:
        gathered = self.gathered
        match kind:
            case "WorkloadEntry":
                spec = _spec(meta)
                entry = read_entry(spec, meta.namespace, self.defaults.trust_domain) if spec is not None else None
                if entry is None:
                    return False
                gathered.entries.append(entry_draft(self.defaults.cluster_id, meta, entry))
            case "ServiceEntry":
                return _added(gathered.services, read_service_entry(meta, self.defaults.trust_domain))
            case "Service":
                return _added(gathered.services, read_service(meta, self.defaults.domain))
            case "WorkloadGroup":
                group = read_group(meta, self.defaults.cluster_id, self.defaults.trust_domain)
                gathered.groups[group_key(meta.namespace, meta.name)] = group
            case "Namespace":
                gathered.namespaces[meta.name] = meta
            case _:
                pass  # a ServiceAccount is a name, nothing more
        return True


def _added(services: list[ServiceSpec], service: ServiceSpec | None) -> bool:
    if service is not None:
        services.append(service)
    return service is not None


def _spec(meta: Meta) -> Section | None:
    section = meta.root.section("spec")
    if section is None and "spec" not in meta.root:
        meta.root.missing("spec", "write spec: {address: 10.0.0.7, serviceAccount: cart}")
    return section
