"""SIGKILL at random moments of issuing, revoking, rotating and registering: what was acknowledged is there, and it
always starts."""

import subprocess
import sys
from pathlib import Path

import pytest


def kill(directory: Path, times: int, seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.casualty", str(directory), str(times), str(seed)],
        capture_output=True,
        text=True,
        timeout=50 + 2 * times,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_ca_that_is_killed_at_random_moments_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    said = kill(tmp_path / "state", 15, 1)
    assert said.startswith("15 kills, ")
    assert int(said.split()[2]) > 100, "it had begun to work"


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_ca_that_is_killed_at_a_hundred_random_moments_always_starts(tmp_path: Path) -> None:
    assert kill(tmp_path / "state", 100, 2).startswith("100 kills, ")
