"""What a process started goes when the process is killed, and stays when it leaves in good order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hbone.net.guard import Guard

PARENT = """\
import subprocess, sys, time
from pathlib import Path
from hbone.net.guard import Guard
with Guard(Path(sys.argv[1])) as guard:
    child = subprocess.Popen(["sh", "-c", sys.argv[2]], start_new_session=True)
    guard.lives(child.pid)
    print(child.pid, flush=True)
    time.sleep(60)
"""
STUBBORN = "trap '' TERM; while :; do sleep 0.1; done"
WITH_A_CHILD = "sleep 60 & wait"


def until(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 8
    while not met():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.02)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("child", ["exec sleep 60", STUBBORN, WITH_A_CHILD], ids=["plain", "deaf to SIGTERM", "two"])
def test_when_the_parent_is_killed_its_groups_end_and_its_directory_goes(tmp_path: Path, child: str) -> None:
    place = tmp_path / "place"
    (place / "deeper").mkdir(parents=True)
    command = [sys.executable, "-c", PARENT, str(place), child]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert group_lives(group)
        parent.kill()
    until(lambda: not group_lives(group), "its child to end")
    until(lambda: not place.exists(), "its directory to go")


def test_a_guard_that_is_left_in_good_order_touches_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        with Guard(tmp_path) as guard:
            guard.lives(child.pid)
        assert (child.poll(), tmp_path.exists()) == (None, True)
        child.kill()


def test_a_group_that_has_ended_is_not_looked_for_under_its_old_number(tmp_path: Path) -> None:
    told = PARENT.replace("print(", "guard.ended(child.pid); print(")
    command = [sys.executable, "-c", told, str(tmp_path / "place"), "exec sleep 60"]
    (tmp_path / "place").mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not (tmp_path / "place").exists(), "the directory to go")
    assert group_lives(group)
    os.killpg(group, signal.SIGKILL)
