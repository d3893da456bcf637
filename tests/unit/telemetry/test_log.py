"""Structured log lines."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import date

import pytest

from hbone.config.levels import InvalidLevel
from hbone.config.sections import Logging
from hbone.telemetry.access import AccessRecord, party
from hbone.telemetry.log import Logs, Occasional
from hbone.times import Instant, WallTime


class Output:
    """Pipes in place of standard error and output, read when all is written."""

    def __init__(self) -> None:
        self.log_reader, self.log_fd = os.pipe()
        self.access_reader, self.access_fd = os.pipe()
        self.logs: Logs | None = None

    def start(self, **settings: object) -> Logs:
        self.logs = Logs(Logging.model_validate(settings), log_fd=self.log_fd, access_fd=self.access_fd)
        return self.logs

    def log_lines(self) -> list[str]:
        assert self.logs is not None
        self.logs.close()
        os.set_blocking(self.log_reader, False)
        try:
            return os.read(self.log_reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        if self.logs is not None:
            self.logs.close()
        for fd in (self.log_reader, self.log_fd, self.access_reader, self.access_fd):
            os.close(fd)


@pytest.fixture
def output() -> Iterator[Output]:
    made = Output()
    yield made
    made.close()
    logging.getLogger("hbone").setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)


LOG = logging.getLogger("hbone.proxy.inbound")


def parts(line: str) -> list[str]:
    return line.split("\t")[1:]


def test_a_line_is_a_phrase_and_fields(output: Output) -> None:
    output.start()
    LOG.warning(
        "upstream refused",
        extra={"upstream": "10.0.0.1:80", "attempt": 2, "last": True, "day": date(2026, 1, 2), "path": None},
    )
    (line,) = output.log_lines()
    assert parts(line) == [
        "warn",
        "proxy.inbound",
        "upstream refused",
        'upstream="10.0.0.1:80" attempt=2 last=true day=2026-01-02 path=None',
    ]


def test_a_json_line_has_the_same_as_an_object(output: Output) -> None:
    output.start(log_format="json")
    LOG.info("ready", extra={"listeners": 3})
    LOG.info("odd", extra={"big": 1 << 70, "bytes": "\udcff"})
    first, second = map(json.loads, output.log_lines())
    assert {**first, "time": ""} == {
        "level": "info",
        "time": "",
        "scope": "hbone.proxy.inbound",
        "message": "ready",
        "listeners": 3,
    }
    assert second["big"] == 1 << 70


def test_a_line_stays_one_line_whatever_is_in_it(output: Output) -> None:
    output.start()
    LOG.warning("a\nb\x1b", extra={"peer": 'x"\n\ty=1'})
    (line,) = output.log_lines()
    assert parts(line) == ["warn", "proxy.inbound", "a\\nb\\u{1b}", 'peer="x\\"\\n\\ty=1"']


def test_an_exception_is_one_line_and_its_traceback_needs_debug(output: Output) -> None:
    logs = output.start()
    for levels in ("info", "debug"):
        logs.set_levels(levels)
        try:
            raise ValueError("no\nway")
        except ValueError:
            LOG.exception("gone wrong")
    first, second = output.log_lines()
    assert 'error="ValueError: no\\nway"' in first
    assert "Traceback" not in first
    assert "Traceback" in second


def test_parts_have_levels_of_their_own_and_can_be_reset(output: Output) -> None:
    logs = output.start(log_level="warn,proxy=debug")
    other = logging.getLogger("hbone.net")
    LOG.debug("1")
    other.info("not this")
    logs.set_levels("info")
    LOG.debug("nor this")
    other.info("2")
    logs.reset_levels()
    LOG.debug("3")
    assert logs.levels == "warn,proxy=debug"
    with pytest.raises(InvalidLevel):
        logs.set_levels("loud")
    assert [parts(line)[2] for line in output.log_lines()] == ["1", "2", "3"]


def test_libraries_speak_from_warnings_on(output: Output) -> None:
    output.start()
    logging.getLogger("somelib").info("chatter")
    logging.getLogger("somelib").warning("this matters")
    assert [parts(line)[:3] for line in output.log_lines()] == [["warn", "somelib", "this matters"]]


def test_the_access_log_has_its_own_output_and_level(output: Output) -> None:
    logs = output.start(log_level="info,access=error")
    record = AccessRecord("a:1", party(), "b:2", party(), "inbound", 1, 2, 3)
    logs.access.complete(WallTime(0), record)
    logs.set_levels("info")
    logs.access.complete(WallTime(0), record)
    assert output.log_lines() == []
    assert os.read(output.access_reader, 1000).decode().count("\n") == 1
    assert logs.dropped == 0


def test_a_field_that_cannot_be_shown_costs_its_line_only(output: Output) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    output.start()
    LOG.warning("first", extra={"odd": Odd()})
    LOG.warning("second")
    first, second = output.log_lines()
    assert first.endswith("a line could not be written")
    assert second.endswith("second")


class Ticks:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> Instant:
        return Instant(self.time)

    def wall(self) -> WallTime:
        return WallTime(self.time)


def test_what_a_peer_can_cause_is_told_a_few_times_and_then_counted(output: Output) -> None:
    output.start()
    clock = Ticks()
    occasional = Occasional(LOG, clock, per_s=1, burst=3)
    for _ in range(100):
        occasional.warning("garbage", peer="10.0.0.9:1")
    occasional.error("something else")
    clock.time = 1
    occasional.warning("garbage", peer="10.0.0.9:1")
    occasional.info("and this")
    lines = output.log_lines()
    assert [parts(line)[2] for line in lines] == ["garbage"] * 3 + ["something else", "garbage", "and this"]
    assert lines[4].endswith('peer="10.0.0.9:1" suppressed=97')


def test_what_is_not_logged_anyway_is_not_counted(output: Output) -> None:
    output.start(log_level="error")
    occasional = Occasional(LOG, Ticks())
    occasional.warning("garbage")
    assert output.log_lines() == []
