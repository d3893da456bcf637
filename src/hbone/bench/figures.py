"""What a workload is, what it measures, and what it is given to do so."""

from collections.abc import Mapping
from typing import Protocol

from hbone.addr import SocketAddress
from hbone.bench import procfs
from hbone.bench.pki import Identity
from hbone.bench.processes import Processes, Started
from hbone.bench.statistics import Better
from hbone.bench.targets import TargetKind
from hbone.bench.tools import Need
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that a workload yields. `name` is unique within its workload; `digits` follow the point in print.

    `target`: what it must reach (at least, where higher is better; else at most), for what Envoy has no figure of.
    """

    name: str
    label: str
    unit: str
    better: Better
    digits: int = 1
    target: float | None = None

    def meets(self, value: float) -> bool:
        """Whether `value` is as good as the target asks; True without one."""
        if self.target is None:
            return True
        return value >= self.target if self.better is Better.HIGHER else value <= self.target


CPU_LABEL = "CPU of the proxies"
PEAK_RSS = Figure(name="peak_rss", label="peak memory of the proxies", unit="MiB", better=Better.LOWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How long one sample takes: whole seconds, because wrk and iperf3 take no others."""

    seconds: int
    warmup_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A candidate that is up: where connections to each target go in, and its proxies, if it has any.

    `tunnel` is the inbound HBONE port and `client` an identity that it lets in; None without proxies. `ready_s`:
    from the start of the first to the moment when both proxies are ready.
    """

    candidate: str
    entries: Mapping[TargetKind, SocketAddress]
    targets: Mapping[TargetKind, SocketAddress]
    processes: Processes
    proxies: tuple[Started, ...] = ()
    tunnel: SocketAddress | None = None
    client: Identity | None = None
    ready_s: float = 0.0

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(proxy.pid for proxy in self.proxies)

    def cpu_s(self) -> float:
        """CPU seconds of the proxies so far."""
        return procfs.cpu_s(self.pids)

    def rss_mib(self) -> float:
        return procfs.rss_kib(self.pids) / 1024

    def peak_rss_mib(self) -> float:
        return procfs.peak_rss_kib(self.pids) / 1024

    def proxy_figures(self, **values: float) -> dict[str, float]:
        """`values` and the peak memory; nothing where there is no proxy to account for."""
        return {**values, PEAK_RSS.name: self.peak_rss_mib()} if self.proxies else {}


class Workload(Protocol):
    """One load. `key` is its name on the command line; the first of `figures` is what it is about.

    Workloads of one `group` run one after the other on the same processes; a group of its own means fresh processes.
    `tools` must be there. `needs_proxies` leaves out candidates without any.
    """

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
    @property
    def needs_proxies(self) -> bool: ...

    def sample(self, lane: Lane, part: Slice) -> Mapping[str, float]:
        """Load `lane` once: a value per figure name, those left out that do not apply. Raises SampleFailed."""
        ...
