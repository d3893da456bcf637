"""One exposition out of those of several processes: counters, histograms and gauges summed, others by their own rule.

A worker that dies takes its counters with it, and a sum that falls looks to whoever rates it like a process that began
anew: the whole sum would count once more. So what an ended worker said last is kept and added on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from itertools import islice
from typing import Final

from hbone.telemetry.metrics import CHUNK_LINES, Metrics
from hbone.telemetry.names import BUILD, SERVICES, SVID_EXPIRY, SVID_EXPIRY_SECONDS, WORKLOADS
from hbone.values import dataclass

MAX_KEPT: Final = 200_000  # series of ended workers; beyond that further ones begin anew

Rule = Callable[[float, float], float]
RULES: Final[Mapping[str, Rule]] = {
    BUILD.name: max,
    WORKLOADS.name: max,  # every worker knows the same mesh
    SERVICES.name: max,
    SVID_EXPIRY.name: min,  # each has a certificate of its own; what ends first needs attention first
    SVID_EXPIRY_SECONDS.name: min,
}
_GROWING: Final = frozenset({"counter", "histogram"})


@dataclass(slots=True)
class Family:
    """One metric: its comment lines, and its samples by all that stands before the value."""

    name: str
    kind: str
    head: list[str] = field(default_factory=list[str])
    samples: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, other: "Family") -> None:
        rule = RULES.get(self.name)
        samples = self.samples
        for key, value in other.samples.items():
            known = samples.get(key)
            samples[key] = value if known is None else known + value if rule is None else rule(known, value)

    def lines(self) -> Iterator[str]:
        yield from self.head
        for key, value in self.samples.items():
            yield f"{key} {int(value) if value == int(value) else repr(value)}\n"


Families = dict[str, Family]


def parse(text: str) -> Families:
    """Our own exposition (`hbone.telemetry.metrics`): comment lines of a metric first, TYPE the first of them."""
    families: Families = {}
    family = Family("", "")
    for line in text.splitlines(keepends=True):
        if not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            family.samples[key] = float(value)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            family = families[name] = Family(name, kind, [line])
        elif not line.startswith("# EOF"):
            family.head.append(line)
    return families


def merged(all_: Iterable[Families]) -> Families:
    """The sum; what came in is left as it was."""
    total: Families = {}
    for families in all_:
        for name, family in families.items():
            known = total.get(name)
            if known is None:
                total[name] = Family(name, family.kind, family.head, dict(family.samples))
            else:
                known.add(family)
    return total


class Totals:
    """What the workers of a node said last, and what those said that are gone."""

    def __init__(self) -> None:
        self._last: dict[int, Families] = {}
        self._ended: Families = {}

    def said(self, number: int, text: str) -> None:
        self._last[number] = parse(text)

    def ended(self, number: int) -> None:
        """The process that was this worker is gone; its counts remain, its gauges do not."""
        last = self._last.pop(number, {})
        growing = {name: family for name, family in last.items() if family.kind in _GROWING and name not in RULES}
        if sum(len(family.samples) for family in (*self._ended.values(), *growing.values())) <= MAX_KEPT:
            self._ended = merged((self._ended, growing))

    def with_own(self, text: str) -> Families:
        """All of it and the agent's own."""
        return merged((parse(text), *self._last.values(), self._ended))


class WholeMetrics(Metrics):
    """The agent's metrics; its exposition is the whole node's."""

    def __init__(self) -> None:
        super().__init__()
        self.totals = Totals()

    def chunks(self) -> Iterator[str]:
        lines = self._whole()
        while chunk := "".join(islice(lines, CHUNK_LINES)):
            yield chunk

    def text(self) -> str:
        return "".join(self._whole())

    def _whole(self) -> Iterator[str]:
        for family in self.totals.with_own(super().text()).values():
            yield from family.lines()
        yield "# EOF\n"
