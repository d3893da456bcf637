"""What a workload's ports demand of a connection: PeerAuthentication of mesh, namespace and workload, merged.

In each of the three the oldest object counts and all others are ignored, whatever they say. The mode is the
narrowest that is set, PERMISSIVE where none is; ports come from the workload's own object, one left UNSET taking the
mode. A selector in the root namespace selects nobody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field

from hbone.policy.manifests import Mode, PeerAuthentication
from hbone.policy.model import Subject
from hbone.policy.selectors import BySelector
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What holds for one workload: `mode`, decided by `by` (None: nobody said anything), and `ports` that differ in
    who decided, each with its mode, from `workload`'s portLevelMtls."""

    mode: Mode = Mode.PERMISSIVE
    by: PeerAuthentication | None = None
    ports: Mapping[int, Mode] = field(default_factory=dict[int, Mode])
    workload: PeerAuthentication | None = None

    def at(self, port: int) -> Mode:
        return self.ports.get(port, self.mode)

    def decided_by(self, port: int) -> PeerAuthentication | None:
        """The object that set the mode of a port."""
        if self.workload is not None and self.workload.ports.get(port, Mode.UNSET) is not Mode.UNSET:
            return self.workload
        return self.by

    @property
    def exceptions(self) -> tuple[int, ...]:
        """The ports whose strictness is not that of the others, ascending."""
        strict = self.mode is Mode.STRICT
        return tuple(sorted(port for port, mode in self.ports.items() if (mode is Mode.STRICT) is not strict))


class PeerAuthentications:
    """All of a mesh, by where they apply."""

    def __init__(self, objects: Iterable[PeerAuthentication], root_namespace: str) -> None:
        self.objects = tuple(sorted(objects, key=_age))
        self.root_namespace = root_namespace
        self._wide: dict[str, PeerAuthentication] = {}
        for one in self.objects:
            if not one.selection.labels:
                self._wide.setdefault(one.namespace, one)
        self._narrow = BySelector(
            (one.namespace, one.selection.labels, one)
            for one in self.objects
            if one.selection.labels and one.namespace != root_namespace
        )

    def workload_object(self, subject: Subject) -> PeerAuthentication | None:
        """The object that selects a workload by its labels."""
        return min(self._narrow.selecting(subject.namespace, subject.labels), key=_age, default=None)

    def of_workload(self, subject: Subject) -> Effective:
        return self.effective(subject.namespace, self.workload_object(subject))

    def effective(self, namespace: str, workload: PeerAuthentication | None) -> Effective:
        """What holds in `namespace` for workloads whose own object is `workload`."""
        mode, by = Mode.PERMISSIVE, None
        for one in (self._wide.get(self.root_namespace), self._wide.get(namespace), workload):
            if one is not None and one.mode is not Mode.UNSET:
                mode, by = one.mode, one
        ports = workload.ports.items() if workload is not None else ()
        merged = {port: mode if own is Mode.UNSET else own for port, own in ports}
        return Effective(mode=mode, by=by, ports=merged, workload=workload)

    def ignored(self) -> tuple[tuple[PeerAuthentication, PeerAuthentication], ...]:
        """Objects for a whole namespace that an older one leaves without effect, each with that one."""
        wide = [one for one in self.objects if not one.selection.labels]
        return tuple((one, self._wide[one.namespace]) for one in wide if self._wide[one.namespace] is not one)


def _age(one: PeerAuthentication) -> tuple[str, str, str]:
    """Older first; without a timestamp first of all; of one age by name."""
    return one.created, one.name, one.namespace
