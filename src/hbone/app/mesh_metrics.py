"""What the metrics tell of the mesh that a process knows."""

from hbone.app.sources import MeshFiles
from hbone.discovery.store import Store
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import CONFIG_RELOADS, SERVICES, WORKLOADS


def describe_mesh(metrics: Metrics, store: Store) -> None:
    """How much of it there is."""
    metrics.gauge(WORKLOADS).read_from(lambda: [((), store.workload_count)])
    metrics.gauge(SERVICES).read_from(lambda: [((), store.service_count)])


def describe_reloads(metrics: Metrics, files: MeshFiles | None) -> None:
    """How often its files were read again; None for a process that reads none."""
    metrics.counter(CONFIG_RELOADS).read_from(
        lambda: [((result,), count) for result, count in files.reloads().items()] if files is not None else []
    )
