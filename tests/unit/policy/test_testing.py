"""A table of expected verdicts."""

import pytest

from hbone.documents.document import parse_documents
from hbone.errors import InvalidConfiguration
from hbone.policy.model import MeshNames
from hbone.policy.testing import Outcome, TestTable, parse_tests, run_tests
from tests.unit.policy.builders import authorization, world

ONLY_WEB = authorization("only-web", "{rules: [{from: [{source: {namespaces: [web]}}]}]}")
GET = authorization("get", "{rules: [{to: [{operation: {methods: [GET], paths: [/a], hosts: [h]}}]}]}")


def table(text: str) -> TestTable:
    return parse_tests(parse_documents("t.yaml", text))


def run(case: str, *manifests: str) -> Outcome:
    (outcome,) = run_tests(world(*manifests), table(f"cases:\n- {case}\n"))
    return outcome


TO = "to: {workload: shop/cart-0, port: 1}"


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ("from: {identity: web/x}, expect: allow", "allow"),
        ("from: {identity: 'spiffe://o/ns/ops/sa/x'}, expect: allow", "deny"),
        ("from: {ip: 127.0.0.9}, expect: deny", "deny"),
        ("transport: plaintext, expect: deny", "deny"),
        ("from: {identity: web/x}, transport: plaintext, expect: deny", "deny"),
    ],
)
def test_a_case_is_judged(case: str, verdict: str) -> None:
    outcome = run(f"{{name: a, {TO}, {case}}}", ONLY_WEB)
    assert outcome.explanation.verdict.value == verdict
    assert outcome.passed is (verdict == outcome.case.expect.value)
    value = outcome.to_json()
    assert (value["name"], value["case_place"], value["verdict"]) == ("a", "t.yaml:2", verdict)


def test_a_case_may_have_a_request() -> None:
    claims = "{iss: i, roles: [a], n: {m: !t x}}"
    seen = f"{{method: GET, path: '/x/../a?q', host: h, headers: {{A: b}}, claims: {claims}, remoteIp: 1.2.3.4}}"
    case = f"{{name: a, from: {{identity: web/x}}, {TO}, request: {seen}, expect: allow}}"
    outcome = run(case, GET)
    assert outcome.passed
    request = outcome.case.request
    assert request is not None
    assert (request.path, dict(request.headers)) == ("/a", {"a": "b"})
    assert request.claims == {"iss": "i", "roles": ["a"], "n": {"m": "x"}}


def test_the_mesh_may_be_named() -> None:
    text = "mesh: {rootNamespace: r, trustDomain: t.d, trustDomainAliases: [a.b]}\ncases: []"
    assert table(text).names == MeshNames(root_namespace="r", trust_domain="t.d", trust_domain_aliases=("a.b",))
    assert table("cases: []").names is None


CASE = "{name: a, from: {identity: web/x}, to: {workload: shop/cart-0, port: 1}, expect: allow"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "write a mapping with cases"),
        ("{}", "cases: is missing"),
        ("{cases: [], case: 1}", "is not a known field"),
        ("cases: [{from: {identity: a/b}, to: {workload: a/b, port: 1}, expect: allow}]", "name: is missing"),
        ("cases: [{name: a, expect: allow}]", "to: is missing"),
        ("cases: [{name: a, to: {port: 1}, expect: allow}]", "workload: is missing"),
        ("cases: [{name: a, to: {workload: a/b}, expect: allow}]", "port: is missing"),
        ("cases: [{name: a, to: {workload: a/b, port: 0}, expect: allow}]", "is out of range"),
        ("cases: [{name: a, to: {workload: a/b, port: 1}}]", "expect: is missing"),
        (f"cases: [{CASE}, expects: deny}}]", "did you mean 'expect'?"),
        (f"cases: [{CASE}, transport: tcp}}]", "write one of: hbone, plaintext"),
        ("cases: [{name: a, transport: hbone, to: {workload: a/b, port: 1}, expect: deny}]", "proves an identity"),
        ("cases: [{name: a, from: {ip: x}, to: {workload: a/b, port: 1}, expect: deny}]", "is not an IP address"),
        (f"cases: [{CASE}, request: {{methd: GET}}}}]", "did you mean 'method'?"),
    ],
)
def test_a_mistake_in_the_table_has_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        table(text)
    assert words in str(refused.value)
    assert "t.yaml:" in str(refused.value)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "{name: a, from: {identity: web/x}, to: {workload: shop/card-0, port: 1}, expect: allow}",
            "did you mean shop/cart-0?",
        ),
        ("{name: a, from: {identity: web/x}, to: {workload: zzz/y, port: 1}, expect: allow}", "add the WorkloadEntry"),
        ("{name: a, from: {identity: web}, to: {workload: shop/cart-0, port: 1}, expect: allow}", "is no identity"),
        (
            "{name: a, from: {identity: 'spiffe://A'}, to: {workload: shop/cart-0, port: 1}, expect: allow}",
            "trust domain",
        ),
    ],
)
def test_a_case_about_nobody_is_a_mistake(case: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        run(case)
    assert words in str(refused.value)
    assert str(refused.value).startswith("t.yaml:2")
