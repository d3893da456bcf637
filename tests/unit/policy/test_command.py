"""`hbone policy`: what it prints, and what it exits with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbone.cli.failures import main
from hbone.telemetry.access import AccessLog, AccessRecord, party
from hbone.times import WallTime
from tests.unit.policy.builders import WORKLOADS, authorization, peer

ONLY_WEB = authorization("only-web", "{rules: [{from: [{source: {namespaces: [web]}}]}]}")
STRICT = peer("default", "{mtls: {mode: STRICT}}", namespace="istio-system")


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    return directory(tmp_path / "mesh", ONLY_WEB, STRICT)


def directory(path: Path, *manifests: str) -> Path:
    path.mkdir()
    (path / "mesh.yaml").write_text(WORKLOADS)
    (path / "policy.yaml").write_text("\n---\n".join(manifests))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    written: list[str] = []
    record = AccessRecord(
        "127.0.0.2:1",
        party("frontend-0", "web", "spiffe://cluster.local/ns/web/sa/frontend"),
        "127.0.0.3:15008",
        party("cart-0", "shop"),
        "outbound",
        1,
        2,
        3,
        "127.0.0.3:8080",
    )
    access = AccessLog(written.append, "text")
    access.complete(WallTime(0), record)
    access.failed(WallTime(0), "127.0.0.2:1", "127.0.0.3:2", "inbound", "no")
    path = tmp_path / "access.log"
    path.write_text("".join(written))
    return path


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Ran:
        code = main(["policy", *map(str, arguments)], {})
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call


def test_a_sound_directory_passes(run: Any, mesh: Path) -> None:
    ran = run("check", mesh)
    assert ran.code == 0
    assert "2 policies, 3 workloads: 0 errors, 0 warnings" in ran.out
    assert run("check", mesh, "-o", "json").json["ok"] is True


def test_a_policy_without_effect_fails_the_check(run: Any, tmp_path: Path) -> None:
    bad = directory(
        tmp_path / "bad", authorization("p", "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}")
    )
    ran = run("check", bad)
    assert ran.code == 1
    assert "policy.yaml:4: error: shop/p rule 0 asks for methods" in ran.out
    assert "1 policy, 3 workloads: 1 error" in ran.out


def test_warnings_fail_a_strict_check(run: Any, tmp_path: Path) -> None:
    odd = directory(tmp_path / "odd", authorization("p", "{selector: {}, rules: [{}]}"))
    assert [run("check", odd).code, run("check", odd, "--strict").code] == [0, 1]
    assert run("check", odd, "-o", "json").json["findings"][0]["check"] == "empty-selector"


def test_an_invalid_policy_is_a_usage_error_with_its_place(run: Any, tmp_path: Path) -> None:
    bad = directory(
        tmp_path / "bad", authorization("p", "{action: CUSTOM}"), authorization("q", "{rules: [{form: []}]}")
    )
    (bad / "more.yaml").write_text("kind: WorkloadEntri\napiVersion: networking.istio.io/v1\n")
    ran = run("check", bad)
    assert ran.code == 2
    assert "policy.yaml:4: spec.action: CUSTOM asks an external authorizer, and there is none here" in ran.err
    assert "did you mean 'from'?" in ran.err
    assert "did you mean 'WorkloadEntry'?" in ran.err


def test_an_explanation_exits_with_the_verdict(run: Any, mesh: Path) -> None:
    asked = ("explain", "--manifests", mesh, "--to", "shop/cart-0:8080")
    allowed = run(*asked, "--from", "web/frontend")
    assert (allowed.code, allowed.out.split()[0]) == (0, "ALLOW")
    assert "allowed by rule 0 of shop/only-web" in allowed.out
    denied = run(*asked, "--from", "ops/x", "-o", "json")
    assert denied.code == 1
    assert {key: denied.json[key] for key in ("verdict", "policy", "rule", "mtls")} == {
        "verdict": "deny",
        "policy": None,
        "rule": None,
        "mtls": "STRICT",
    }
    plain = run(*asked, "--from", "web/frontend", "--plaintext", "-o", "json")
    assert (plain.code, plain.json["policy"], plain.json["kind"]) == (1, "istio-system/default", "PeerAuthentication")
    assert "policies that do not:" not in plain.out


def test_a_spiffe_id_and_an_address_may_be_given(run: Any, tmp_path: Path) -> None:
    spec = "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8], principals: [o.d/ns/a/sa/b]}}]}]}"
    mesh = directory(tmp_path / "m", authorization("p", spec))
    asked = ("explain", "--manifests", mesh, "--to", "shop/cart-0:1", "--from", "spiffe://o.d/ns/a/sa/b")
    assert run(*asked, "--from-ip", "10.1.1.1").code == 0
    assert run(*asked, "--from-ip", "11.1.1.1").code == 1
    assert "the source address is not known" in run(*asked).out


def test_a_request_may_be_given(run: Any, tmp_path: Path) -> None:
    spec = """
    rules:
    - to: [{operation: {methods: [GET], paths: [/a], hosts: [h]}}]
      when:
      - {key: "request.headers[x-v]", values: ["1,2"]}
      - {key: "request.auth.claims[realm][role]", values: [admin]}
      - {key: request.auth.principal, values: [https://i.example/ann]}
    """
    mesh = directory(tmp_path / "m", authorization("p", spec))
    asked = [
        "explain",
        "--manifests",
        mesh,
        "--to",
        "shop/cart-0:1",
        "--from",
        "web/x",
        "--method",
        "GET",
        "--path",
        "/a?b",
    ]
    asked += ["--host", "h", "--header", "X-V=1", "--header", "x-v: 2", "--claim", "realm.role=user"]
    asked += ["--claim", "realm.role=admin", "--claim", "iss=https://i.example", "--claim", "sub=ann"]
    ran = run(*asked)
    assert (ran.code, "a node alone, which sees no requests, would deny" in ran.out) == (0, True)
    assert run(*asked[:-2]).code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "web/x", "--to", "shop/cart-0"], "is no workload with a port"),
        (["--from", "web/x", "--to", "shop/cart-0:x"], "is no workload with a port"),
        (["--from", "web/x", "--to", "shop/card-0:1"], "did you mean shop/cart-0?"),
        (["--from", "web", "--to", "shop/cart-0:1"], "is no identity"),
        (["--from", "spiffe://A/b", "--to", "shop/cart-0:1"], "is no identity"),
        (["--to", "shop/cart-0:1"], "nobody calls"),
        (["--from", "web/x", "--from-ip", "1.2.3", "--to", "shop/cart-0:1"], "is not an IP address"),
        (["--from", "web/x", "--to", "shop/cart-0:1", "--header", "nothing"], "has no value"),
        (["--from", "web/x", "--to", "shop/cart-0:1", "--claim", "a=b", "--claim", "a.b=c"], "inside of a text"),
        (["--from", "web/x", "--to", "shop/cart-0:1", "--node", "127.0.0.1:1"], "either --manifests DIR or --node"),
    ],
)
def test_wrong_questions_are_usage_errors(run: Any, mesh: Path, arguments: list[str], words: str) -> None:
    ran = run("explain", "--manifests", mesh, *arguments)
    assert ran.code == 2
    assert words in ran.err


def test_a_table_passes_or_tells_what_failed(run: Any, mesh: Path) -> None:
    tests = mesh / "tests.yaml"  # beside the policies: it is not taken for one
    tests.write_text(
        """
cases:
- {name: web gets in, from: {identity: web/frontend}, to: {workload: shop/cart-0, port: 8080}, expect: allow}
- {name: ops gets in, from: {identity: ops/x}, to: {workload: shop/cart-0, port: 8080}, expect: allow}
- {name: clear gets in, to: {workload: shop/cart-0, port: 8080}, expect: allow}
"""
    )
    ran = run("test", mesh, tests)
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "tests.yaml:4: ops gets in: expected allow" in ran.out
    assert "DENY  a caller in plaintext → shop/cart-0:8080" in ran.out
    assert ran.out.endswith("1 of 3 as expected, 2 not\n")
    value = run("test", mesh, tests, "-o", "json").json
    assert (value["passed"], value["failed"], len(value["cases"])) == (1, 2, 3)
    tests.write_text(tests.read_text().split("- {name: ops")[0])
    assert run("test", mesh, tests).code == 0


def test_a_table_names_its_own_mesh(run: Any, tmp_path: Path) -> None:
    spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/web/sa/frontend]}}]}]}"
    mesh = directory(tmp_path / "m", authorization("p", spec))
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        "mesh: {trustDomain: new.example}\n"
        "cases: [{name: a, from: {identity: web/frontend}, to: {workload: shop/cart-0, port: 1}, expect: allow}]"
    )
    assert run("test", mesh, tests).code == 0


def test_a_difference_is_shown_for_real_traffic(run: Any, mesh: Path, log: Path, tmp_path: Path) -> None:
    after = directory(tmp_path / "after", ONLY_WEB.replace("[web]", "[ops]"))
    ran = run("diff", mesh, after, "--traffic", log)
    assert ran.code == 1
    assert "allow → deny" in ran.out
    assert "spiffe://cluster.local/ns/web/sa/frontend" in ran.out
    assert "1 connection would change, 0 would not" in ran.out
    assert "1 line not used: turned away or not yet complete" in ran.out
    assert run("diff", mesh, after, "--traffic", log, "-o", "json").json["changed"][0]["count"] == 1
    same = run("diff", mesh, mesh, "--traffic", log)
    assert (same.code, "0 connections would change, 1 would not" in same.out) == (0, True)


def test_a_suggestion_can_be_applied_as_it_is(run: Any, mesh: Path, log: Path, tmp_path: Path) -> None:
    ran = run("suggest", "--traffic", log, "--manifests", mesh)
    assert ran.code == 0
    (policy,) = yaml.safe_load_all(ran.out)
    assert policy["spec"]["selector"] == {"matchLabels": {"app": "cart"}}
    applied = directory(tmp_path / "applied", ran.out)
    assert run("explain", "--manifests", applied, "--from", "web/frontend", "--to", "shop/cart-0:8080").code == 0
    assert run("explain", "--manifests", applied, "--from", "web/frontend", "--to", "shop/cart-0:8081").code == 1
    assert "1 policy from 1 connection" in ran.err
    wide = run("suggest", "--traffic", log, "-o", "json").json
    assert "selector" not in wide[0]["spec"]


def test_a_log_that_is_not_there_is_a_usage_error(run: Any, mesh: Path) -> None:
    ran = run("suggest", "--traffic", mesh / "none.log")
    assert (ran.code, "cannot be read" in ran.err) == (2, True)


def test_a_node_that_is_not_there_is_unreachable(run: Any) -> None:
    ran = run("explain", "--node", "unix:/nowhere/admin.sock", "--from", "a/b", "--to", "c/d:1")
    assert ran.code == 3
    ran = run("explain", "--node", "127.0.0.1:1", "--from", "a/b", "--to", "c/d:1", "--method", "GET")
    assert (ran.code, "a node sees no requests" in ran.err) == (2, True)


def test_every_command_has_complete_help(run: Any) -> None:
    for command in ("check", "explain", "test", "diff", "suggest"):
        ran = run(command, "--help")
        assert ran.code == 0
        assert "Usage: hbone policy" in ran.out
