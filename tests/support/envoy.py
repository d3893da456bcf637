"""A real Envoy as either end of a tunnel, for tests; skips them where there is none."""

from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

import pytest

from hbone.bench.candidates import answers_200
from hbone.bench.envoy import EnvoyClient, EnvoyServer, envoy_command, write_config
from hbone.bench.processes import Processes, Started
from hbone.bench.tools import ENVOY

READY_LIMIT_S = 20.0
ADMIN_LIMIT_S = 5.0


def require_envoy() -> None:
    """Skip the test, with the remedy, where there is no Envoy."""
    missing = ENVOY.missing()
    if missing:
        pytest.skip(missing)


class Envoy:
    """One Envoy process: the binary itself, so its pid is the one to signal and to measure.

    A context manager; `stop()` and `start()` again for a restart on the same ports.
    """

    def __init__(self, end: EnvoyClient | EnvoyServer, processes: Processes, *, concurrency: int | None = 1) -> None:
        require_envoy()
        self.end = end
        self._processes = processes
        self._concurrency = concurrency
        self._started: Started | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._started is not None, "not started"
        return self._started.pid

    def start(self) -> None:
        """Start it and wait until all its listeners work; a failure shows the end of its log."""
        config = write_config(self.end.config(), self._processes.directory / f"envoy-{self.end.admin.port}.json")
        self._started = self._processes.serve("envoy", envoy_command(config, concurrency=self._concurrency))
        self._started.wait_until(lambda: answers_200(self.end.admin, "/ready"), READY_LIMIT_S)

    def stop(self) -> None:
        """End it; nothing happens when it has ended."""
        if self._started is not None:
            self._processes.stop([self._started])
            self._started = None

    def access_log(self) -> str:
        """What its access log says so far; Envoy writes it about once a second, and when it ends."""
        return self.end.access_log.read_text() if self.end.access_log.exists() else ""

    def stat(self, name: str) -> int:
        """A counter or gauge of its admin port; 0 when it has not been counted yet."""
        with urlopen(f"http://{self.end.admin}/stats?filter=^{name}$", timeout=ADMIN_LIMIT_S) as answer:
            text: str = answer.read().decode()
        return int(text.partition(":")[2] or 0)


def access_log_in(directory: Path, name: str) -> Path:
    """Where a test's Envoy writes its access log."""
    return directory / f"{name}-access.log"
