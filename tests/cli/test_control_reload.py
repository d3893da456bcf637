"""The settings file of a control plane changes while it runs: what is right is taken, what is wrong changes nothing."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.cli.programs import up
from tests.support.commands import Running, Sandbox
from tests.support.pki import SpiffeCA

MESH = "trust_domain: x.test\nlisteners: {control_tls: off, admin: off}\n"
Y = "federation: [{trust_domain: y.test, bundle: y.pem}]\n"


@pytest.fixture
def control(sandbox: Sandbox) -> Running:
    sandbox.write("y.pem", SpiffeCA(name="y").cert.public_bytes(Encoding.PEM))
    sandbox.write("z.pem", SpiffeCA(name="z").cert.public_bytes(Encoding.PEM))
    sandbox.write("control.yaml", MESH)
    running = sandbox.start("control", "--config", "control.yaml")
    running.wait_for("Ctrl-C ends it")
    return running


def federated(sandbox: Sandbox) -> set[str]:
    """As the operator sees it."""
    status = json.loads(sandbox.run("ca", "status", "-o", "json").expect(0).out)
    return {one["trust_domain"] for one in status.get("federated", [])}


def replace(sandbox: Sandbox, text: str) -> None:
    """As editors do: written beside, then renamed."""
    beside = sandbox.write(".control.yaml.new", text)
    beside.rename(sandbox.work / "control.yaml")


def test_trust_domains_are_added_and_removed_by_writing_the_file(sandbox: Sandbox, control: Running) -> None:
    replace(sandbox, MESH + Y)
    assert 'settings="federation"' in control.wait_for("settings changed")
    assert federated(sandbox) == {"y.test"}
    both = "federation:\n- {trust_domain: y.test, bundle: y.pem}\n- {trust_domain: z.test, bundle: z.pem}\n"
    replace(sandbox, MESH + both)
    control.wait_for("settings changed", count=2)
    assert federated(sandbox) == {"y.test", "z.test"}
    replace(sandbox, MESH)
    control.wait_for("federation has ended", "y.test")
    control.wait_for("settings changed", count=3)
    assert federated(sandbox) == set()
    assert len(control.lines("bundle of another trust domain is in force", "y.test")) == 1


WRONG = {
    "not YAML": ("federation: [\n", "control.yaml:4: not valid YAML"),
    "a mistake": ("federation: [{trust_domain: z.test, bundel: z.pem}]\n", "control.yaml:3"),
    "no bundle": ("federation: [{trust_domain: z.test, bundle: control.yaml}]\n", "control.yaml"),
    "more than that": ("federation: []\nnetwork: other\n", "control.yaml:4: network: this cannot change while"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_file_leaves_all_that_was_in_force_says_why_once_and_is_taken_when_right(
    how: str, sandbox: Sandbox, control: Running
) -> None:
    text, said = WRONG[how]
    replace(sandbox, MESH + Y)
    control.wait_for("settings changed")
    replace(sandbox, MESH + text)
    assert said in control.wait_for("setting not taken, the former state stays")
    assert federated(sandbox) == {"y.test"}
    replace(sandbox, f"{MESH}federation: [{{trust_domain: z.test, bundle: z.pem}}]\n")
    control.wait_for("settings are right again")
    assert federated(sandbox) == {"z.test"}
    assert len(control.lines("setting not taken")) == 1
    assert "Traceback" not in control.text


def test_lifetimes_and_the_log_level_change_too(sandbox: Sandbox, control: Running) -> None:
    replace(sandbox, f"{MESH}svid_ttl_s: 10m\nmax_svid_ttl_s: 1h\nlogging: {{log_level: debug}}\n")
    assert "svid_ttl_s, max_svid_ttl_s, logging.log_level" in control.wait_for("settings changed")
    asked = sandbox.run("cert", "issue", "--as", "shop/cart", "--trust-domain", "x.test", "--ttl", "2h", "--out", "o")
    assert "a lifetime of 7200 s is too long; ask for at most 3600 s" in asked.expect(1).err


def test_hbone_up_follows_the_settings_of_its_control_plane(sandbox: Sandbox) -> None:
    sandbox.write("y.pem", SpiffeCA(name="y").cert.public_bytes(Encoding.PEM))
    file = sandbox.write("control.yaml", "")
    running = up(sandbox, "--control-config", "control.yaml")
    file.write_text(Y)
    running.wait_for("settings changed")
    assert federated(sandbox) == {"y.test"}


def test_settings_that_can_be_read_only_once_are_not_followed(sandbox: Sandbox) -> None:
    command = " ".join((*sandbox.command, "control", "--config", "<(cat control.yaml)"))
    sandbox.write("control.yaml", MESH)
    running = sandbox.start_program(("/bin/bash", "-c", f"exec {command}"))
    running.wait_for("Ctrl-C ends it")
    assert Path(f"/proc/{running.pid}/cmdline").exists()
    running.stop().expect(0)
    assert running.lines("setting") == []
