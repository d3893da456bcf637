"""The outside of a manifest: which kind of object it is, and its metadata."""

from collections.abc import Mapping
from typing import Final

from hbone.documents.fields import Section, nearest, shown
from hbone.documents.values import Document, Object
from hbone.errors import Problem
from hbone.values import dataclass

_ISTIO: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
_SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")

MESH_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "WorkloadEntry": _ISTIO,
    "ServiceEntry": _ISTIO,
    "Service": ("v1",),
    "ServiceAccount": ("v1",),
    "Namespace": ("v1",),
}
"""Kind → the values of apiVersion that it may have; the first is the one to write."""

OTHER_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "WorkloadGroup": _ISTIO,
    "PeerAuthentication": _SECURITY,
    "AuthorizationPolicy": _SECURITY,
    "RequestAuthentication": _SECURITY,
}
"""Kinds that others read: they are handed on as documents."""

KINDS: Final = {**MESH_KINDS, **OTHER_KINDS}

DEFAULT_NAMESPACE: Final = "default"

# What `kubectl get -o yaml` adds, and what only a cluster acts upon.
_METADATA: Final = frozenset(
    (
        "name",
        "namespace",
        "labels",
        "annotations",
        "generateName",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "finalizers",
        "managedFields",
        "ownerReferences",
        "selfLink",
    )
)
_OUTSIDE: Final = frozenset(("apiVersion", "kind", "metadata", "spec", "status"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What an object is called; `root` is the whole object, for problems."""

    root: Section
    kind: str
    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def place(self) -> str:
        """file:line, for problems elsewhere that speak of this object."""
        return f"{self.root.document.file}:{self.root.document.line}"


def kind_of(document: Document, problems: list[Problem]) -> str | None:
    """The kind of a document; None, with problems, when it or its apiVersion is none that we know."""
    if isinstance(document.value, Object):
        kind, version = document.value.get("kind"), document.value.get("apiVersion")
        if isinstance(kind, str) and version in KINDS.get(kind, ()):
            return kind
    root = Section.root(document, problems, "a mapping with apiVersion, kind and metadata")
    if root is None:
        return None
    kind = root.required_text("kind", "WorkloadEntry")
    if kind is None:
        return None
    if kind not in KINDS:
        root.problem("kind", f"unknown kind {shown(kind)}", nearest(kind, KINDS, f"use one of: {', '.join(KINDS)}"))
        return None
    version = root.required_text("apiVersion", KINDS[kind][0])
    if version is None:
        return None
    if version not in KINDS[kind]:
        root.problem("apiVersion", f"{shown(version)} has no kind {kind}", f"write apiVersion: {KINDS[kind][0]}")
        return None
    return kind


def read_meta(document: Document, kind: str, problems: list[Problem]) -> Meta | None:
    """Name, namespace, labels and annotations; None, with problems, when there is no usable name."""
    if not isinstance(document.value, Object):
        return None
    root = Section(document, document.value, (), problems)
    root.know(_OUTSIDE)
    if kind == "ServiceAccount":
        root.ignore("secrets", "imagePullSecrets", "automountServiceAccountToken")
    root.finish()
    section = root.section("metadata")
    if section is None:
        if "metadata" not in root:
            root.missing("metadata", "write metadata: {name: …, namespace: …}")
        return None
    section.know(_METADATA)
    name = section.dns_name("name", None, "cart-0")
    if kind == "Namespace":
        section.ignore("namespace")
        namespace: str | None = name
    else:
        namespace = section.dns_name("namespace", DEFAULT_NAMESPACE, "shop")
    labels = section.labels("labels")
    annotations = section.labels("annotations")
    section.finish()
    if name is None or namespace is None:
        return None
    return Meta(root=root, kind=kind, name=name, namespace=namespace, labels=labels, annotations=annotations)
