"""`hbone bench` as a user runs it, short."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest

from hbone.bench import procfs
from tests.support.envoy import require_envoy

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(120)]

BENCH = (sys.executable, "-m", "hbone", "bench")
ABSURDLY_SLOW = 0.1  # of Envoy, and its inverse where lower is better; a tail of one second varies a lot


def test_a_smoke_run_measures_what_is_here_and_nothing_is_absurdly_slow() -> None:
    require_envoy()
    asked = ("--quick", "--rounds", "1", "--candidates", "direct,envoy-1,hbone", "-o", "json")
    done = subprocess.run([*BENCH, *asked], capture_output=True, text=True, timeout=100, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["failures"]) == (0, []), done.stderr
    for figure in found["figures"]:
        assert figure["median"]["envoy-1"] > 0, figure
        for seen in figure["ratios"].values():
            slow = seen["median"] if figure["better"] == "higher" else 1 / seen["median"]
            assert slow > ABSURDLY_SLOW, figure


def test_an_interrupted_run_shows_what_it_has_and_leaves_no_process_behind() -> None:
    require_envoy()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("SIGINT is ignored in this run (in the background), and so it is by what it starts")
    asked = ("--only", "handshakes", "--candidates", "envoy-1", "--seconds", "60")
    with subprocess.Popen([*BENCH, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert any("handshakes:" in line for line in run.stderr)  # all is started by then
        members = [os.pidfd_open(pid) for pid in procfs.tree(run.pid) if pid != run.pid]
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=20)
    assert members
    for process in members:
        assert select.select([process], [], [], 5)[0], "a process outlived the run"
        os.close(process)
    assert run.returncode == 130
    assert "Interrupted" in output
