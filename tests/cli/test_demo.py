"""`hbone demo`: the main job, in front of a first-time reader."""

import os
import signal
import time

import pytest

from hbone.app.demo.claims import CLAIMS
from tests.support.commands import Running, Sandbox, command_line

LIMIT_S = 20.0
FEW_FILES = 60  # enough for a node, not for two hundred connections

SIGHTS = (
    "spiffe://cluster.local/ns/web/sa/client",
    "spiffe://cluster.local/ns/shop/sa/api",
    "200 connections of web/client open at once: 1 TLS connection on the wire",
    "another identity: 1 TLS connection of its own",
    "all of it TLS records",
    "plain HTTP to the tunnel port: refused",
    "a certificate of another CA: refused",
    "refused before a byte was sent",
    "have new certificates",
    "requests meanwhile, 0 failed",
    "Gbit/s through two proxies, SHA-256 equal",
)


def ended_in_time(demo: Running, started: float) -> None:
    seconds = time.monotonic() - started
    assert seconds < LIMIT_S, f"{seconds:.1f} s\n{demo.out}"


def node(demo: Running, name: str) -> int:
    """The process id of one of its nodes."""
    (pid,) = [pid for pid in demo.family() if any(part.endswith(f"node-{name}.yaml") for part in command_line(pid))]
    return pid


def assert_nothing_is_left(demo: Running, sandbox: Sandbox) -> None:
    """No process of its own (and so no socket), no file in its home, temporary, state and working directories."""
    assert [command_line(pid) for pid in demo.family()] == []
    assert sandbox.left_behind() == []
    assert list(sandbox.work.iterdir()) == []


def test_the_demo_proves_every_claim_in_under_20_seconds_and_leaves_nothing_behind(sandbox: Sandbox) -> None:
    started = time.monotonic()
    demo = sandbox.start("demo")
    done = demo.wait()
    ended_in_time(demo, started)
    done.expect(0)
    assert f"All {len(CLAIMS)} claims hold" in done.out
    assert "FAILED" not in done.text
    assert done.err == ""
    for sight in SIGHTS:
        assert sight in done.out, f"{sight!r} is missing in:\n{done.out}"
    assert_nothing_is_left(demo, sandbox)


def test_a_claim_that_fails_makes_the_demo_exit_1_and_the_others_are_still_tried(sandbox: Sandbox) -> None:
    demo = sandbox.start_program(("sh", "-c", f'ulimit -n {FEW_FILES}; exec "$@"', "sh", *sandbox.command, "demo"))
    done = demo.wait()
    done.expect(1)
    assert "FAILED" in done.out
    assert "Too many open files" in done.out
    assert f"of {len(CLAIMS)} claims failed" in done.out
    assert f"\n{len(CLAIMS)}. " in done.out
    assert_nothing_is_left(demo, sandbox)


def test_a_node_that_dies_during_the_demo_makes_it_exit_1(sandbox: Sandbox) -> None:
    demo = sandbox.start("demo")
    demo.wait_for("Certificates rotate under traffic")
    demo.wait_for("have new certificates")
    os.kill(node(demo, "b"), signal.SIGKILL)
    done = demo.wait()
    done.expect(1)
    assert "FAILED" in done.out
    assert_nothing_is_left(demo, sandbox)


@pytest.mark.parametrize("moment", ["certificates from one control plane", "Everything is up", "Certificates rotate"])
def test_ctrl_c_in_the_middle_of_the_demo_ends_it_with_130_and_nothing_left(sandbox: Sandbox, moment: str) -> None:
    demo = sandbox.start("demo")
    demo.wait_for(moment)
    interrupted = time.monotonic()
    demo.interrupt()
    done = demo.wait()
    done.expect(130)
    assert time.monotonic() - interrupted < 5
    assert "claims" not in done.out.rpartition(moment)[2]
    assert "FAILED" not in done.out
    assert_nothing_is_left(demo, sandbox)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "a closed terminal"])
def test_the_demo_cleans_up_however_it_is_told_to_end(sandbox: Sandbox, number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored in this run (nohup), and so it is by what it starts")
    demo = sandbox.start("demo")
    demo.wait_for("Everything is up")
    demo.signal(number)
    demo.wait().expect(130)
    assert_nothing_is_left(demo, sandbox)


def test_a_demo_that_is_killed_leaves_nothing_behind_either(sandbox: Sandbox) -> None:
    demo = sandbox.start("demo")
    demo.wait_for("Everything is up")
    assert node(demo, "a") in demo.family()
    demo.signal(signal.SIGKILL)
    assert demo.wait().code == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while demo.family() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert_nothing_is_left(demo, sandbox)


def test_the_demo_stays_up_until_ctrl_c_if_asked_and_the_settings_of_its_user_do_not_reach_into_it(
    sandbox: Sandbox,
) -> None:
    """Sandboxes set listeners by HBONE_ variables in any case; here are ztunnel's, one that nodes refuse, a typo."""
    settings = {"TRUST_DOMAIN": "other.example", "CRL_PATH": "/x", "HBONE_INBOUNT": "off", "HBONE_MODE": "nonsense"}
    demo = sandbox.start("demo", "--keep", env=settings)
    hint = demo.wait_for("curl --interface")
    assert "--socks5-hostname" in hint
    demo.wait_for("tail -f")
    assert f"All {len(CLAIMS)} claims hold" in demo.out
    demo.interrupt()
    demo.wait().expect(0)
    assert_nothing_is_left(demo, sandbox)
