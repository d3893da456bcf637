"""Nodes as callers: what a machine is called, and which identities it may ask for because their workloads run on it.

A node that serves many workloads has an identity of its own, in a namespace that no workload may be in. With it, it
may have the certificates of exactly those workloads that the mesh places on it: by a manifest, or by a registration.
"""

from collections.abc import Iterable
from typing import Final

from hbone.control.publish import Mesh
from hbone.discovery.model import Workload
from hbone.discovery.store import Change
from hbone.identity.spiffe import SpiffeId, TrustDomain

NODES_NAMESPACE: Final = "hbone-nodes"
"""Of the nodes' own identities; the service account is the node's name."""

SYSTEM_NAMESPACE: Final = "hbone-system"
"""Of the control plane's own identity."""

RESERVED: Final = frozenset({NODES_NAMESPACE, SYSTEM_NAMESPACE})


def node_identity(trust_domain: TrustDomain, node: str) -> SpiffeId:
    """Raises InvalidSpiffeId for a name that does not fit into one."""
    return SpiffeId.for_workload(trust_domain, NODES_NAMESPACE, node)


def control_identity(trust_domain: TrustDomain) -> SpiffeId:
    """What the control plane's own certificate says."""
    return SpiffeId.for_workload(trust_domain, SYSTEM_NAMESPACE, "control")


def node_of(identity: SpiffeId) -> str:
    """The node that an identity is of, empty for a workload's."""
    workload = identity.workload
    return workload[1] if workload is not None and workload[0] == NODES_NAMESPACE else ""


class Placement:
    """Which identities run on which node, kept in step with the mesh: one look-up for each question."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._uids: dict[tuple[str, SpiffeId], set[str]] = {}
        self._put(mesh.store.workloads())
        self._end = mesh.on_change(self._changed)

    def close(self) -> None:
        self._end()

    def places(self, node: str, identity: SpiffeId) -> bool:
        """Whether some workload of this identity runs on this node."""
        return bool(node) and (node, identity) in self._uids

    def node_of_workload(self, namespace: str, name: str) -> str:
        """Where a workload (a pod) runs, empty if that is not known for sure."""
        nodes = {workload.node for workload in self._mesh.store.workloads_called(namespace, name)}
        return nodes.pop() if len(nodes) == 1 else ""

    def _put(self, workloads: Iterable[Workload]) -> None:
        for workload in workloads:
            if workload.node:
                self._uids.setdefault((workload.node, workload.identity), set()).add(workload.uid)

    def _changed(self, change: Change) -> None:
        for one in change.workloads:
            if one.before is not None:
                self._take(one.before)
        self._put(one.after for one in change.workloads if one.after is not None)

    def _take(self, workload: Workload) -> None:
        uids = self._uids.get((workload.node, workload.identity))
        if uids is not None:
            uids.discard(workload.uid)
            if not uids:
                del self._uids[workload.node, workload.identity]
