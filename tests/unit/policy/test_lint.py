"""What is valid and still not meant."""

import pytest

from hbone.policy.finding import Finding, Level
from hbone.policy.lint import lint
from hbone.policy.model import MeshNames
from tests.unit.policy.builders import WORKLOADS, authorization, peer, world

LEGACY = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: legacy-0, namespace: web}
spec: {address: 127.0.0.9}
"""


def findings(*manifests: str, workloads: str = WORKLOADS, names: MeshNames | None = None) -> list[Finding]:
    return [one for one in lint(world(*manifests, workloads=workloads, names=names)) if one.level is not Level.NOTE]


def ruled(rule: str, action: str = "ALLOW") -> str:
    return authorization("p", f"{{action: {action}, rules: [{rule}]}}")


FINE = [
    ruled("{}"),
    ruled("{from: [{source: {principals: [cluster.local/ns/web/sa/frontend]}}]}"),
    ruled("{from: [{source: {principals: ['cluster.local/ns/web/*'], namespaces: [web]}}]}"),
    ruled("{from: [{source: {serviceAccounts: [cart, web/frontend]}}]}"),
    ruled("{from: [{source: {principals: [other.domain/ns/web/sa/x]}}]}"),
    ruled("{from: [{source: {notPrincipals: ['*']}}]}", "DENY"),
    ruled("{to: [{operation: {ports: ['8080'], notPorts: ['80']}}]}"),
    ruled("{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}}]}"),
    peer("p", "{mtls: {mode: STRICT}}"),
    peer("p", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {8080: {mode: STRICT}}}"),
]


@pytest.mark.parametrize("manifest", FINE)
def test_what_is_meant_is_not_complained_about(manifest: str) -> None:
    assert findings(manifest) == []


NEVER = [
    (
        "{from: [{source: {namespaces: [web], notNamespaces: [web]}}]}",
        "notNamespaces takes away all that namespaces allows",
    ),
    ("{from: [{source: {namespaces: [web], notNamespaces: ['w*']}}]}", "takes away"),
    ("{from: [{source: {namespaces: ['w*'], notNamespaces: ['*']}}]}", "takes away"),
    ("{from: [{source: {principals: ['*web*']}}]}", "a '*' inside a value stands for itself"),
    (
        "{from: [{source: {principals: [frontend]}}]}",
        "frontend is no identity; write trust-domain/ns/namespace/sa/account",
    ),
    ("{from: [{source: {principals: [cluster.local/ns/web/sa/frontend], namespaces: [shop]}}]}", "no principal of"),
    (
        "{from: [{source: {principals: [cluster.local/ns/web/sa/frontend], notNamespaces: [web]}}]}",
        "is in notNamespaces",
    ),
    ("{to: [{operation: {ports: ['8080'], notPorts: ['8080']}}]}", "takes away"),
    ("{to: [{operation: {ports: ['8080']}}], when: [{key: destination.port, values: ['80']}]}", "no port is left"),
    ("{from: [{source: {ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8]}}]}", "takes away"),
    (
        "{from: [{source: {serviceAccounts: [web/frontend]}}], when: [{key: source.namespace, values: [shop]}]}",
        "no service account of the one",
    ),
]


@pytest.mark.parametrize(("rule", "words"), NEVER)
@pytest.mark.parametrize(("action", "level"), [("ALLOW", Level.WARNING), ("DENY", Level.ERROR)])
def test_a_rule_that_can_never_fit(rule: str, words: str, action: str, level: Level) -> None:
    found = [one for one in findings(ruled(rule, action)) if one.check == "never-fits"]
    assert [one.level for one in found] == [level]
    assert words in found[0].what
    assert found[0].place == "p.yaml:4"


L7 = [
    ("ALLOW", "{to: [{operation: {methods: [GET]}}]}", {"l7-at-l4": Level.WARNING, "allows-nothing": Level.ERROR}),
    ("ALLOW", "{}, {to: [{operation: {methods: [GET]}}]}", {"l7-at-l4": Level.WARNING}),
    ("DENY", "{to: [{operation: {methods: [GET]}}]}", {"l7-at-l4": Level.ERROR}),
    ("DENY", "{to: [{operation: {methods: [GET], ports: ['80']}}]}", {"l7-at-l4": Level.WARNING}),
]


@pytest.mark.parametrize(("action", "rules", "expected"), L7)
def test_a_field_on_requests_where_nobody_reads_them(action: str, rules: str, expected: dict[str, Level]) -> None:
    assert {one.check: one.level for one in findings(ruled(rules, action))} == expected


def test_an_allow_that_makes_everything_else_denied_is_noted() -> None:
    mesh = world(ruled("{from: [{source: {namespaces: [web]}}]}"))
    (note,) = lint(mesh)
    assert (note.level, note.check) == (Level.NOTE, "denies-the-rest")
    assert "2 workloads take only what ALLOW policies list" in note.what


def test_an_allow_without_rules_is_told() -> None:
    spec = "{selector: {matchLabels: {app: cart}}}"
    (one,) = findings(authorization("p", spec))
    assert (one.check, one.level) == ("allows-nothing", Level.WARNING)
    assert "shop/cart-0 takes only what other policies allow" in one.what


def test_a_port_that_nobody_may_reach_is_told() -> None:
    (one,) = findings(ruled("{to: [{operation: {ports: ['9090']}}]}"))
    assert (one.check, one.what) == ("closed-port", "leaves port 8080 of shop/cart-0 to nobody: no ALLOW rule fits it")


def test_a_strict_mesh_keeps_out_clients_without_a_node() -> None:
    (one,) = findings(peer("p", "{mtls: {mode: STRICT}}"), workloads=f"{WORKLOADS}---{LEGACY}")
    assert one.check == "plaintext-client"
    assert "keeps out web/legacy-0, which can only speak plaintext, from shop/cart-0, shop/db-0" in one.what
    assert findings(peer("p", "{mtls: {mode: PERMISSIVE}}"), workloads=f"{WORKLOADS}---{LEGACY}") == []


def test_a_strict_port_keeps_out_clients_without_a_node_too() -> None:
    port = peer("p", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {8080: {mode: STRICT}}}")
    (one,) = findings(port, workloads=f"{WORKLOADS}---{LEGACY}")
    assert one.check == "plaintext-client"
    assert "keeps out web/legacy-0, which can only speak plaintext, from shop/cart-0:8080" in one.what


@pytest.mark.parametrize(
    ("source", "words", "fix"),
    [
        (
            "principals: [cluster.local/ns/web/sa/frontent]",
            "the principal",
            "did you mean cluster.local/ns/web/sa/frontend?",
        ),
        ("notPrincipals: [cluster.local/ns/web/sa/frontent]", "the principal", "did you mean"),
        ("namespaces: [wbe]", "the namespace wbe", "did you mean web?"),
        ("namespaces: [zzzzz]", "the namespace zzzzz", "yet to come"),
        ("serviceAccounts: [web/frontent]", "the service account web/frontent", "did you mean web/frontend?"),
    ],
)
def test_a_caller_that_nobody_is(source: str, words: str, fix: str) -> None:
    (one,) = findings(ruled(f"{{from: [{{source: {{{source}}}}}]}}"))
    assert one.check == "unknown-caller"
    assert words in one.what
    assert fix in one.fix


def test_callers_are_known_by_any_of_the_mesh_names() -> None:
    names = MeshNames(trust_domain="new.example", trust_domain_aliases=("old.example",))
    for domain in ("cluster.local", "new.example", "old.example"):
        assert (
            findings(ruled(f"{{from: [{{source: {{principals: [{domain}/ns/web/sa/frontend]}}}}]}}"), names=names) == []
        )


SHADOWED = [
    ("{action: DENY, rules: [{}]}", "{rules: [{from: [{source: {namespaces: [web]}}]}]}", "a denies everything"),
    ("{rules: [{}]}", "{rules: [{from: [{source: {namespaces: [web]}}]}]}", "a fits everything that it could fit"),
    ("{rules: [{}]}", "{rules: [{}]}", "a fits everything that it could fit"),
    ("{rules: [{from: [{source: {namespaces: [web]}}]}]}",) * 2 + ("a has the same rules",),
    (
        "{rules: [{from: [{source: {namespaces: [web]}}]}]}",
        "{selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {namespaces: [web]}}]}]}",
        "a has the same rules",
    ),
]


@pytest.mark.parametrize(("first", "second", "words"), SHADOWED)
def test_a_policy_that_another_leaves_nothing_to_do(first: str, second: str, words: str) -> None:
    found = [one for one in findings(authorization("a", first), authorization("b", second)) if one.check == "shadowed"]
    assert [one.policy for one in found] == ["shop/b"]
    assert found[0].what.endswith(words)


def test_a_narrower_policy_shadows_nothing() -> None:
    narrow = "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{}]}"
    wide = "{rules: [{from: [{source: {namespaces: [web]}}]}]}"
    assert [f.check for f in findings(authorization("a", narrow), authorization("b", wide))] == []
    elsewhere = authorization("a", "{action: DENY, rules: [{}]}", namespace="web")
    assert not [f for f in findings(elsewhere, authorization("b", wide)) if f.check == "shadowed"]


@pytest.mark.parametrize(
    ("manifest", "check", "words"),
    [
        (authorization("p", "{selector: {}, rules: [{}]}"), "empty-selector", "it is for everybody"),
        (authorization("p", "{selector: {matchLabels: {app: x}}, rules: [{}]}"), "selects-nobody", "has app=x"),
        (authorization("p", "{rules: [{}]}", namespace="x"), "selects-nobody", "no workload of namespace x"),
        (
            authorization("p", "{targetRefs: [{kind: Service, name: cart}], rules: [{}]}"),
            "waypoint-only",
            "nodes do not enforce it",
        ),
        (peer("p", "{selector: {matchLabels: {app: x}}}", namespace="istio-system"), "selects-nobody", "no effect"),
        (peer("p", "{selector: {}, mtls: {mode: STRICT}}"), "empty-selector", "it is taken as none"),
        (
            peer("p", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {80: {mode: DISABLE}}}"),
            "unknown-port",
            "sets port 80, which no selected workload serves",
        ),
    ],
)
def test_what_has_no_effect_is_told(manifest: str, check: str, words: str) -> None:
    (one,) = findings(manifest)
    assert one.check == check
    assert words in one.what


def test_the_newer_of_two_peer_authentications_is_told() -> None:
    (one,) = findings(peer("a", "{mtls: {mode: STRICT}}"), peer("b", "{mtls: {mode: STRICT}}"))
    assert (one.policy, one.what) == ("shop/b", "is ignored as a whole: shop/a is older")


def test_without_workloads_nothing_is_said_about_them() -> None:
    assert findings(ruled("{from: [{source: {namespaces: [nobody]}}]}"), workloads="") == []


def test_findings_come_worst_first_and_as_json() -> None:
    never = authorization("z", "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}")
    found = findings(authorization("a", "{selector: {}, rules: [{}]}"), never)
    assert [one.level for one in found] == [Level.ERROR, Level.WARNING]
    assert found[0].to_json()["level"] == "error"
