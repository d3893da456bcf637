"""Rules about processes: all that is named must hold, and a process id alone is nobody."""

import os
from pathlib import Path

import pytest

from hbone.control.attest_process import Attestor, ProcessFacts, ProcessRule, process_facts
from hbone.control.rpc import UnixPeer
from tests.support.controlplane import spiffe

WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
PEER = UnixPeer(pid=42, uid=1000, gid=100)
FACTS = ProcessFacts(cgroups=("/system.slice/docker-4f5e.scope",), program="/usr/bin/envoy", started=7)


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (ProcessRule(identity=WEB, uid=1000), True),
        (ProcessRule(identity=WEB, uid=1001), False),
        (ProcessRule(identity=WEB, uid=0), False),
        (ProcessRule(identity=WEB, gid=100, uid=1000), True),
        (ProcessRule(identity=WEB, gid=101, uid=1000), False),
        (ProcessRule(identity=WEB, pid=42), True),
        (ProcessRule(identity=WEB, pid=43), False),
        (ProcessRule(identity=WEB, cgroup="*/docker-4f5e*"), True),
        (ProcessRule(identity=WEB, cgroup="docker-4f5e*"), False),
        (ProcessRule(identity=WEB, program="/usr/*/envoy"), True),
        (ProcessRule(identity=WEB, program="/usr/bin/ENVOY"), False),
        (ProcessRule(identity=WEB, uid=1000, cgroup="*", program="/usr/bin/envoy"), True),
        (ProcessRule(identity=WEB, uid=1000, cgroup="/other", program="/usr/bin/envoy"), False),
    ],
)
def test_all_that_a_rule_names_must_hold(rule: ProcessRule, fits: bool) -> None:
    process = Attestor([rule], lambda _: FACTS).on(PEER)
    assert bool(process.identities()) is fits


def test_a_process_that_cannot_be_looked_at_has_only_what_needs_no_look() -> None:
    rules = [ProcessRule(identity=WEB, uid=1000, program="*"), ProcessRule(identity=DB, uid=1000)]
    assert [one.identity for one in Attestor(rules, lambda _: None).on(PEER).identities()] == [DB]


def test_a_successor_under_the_same_process_id_is_somebody_else() -> None:
    found: list[ProcessFacts | None] = [FACTS]
    process = Attestor([ProcessRule(identity=WEB, program="*")], lambda _: found[-1]).on(PEER)
    assert process.identities()
    found.append(ProcessFacts(cgroups=FACTS.cgroups, program=FACTS.program, started=8))
    assert not process.identities()
    found.append(None)
    assert not process.identities()


def test_identities_come_in_the_order_of_the_rules_that_fit_each_with_its_first_hint() -> None:
    rules = [
        ProcessRule(identity=WEB, uid=1, hint="one"),
        ProcessRule(identity=DB, uid=1000),
        ProcessRule(identity=WEB, uid=1000, hint="two"),
        ProcessRule(identity=WEB, gid=100, hint="three"),
    ]
    found = Attestor(rules, lambda _: None).on(PEER).identities()
    assert [(one.identity, one.hint) for one in found] == [(DB, ""), (WEB, "two")]


def test_proc_is_not_read_where_no_rule_needs_it() -> None:
    def never(pid: int) -> ProcessFacts | None:
        raise AssertionError(pid)

    assert Attestor([ProcessRule(identity=WEB, uid=1000)], never).on(PEER).identities()


def test_the_facts_of_this_process() -> None:
    found = process_facts(os.getpid())
    assert found is not None
    assert found.started > 0
    assert found.cgroups
    assert found.program == str(Path("/proc/self/exe").readlink())


@pytest.mark.parametrize("pid", [0, -1, 2**30])
def test_processes_that_are_not_there(pid: int) -> None:
    assert process_facts(pid) is None


def test_a_program_whose_name_is_made_to_confuse(tmp_path: Path) -> None:
    place = tmp_path / "7"
    place.mkdir()
    fields = " ".join(["S", *("1" for _ in range(18)), "4711", "0"])
    (place / "stat").write_text(f"7 (a) b (c) {fields}\n")
    (place / "cgroup").write_text("0::/user.slice:odd\nbroken\n1:name=x:/legacy\n")
    (place / "exe").symlink_to("/opt/gone (deleted)")
    found = process_facts(7, tmp_path)
    assert found == ProcessFacts(cgroups=("/user.slice:odd", "/legacy"), program="/opt/gone", started=4711)
    (place / "stat").write_text("nonsense")
    assert process_facts(7, tmp_path) is None
