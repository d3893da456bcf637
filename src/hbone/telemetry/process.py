"""What the metrics tell about the process itself."""

import os
import resource
from pathlib import Path

from hbone.telemetry.log import Logs
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import BUILD, LINES_DROPPED, MAX_FDS, OPEN_FDS

_FDS = Path("/proc/self/fd")


def describe_process(metrics: Metrics, version: str, logs: Logs) -> None:
    """Fill `istio_build`, `process_*_fds` and the count of lost lines, read when they are asked for."""
    metrics.gauge(BUILD).labels("hbone", version).value = 1
    metrics.gauge(OPEN_FDS).read_from(lambda: (((), float(open_fds() or 0)),))
    metrics.gauge(MAX_FDS).read_from(lambda: (((), float(fd_limit())),))
    metrics.counter(LINES_DROPPED).read_from(lambda: (((), float(logs.dropped)),))


def open_fds() -> int | None:
    """Descriptors open now; None where the system does not tell."""
    try:
        return len(os.listdir(_FDS)) - 1  # noqa: PTH208  # cheaper than Path objects; one is the listing's own
    except OSError:
        return None


def fd_limit() -> int:
    """Descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
