"""Processes that write to one descriptor take turns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hbone

WRITER = """
import sys
from hbone.app.workers.turns import Turn
from hbone.telemetry.lines import LineWriter
lines = LineWriter(1, str)
lines.turn = Turn(sys.argv[1])
sys.stderr.write("x")
sys.stderr.flush()
sys.stdin.readline()
for _ in range(400):
    lines.write(sys.argv[2] * 6000 + "\\n")
lines.close(20)
"""


def test_no_line_ends_inside_one_of_another_process_however_long_it_is(tmp_path: Path) -> None:
    """Longer than what a pipe takes in one piece, and more than it holds."""
    reading, writing = os.pipe()
    sources = str(Path(hbone.__file__).parents[1])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "lock"), letter],
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": sources},
        )
        for letter in "ab"
    ]
    os.close(writing)
    for writer in writers:
        assert writer.stderr is not None
        assert writer.stderr.read(1) == b"x"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.close()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        lines = b"".join(iter(lambda: pipe.read(4096), b"")).decode().splitlines()
    for writer in writers:
        assert writer.wait() == 0
        assert writer.stderr is not None
        writer.stderr.close()
    assert sorted(set(lines)) == ["a" * 6000, "b" * 6000]
    assert len(lines) == 800


def test_a_process_that_dies_in_its_turn_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    from hbone.app.workers.turns import Turn

    lock = tmp_path / "lock"
    dies = f"import os\nfrom hbone.app.workers.turns import Turn\nTurn({str(lock)!r}).__enter__()\nos._exit(3)"
    sources = str(Path(hbone.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", dies], env={**os.environ, "PYTHONPATH": sources}, check=False)
    assert done.returncode == 3
    with Turn(str(lock)):
        pass


def test_turns_are_taken_by_writers_not_by_processes(tmp_path: Path) -> None:
    """The threads of the log and of the access log write to one terminal, too."""
    import fcntl

    from hbone.app.workers.turns import Turn

    with Turn(str(tmp_path / "lock")), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
