"""How many workloads of the mesh have which identity, so that it is known when the last one has left."""

from collections import Counter
from collections.abc import Iterable

from hbone.discovery.model import Workload
from hbone.discovery.store import Change
from hbone.identity.spiffe import SpiffeId


class Population:
    """Kept in step with a store by its changes, each told once. `node`: only workloads that may be on this one count,
    those placed on it and those placed nowhere; empty for all."""

    def __init__(self, workloads: Iterable[Workload] = (), *, node: str = "") -> None:
        self._node = node
        self._count = Counter(workload.identity for workload in workloads if self._counts(workload))

    def left(self, change: Change) -> frozenset[SpiffeId]:
        """The identities that some workload had before the change, and none has after it."""
        gone = [one.before.identity for one in change.workloads if one.before is not None and self._counts(one.before)]
        come = [one.after.identity for one in change.workloads if one.after is not None and self._counts(one.after)]
        self._count.update(come)
        self._count.subtract(gone)
        left = frozenset(identity for identity in gone if self._count[identity] <= 0)
        for identity in left:
            del self._count[identity]
        return left

    def __len__(self) -> int:
        return len(self._count)

    def _counts(self, workload: Workload) -> bool:
        return not self._node or workload.node in {"", self._node}
