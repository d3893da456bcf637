"""A real Envoy as either end of a tunnel, for tests; skips them where there is none."""

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.request import Request, urlopen

import pytest

from hbone.bench.candidates import answers_200
from hbone.bench.envoy import EnvoyClient, EnvoyServer, envoy_command, write_config
from hbone.bench.processes import Processes, Started
from hbone.bench.tools import ENVOY

READY_LIMIT_S = 20.0
ADMIN_LIMIT_S = 5.0
Settings = dict[str, object]


def require_envoy() -> None:
    """Skip the test, with the remedy, where there is no Envoy."""
    missing = ENVOY.missing()
    if missing:
        pytest.skip(missing)


def amended(document: Settings, **http2: object) -> Settings:
    """A copy of a bootstrap document with these settings in each `http2_protocol_options`; None takes one out."""
    copy: Settings = json.loads(json.dumps(document))
    for options in found(copy, "http2_protocol_options"):
        for name, value in http2.items():
            options.pop(name, None)
            if value is not None:
                options[name] = value
    return copy


def small(document: Settings) -> Settings:
    """With the limits that an Envoy has whose operator set none: windows of 64 KiB, 100 streams."""
    windows = {"initial_stream_window_size": 65_535, "initial_connection_window_size": 65_535}
    return amended(document, **windows, max_concurrent_streams=100)


def found(value: Any, key: str) -> list[dict[str, Any]]:
    """Every mapping under `key`, however deep in a document."""
    if isinstance(value, list):
        return [one for item in cast("Sequence[Any]", value) for one in found(item, key)]
    if not isinstance(value, dict):
        return []
    here = cast("dict[str, Any]", value)
    deeper = [one for item in here.values() for one in found(item, key)]
    return [here[key], *deeper] if key in here else deeper


class Envoy:
    """One Envoy process: the binary itself, so its pid is the one to signal and to measure.

    A context manager; `stop()` or `kill()` and `start()` again for a restart on the same ports. `config` replaces
    the end's own bootstrap document, `options` are added to the command.
    """

    def __init__(
        self,
        end: EnvoyClient | EnvoyServer,
        processes: Processes,
        *,
        config: Settings | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        require_envoy()
        self.end = end
        self._config = config or end.config()
        self._options = options
        self._processes = processes
        self._started: Started | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> Started:
        assert self._started is not None, "not started"
        return self._started

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until all its listeners work; a failure shows the end of its log."""
        config = write_config(self._config, self._processes.directory / f"envoy-{self.end.admin.port}.json")
        self._started = self._processes.serve("envoy", [*envoy_command(config, concurrency=1), *self._options])
        self._started.wait_until(lambda: answers_200(self.end.admin, "/ready"), READY_LIMIT_S)

    def replace(self, **fields: Any) -> None:
        """Change its end for the next start."""
        self.end = replace(self.end, **fields)
        self._config = self.end.config()

    def stop(self) -> None:
        """End it; nothing happens when it has ended."""
        if self._started is not None:
            self._processes.stop([self._started])
            self._started = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.signal(signal.SIGKILL)
        self.stop()

    def access_log(self) -> str:
        """What its access log says so far; Envoy writes it about once a second, and when it ends."""
        return self.end.access_log.read_text() if self.end.access_log.exists() else ""

    def stat(self, name: str) -> int:
        """A counter or gauge of its admin port; 0 when it has not been counted yet."""
        with urlopen(f"http://{self.end.admin}/stats?filter=^{name}$", timeout=ADMIN_LIMIT_S) as answer:
            text: str = answer.read().decode()
        return int(text.partition(":")[2] or 0)

    def tunnels(self) -> int:
        """How many tunnels it has had, from its start."""
        return self.stat("http.hbone.downstream_cx_total" if self._is_server else "cluster.hbone.upstream_cx_total")

    def drain(self) -> None:
        """Have it send its tunnels away; it goes on serving what is open."""
        request = Request(f"http://{self.end.admin}/drain_listeners?graceful&skip_exit", method="POST")
        with urlopen(request, timeout=ADMIN_LIMIT_S) as answer:
            assert answer.status == 200

    @property
    def _is_server(self) -> bool:
        return isinstance(self.end, EnvoyServer)


def access_log_in(directory: Path, name: str) -> Path:
    """Where a test's Envoy writes its access log."""
    return directory / f"{name}-access.log"
