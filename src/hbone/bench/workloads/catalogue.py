"""All workloads, in the order in which they run and are shown."""

from collections.abc import Iterable, Mapping

from hbone.bench.figures import Workload
from hbone.bench.solo import Solo
from hbone.bench.workloads.bulk import Bulk, Direction
from hbone.bench.workloads.burst import Burst
from hbone.bench.workloads.cores import Cores
from hbone.bench.workloads.evaluation import Evaluation
from hbone.bench.workloads.handshakes import Handshakes
from hbone.bench.workloads.http import Http, Reuse
from hbone.bench.workloads.idle import Idle
from hbone.bench.workloads.load import Load
from hbone.bench.workloads.mix import Mix
from hbone.bench.workloads.policies import PoliciesInForce
from hbone.bench.workloads.reload import Reload
from hbone.bench.workloads.startup import Startup
from hbone.errors import UsageError

_ALL: tuple[Workload | Solo, ...] = (
    *(Bulk(streams=streams, direction=direction) for streams in (1, 8, 64) for direction in Direction),
    *(Http(connections=connections, reuse=Reuse.KEPT) for connections in (1, 32, 256)),
    *(Http(connections=connections, reuse=Reuse.NEVER) for connections in (1, 32)),
    Handshakes(),
    Burst(connections=200),
    Idle(streams=2_000),
    Idle(streams=20_000),
    Mix(),
    Startup(),
    Load(workloads=10_000),
    Load(workloads=200_000),
    Evaluation(policies=10, max_us=10.0),
    Evaluation(policies=1_000, max_us=25.0),
    PoliciesInForce(connections=32, reuse=Reuse.KEPT),
    PoliciesInForce(connections=32, reuse=Reuse.NEVER),
    Reload(connections=32, reuse=Reuse.KEPT),
    Reload(connections=32, reuse=Reuse.NEVER),
    Cores(load=Http(connections=256, reuse=Reuse.KEPT)),
    Cores(load=Http(connections=32, reuse=Reuse.NEVER)),
    Cores(load=Bulk(streams=8, direction=Direction.UP)),
)

CATALOGUE: Mapping[str, Workload | Solo] = {workload.key: workload for workload in _ALL}

QUICK = ("bulk1", "keepalive32", "connect32", "burst200", "idle2000")
"""What a smoke run measures: one of each kind that the promises are about."""


def chosen(keys: Iterable[str]) -> tuple[Workload | Solo, ...]:
    """The workloads named, in catalogue order; a name without its number means the whole family. Raises UsageError."""
    wanted: set[str] = set()
    for key in keys:
        matches = {key} if key in CATALOGUE else _family(key)
        if not matches:
            raise UsageError(f"there is no workload {key!r}", fix=f"choose from {', '.join(CATALOGUE)}", key=key)
        wanted |= matches
    return tuple(workload for key, workload in CATALOGUE.items() if key in wanted)


def _family(key: str) -> set[str]:
    """`bulk` → bulk1, bulk1-down, bulk8 …"""
    return {known for known in CATALOGUE if known.partition("-")[0].rstrip("0123456789") == key}
