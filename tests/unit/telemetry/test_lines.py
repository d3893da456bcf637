"""Lines reach their descriptor, or are counted; the writer never waits."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hbone.telemetry.lines import BATCH_BYTES, MAX_DELAY_S, LineWriter


class Loop:
    """Stands for the loop: keeps what was scheduled until it is run."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s == MAX_DELAY_S
        self.due.append(callback)

    def run(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


def dropped_line(count: int) -> str:
    return f"dropped {count}\n"


def eventually(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def test_without_a_loop_each_line_goes_out_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        lines = LineWriter(file.fileno(), dropped_line)
        lines.write("one\n")
        lines.write("two\n")
        lines.close(5)
    assert path.read_text() == "one\ntwo\n"


def test_with_a_loop_lines_wait_for_each_other(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    loop = Loop()
    lines = LineWriter(writer, dropped_line)
    lines.schedule = loop.call_later
    for number in range(100):
        lines.write(f"{number}\n")
    assert len(loop.due) == 1
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    loop.run()
    lines.write("next\n")
    assert len(loop.due) == 1
    lines.close(5)
    assert os.read(reader, 65_536).decode().splitlines()[-2:] == ["99", "next"]


def test_a_full_batch_goes_out_without_waiting_for_the_timer(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    loop = Loop()
    lines = LineWriter(writer, dropped_line)
    lines.schedule = loop.call_later
    lines.write("x" * BATCH_BYTES + "\n")
    assert loop.due == []
    assert os.read(reader, 10) == b"x" * 10
    os.close(reader)
    lines.close(5)


def test_a_slow_reader_loses_lines_instead_of_stopping_us_and_is_told_how_many(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, dropped_line, max_waiting_bytes=200_000)
    line = "y" * 999 + "\n"
    for _ in range(1000):
        lines.write(line)
    lost = lines.dropped
    assert 500 < lost < 1000
    seen: list[bytes] = []

    def read_all() -> None:
        while chunk := os.read(reader, 1 << 20):
            seen.append(chunk)

    thread = threading.Thread(target=read_all)
    thread.start()
    # Writing goes on as soon as the reader does: lines are taken again, the first one with the count behind it.
    while lines.dropped == lost:
        before = lines.dropped
        lines.write("z\n")
        if lines.dropped == before:
            break
        lost = lines.dropped
    lines.close(5)
    os.close(writer)
    thread.join()
    text = b"".join(seen).decode()
    assert f"dropped {lost}\n" in text
    assert text.count(line) + lost >= 1000
    assert lines.dropped == lost


def test_a_reader_that_went_away_is_no_failure(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    lines = LineWriter(writer, dropped_line)
    lines.write("one\n")
    lines.close(5)
    lines.write("two\n")
    assert lines.dropped == 1


def test_a_disk_that_is_full_loses_lines_and_is_written_to_again_when_there_is_room(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file, open("/dev/full", "wb") as full:  # noqa: PTH123 -- no path of a file
        fd = os.dup(full.fileno())
        lines = LineWriter(fd, dropped_line)
        lines.write("lost\n")
        lines.write("lost too\n")
        eventually(lambda: lines.dropped == 2)
        os.dup2(file.fileno(), fd)
        lines.write("there\n")
        lines.close(5)
        os.close(fd)
    assert (tmp_path / "log").read_text().splitlines() == ["there", "dropped 2"]
    assert lines.dropped == 2


def test_a_line_that_a_full_disk_cut_is_not_continued_by_the_next_one(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (tmp_path / "log").open("wb") as file:
            lines = LineWriter(file.fileno(), dropped_line)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))  # bytes: then EFBIG, as if the disk were full
            lines.write("whole\n")
            lines.write("cut short\n")
            eventually(lambda: lines.dropped == 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            lines.write("whole again\n")
            lines.close(5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "log").read_text().splitlines() == ["whole", "cut ", "whole again", "dropped 1"]


def test_closing_does_not_wait_for_a_reader_that_never_reads(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, dropped_line)
    lines.write("x" * 200_000 + "\n")
    lines.close(0.01)
    lines.close(0.01)
    os.close(reader)


def test_a_descriptor_that_somebody_made_non_blocking_still_gets_everything(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = LineWriter(writer, dropped_line)
    lines.write("x" * 300_000 + "\n")
    got = 0
    while got < 300_001:
        got += len(os.read(reader, 1 << 20))
    lines.close(5)
    assert lines.dropped == 0
    assert not os.get_blocking(writer)


def test_text_that_is_no_unicode_is_written_out(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = LineWriter(writer, dropped_line)
    lines.write("\udcff\n")
    lines.close(5)
    assert os.read(reader, 100) == b"\\udcff\n"
