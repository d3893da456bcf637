"""Things that select workloads by labels, found by a workload's labels."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

_T = TypeVar("_T")


class BySelector(Generic[_T]):
    """Each thing is filed under its namespace and one of its labels: a workload asks for each label that it has."""

    def __init__(self, entries: Iterable[tuple[str, Mapping[str, str], _T]]) -> None:
        self._filed: dict[tuple[str, str, str], list[tuple[Mapping[str, str], _T]]] = {}
        for namespace, labels, thing in entries:
            key, value = min(labels.items())
            self._filed.setdefault((namespace, key, value), []).append((labels, thing))

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> Iterator[_T]:
        """What in `namespace` selects a workload with these labels."""
        for key, value in labels.items():
            for wanted, thing in self._filed.get((namespace, key, value), ()):
                if all(labels.get(name) == text for name, text in wanted.items()):
                    yield thing
