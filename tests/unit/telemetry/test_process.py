"""What the metrics tell about the process."""

import os

from hbone.config.sections import Logging
from hbone.telemetry.log import Logs
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.process import describe_process, fd_limit, open_fds


def test_build_descriptors_and_lost_lines_are_exposed() -> None:
    logs = Logs(Logging(log_level="off"))
    try:
        metrics = Metrics()
        describe_process(metrics, "1.2.3", logs)
        text = metrics.text()
    finally:
        logs.close()
    assert 'istio_build{component="hbone",tag="1.2.3"} 1\n' in text
    assert f"process_max_fds {fd_limit()}\n" in text
    assert "hbone_log_lines_dropped_total 0\n" in text


def test_open_descriptors_are_counted() -> None:
    before = open_fds()
    assert before is not None
    reader, writer = os.pipe()
    try:
        assert open_fds() == before + 2
    finally:
        os.close(reader)
        os.close(writer)
