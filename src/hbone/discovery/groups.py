"""WorkloadGroups: what machines become that join by themselves.

A group says what its machines have in common: labels, service account, ports, weight. Joined with everything else in
the manifests it becomes one `Workload` without an address, the template; a machine that registers as of the group
becomes that workload with its own name and address (`hbone.control.registry`). So services that select a group's
labels, waypoints and policies are worked out once, by the rules for a WorkloadEntry.

`spec.probe` is read and not acted upon: a machine is in the mesh for as long as it is connected.
"""

from dataclasses import replace
from typing import Final

from hbone.discovery.enrolment import AUTO_REGISTRATION_GROUP
from hbone.discovery.entries import read_template
from hbone.discovery.joining import Draft, entry_draft
from hbone.documents.fields import Section
from hbone.documents.objects import Meta
from hbone.documents.values import Object

_PROBE: Final = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "httpGet",
    "tcpSocket",
    "exec",
    "grpc",
)


def group_key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def read_group(meta: Meta, cluster: str, trust_domain: str) -> Draft:
    """The workload that each machine of a group is, but for name and address; problems are added to the document's.

    The annotation of auto-registration is set as istiod sets it: the group's name is what its members are called.
    """
    spec = meta.root.section("spec")
    template, common = None, None
    if spec is not None:
        template, common, probe = spec.section("template"), spec.section("metadata"), spec.section("probe")
        if probe is not None:
            probe.ignore(*_PROBE)
            probe.finish()
        spec.finish()
    if template is None:  # nothing is said: the account `default`, and no labels
        root = meta.root
        template = Section(root.document, Object(root.document.line), ("spec", "template"), root.problems)
    labels, annotations = _common(common)
    member = replace(meta, labels=labels, annotations={**annotations, AUTO_REGISTRATION_GROUP: meta.name})
    draft = entry_draft(cluster, member, read_template(template, meta.namespace, trust_domain))
    draft.uid = f"{cluster}/networking.istio.io/WorkloadGroup/{meta.namespace}/{meta.name}"
    return draft


def _common(section: Section | None) -> tuple[dict[str, str], dict[str, str]]:
    if section is None:
        return {}, {}
    found = section.labels("labels"), section.labels("annotations")
    section.finish()
    return found
