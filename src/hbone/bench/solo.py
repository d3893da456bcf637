"""What Envoy has no counterpart of: hbone is measured alone, against targets."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from hbone.bench.candidates import Ground
from hbone.bench.figures import Figure, Slice
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Need


@runtime_checkable
class Solo(Protocol):
    """As `hbone.bench.figures.Workload`, but it starts what it measures itself."""

    @property
    def key(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def figures(self) -> tuple[Figure, ...]: ...
    @property
    def tools(self) -> tuple[Need, ...]: ...
    @property
    def target(self) -> tuple[TargetKind, ...]: ...

    def measure(self, ground: Ground, part: Slice) -> Mapping[str, float]:
        """A value per figure name. What it starts belongs to `ground.processes`. Raises SampleFailed or NotReady."""
        ...
