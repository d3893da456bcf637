"""What a stranger gives `hbone policy`: an answer with its place and remedy, exit 2, and never a traceback."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from hbone.cli.failures import main
from tests.unit.policy.builders import WORKLOADS, authorization

Run = Callable[..., tuple[int, str, str]]
HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n"
LAUGHS = "a: &a [x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghij")
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["policy", *map(str, arguments)], {})
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    return call


def mesh_in(path: Path, content: str | bytes = "") -> Path:
    path.mkdir()
    (path / "workloads.yaml").write_text(WORKLOADS)
    (path / "p.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WRONG: dict[str, tuple[str | bytes, str]] = {
    "text": ("just text\n", "p.yaml:1: a document that is text"),
    "a list": ("[1, 2]\n", "p.yaml:1: a document that is a list"),
    "no kind": ("a: 1\n", "p.yaml:1: kind: is missing"),
    "an unknown kind": (
        HEAD.replace("izationP", "isationP"),
        "p.yaml:2: kind: unknown kind 'AuthorisationPolicy'; did",
    ),
    "an unknown version": (HEAD.replace("/v1", "/v9"), "p.yaml:1: apiVersion: 'security.istio.io/v9' has no kind"),
    "no metadata": (HEAD.partition("metadata")[0], "p.yaml:1: metadata: is missing"),
    "metadata that is text": (HEAD.partition("{")[0] + "p\n", "p.yaml:3: metadata: 'p' is text"),
    "a name that is a number": (HEAD.replace("name: p,", "name: 5,"), "p.yaml:3: metadata.name: 5 is a number"),
    "a spec that is text": (f"{HEAD}spec: hello\n", "p.yaml:4: spec: 'hello' is text; write a mapping"),
    "rules that are a mapping": (f"{HEAD}spec: {{rules: {{a: 1}}}}\n", "p.yaml:4: spec.rules: {'a': 1} is a mapping"),
    "a rule that is nothing": (f"{HEAD}spec: {{rules: [null]}}\n", "p.yaml:4: spec.rules[0]: null is nothing"),
    "a text for a list": (
        f"{HEAD}spec: {{rules: [{{from: [{{source: {{principals: web}}}}]}}]}}\n",
        "source.principals: 'web' is text; write a list",
    ),
    "an unknown field": (f"{HEAD}spec:\n  acton: DENY\n", "p.yaml:5: spec.acton: is not a known field; did you mean"),
    "lines of Windows": (
        f"{HEAD}spec:\n  acton: DENY\n".replace("\n", "\r\n"),
        "p.yaml:5: spec.acton: is not a known field; did you mean 'action'?",
    ),
    "a mark at the beginning": (b"\xef\xbb\xbf" + f"{HEAD}spec: {{acton: 1}}".encode(), "p.yaml:4: spec.acton"),
    "a key twice": (f"{HEAD}spec: {{}}\nspec: {{}}\n", "p.yaml:5: the key 'spec' is there twice, first in line 4"),
    "a key that is no name": (f"{HEAD}spec: {{true: 1}}\n", "p.yaml:4: the key True is not a name"),
    "tabs": ("a: 1\n\tb: 2\n", "p.yaml:2: not valid YAML"),
    "a bracket that stays open": (f"{HEAD}spec: {{rules: [\n", "not valid YAML"),
    "bytes": (bytes(range(255, 100, -1)), "p.yaml:1: byte 0xff is not UTF-8; save the file as UTF-8"),
    "UTF-16": ("kind: x".encode("utf-16"), "p.yaml:1: byte 0xff is not UTF-8"),
    "zero bytes": (b"a: b\n\0", "not valid YAML"),
    "a billion laughs": (LAUGHS, "more than 10000000 values; use fewer aliases"),
    "an alias to itself": ("a: &a [*a]\n", "p.yaml:1: alias *a contains itself"),
    "an alias to nothing": ("a: *b\n", "p.yaml:1: alias *b has no anchor before it"),
    "depth": (f"{HEAD}spec: {'[' * 5000}{']' * 5000}\n", "p.yaml:4: nested deeper than 64 levels"),
    "depth in JSON": ('{"a": ' * 5000 + "1" + "}" * 5000, "nested deeper than 64 levels"),
    "a tag of Python": (f"{HEAD}spec: !!python/object:os.system {{}}\n", "p.yaml:4: the tag"),
    "a tag of its own": (f"{HEAD}spec: !mine {{}}\n", "p.yaml:4: spec: !mine {} is a tagged value"),
    "the second of three": (
        f"{HEAD}---\n{HEAD.replace('p,', 'q,')}spec: 1\n---\n{HEAD.replace('p,', 'r,')}",
        "p.yaml:8",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_manifest_that_is_wrong_is_told_with_its_place(case: str, run: Run, tmp_path: Path) -> None:
    content, words = WRONG[case]
    mesh = mesh_in(tmp_path / "mesh", content)
    good = mesh_in(tmp_path / "good")
    log = tmp_path / "empty.log"
    log.touch()
    table = tmp_path / "tests.yaml"
    table.write_text("cases: [{name: a, to: {workload: shop/cart-0, port: 80}, expect: allow}]")
    commands: tuple[tuple[object, ...], ...] = (
        ("check", mesh),
        ("explain", "--manifests", mesh, "--from", "web/x", "--to", "shop/cart-0:80"),
        ("test", mesh, table),
        ("diff", good, mesh, "--traffic", log),
        ("suggest", "--traffic", log, "--manifests", mesh),
    )
    for command in commands:
        code, _, err = run(*command)
        assert (code, words in err) == (2, True), (command[0], err)


CASE = "name: a, from: {identity: web/x}, to: {workload: shop/cart-0, port: 80}, expect: allow"
WRONG_TABLES = {
    "": "has no cases",
    "cases: []": "has no cases",
    "cases: 5": "tests.yaml:1: cases: 5 is a number; write a list of mappings",
    "[]": "tests.yaml:1: a document that is a list",
    "case: []": "case: is not a known field; did you mean 'cases'?",
    "cases: [5]": "cases[0]: 5 is a number",
    "cases: [{}]": "cases[0].expect: is missing; write expect: allow, or deny",
    f"cases: [{{{CASE.replace('allow', 'maybe')}}}]": "cases[0].expect: 'maybe' is not a choice here",
    f"cases: [{{{CASE.replace('80', 'http')}}}]": "cases[0].to.port: 'http' is text",
    f"cases: [{{{CASE.replace('cart-0', 'kart-0')}}}]": "there is no workload 'shop/kart-0'; did you mean shop/cart-0?",
    f"cases: [{{{CASE.replace('web/x', 'web')}}}]": "cases[0].from.identity: 'web' is no identity",
    f"cases: [{{{CASE.replace('web/x', 'spiffe://A/b')}}}]": "cases[0].from.identity",
    f"cases: [{{{CASE}, transport: htbone}}]": "did you mean 'hbone'?",
    f"cases: [{{{CASE}, request: GET}}]": "cases[0].request: 'GET' is text",
    f"cases: [{{{CASE}, request: {{headers: {{a: 1}}}}}}]": 'request.headers.a: 1 is a number; write text: "1"',
    f"mesh: {{trustDomain: A B}}\ncases: [{{{CASE}}}]": "tests.yaml:1: mesh.trustDomain: 'A B' is not a trust domain",
    f"mesh: {{trustDomainAliases: [a, B]}}\ncases: [{{{CASE}}}]": "trustDomainAliases[1]: 'B' is not a trust domain",
    f"mesh: {{rootNamspace: x}}\ncases: [{{{CASE}}}]": "did you mean 'rootNamespace'?",
    f"cases: [{{{CASE}}}]\n---\ncases: [{{{CASE}, x: 1}}]": "tests.yaml:3: cases[0].x: is not a known field",
}


@pytest.mark.parametrize("text", WRONG_TABLES)
def test_a_table_that_is_wrong_is_told_with_its_place(text: str, run: Run, tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path / "mesh")
    table = tmp_path / "tests.yaml"
    table.write_text(text)
    code, _, err = run("test", mesh, table)
    assert (code, WRONG_TABLES[text] in err) == (2, True), err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage\n", b"a line\n", b'{"a":\n', b"<html>\n" * 1000])
@pytest.mark.parametrize("command", ["diff", "suggest"])
def test_what_is_no_access_log_is_refused(content: bytes, command: str, run: Run, tmp_path: Path) -> None:
    mesh, log = mesh_in(tmp_path / "mesh"), tmp_path / "some.log"
    log.write_bytes(content)
    code, _, err = run(command, *((mesh, mesh) if command == "diff" else ()), "--traffic", log)
    assert (code, "some.log is no access log" in err) == (2, True), err


def test_an_access_log_without_a_connection_is_one(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "empty.log"
    log.write_text("\n")
    assert run("suggest", "--traffic", log)[::2] == (0, "0 policies from 0 connections\n")


@pytest.mark.parametrize("option", ["--trust-domain", "--trust-domain-alias"])
def test_a_trust_domain_that_is_none_is_a_usage_error(option: str, run: Run, tmp_path: Path) -> None:
    code, _, err = run("check", mesh_in(tmp_path / "mesh"), option, "A B")
    assert (code, f"{option}: 'A B' is not a trust domain" in err) == (2, True)


def test_a_directory_without_anything_is_warned_of_and_fails_a_strict_check(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.yml.txt").write_text(HEAD)
    code, out, err = run("check", tmp_path)
    assert (code, "has no policy and no workload" in err) == (0, True)
    assert "0 policies, 0 workloads" in out
    assert run("check", tmp_path, "--strict")[0] == 1


def lost(path: Path) -> None:
    """Nothing is there."""


def a_file(path: Path) -> None:
    path.touch()


def a_link_that_leads_nowhere(path: Path) -> None:
    path.mkdir()
    (path / "p.yaml").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lost, "no such directory; create it"),
        (a_file, "not a directory; name a directory"),
        (a_link_that_leads_nowhere, "no such file or directory"),
    ],
)
def test_a_directory_that_cannot_be_read_is_told(
    make: Callable[[Path], object], words: str, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "mesh"
    make(path)
    code, _, err = run("check", path)
    assert (code, words in err) == (2, True), err


def test_a_file_that_is_too_large_is_not_read(run: Run, tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path / "mesh")
    with (mesh / "p.yaml").open("wb") as file:
        file.truncate(70 << 20)
    code, _, err = run("check", mesh)
    assert (code, "a file of 73400320 bytes; split it" in err) == (2, True)


def test_thousands_of_policies_are_checked_in_seconds(run: Run, tmp_path: Path) -> None:
    spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/a%d/sa/b]}}]}]}"
    text = "---\n".join(authorization(f"p{n}", spec % n, namespace=f"n{n % 20}") for n in range(1500))
    code, out, _ = run("check", mesh_in(tmp_path / "mesh", text), "-o", "json")
    assert (code, json.loads(out)["authorizationPolicies"]) == (0, 1500)
