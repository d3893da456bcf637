"""Explanations: what decided, and for every other policy why it did not."""

import pytest

from hbone.errors import UsageError
from hbone.policy.decide import PolicyEngine
from hbone.policy.explain import Explanation, explain
from hbone.policy.held import explain_held
from hbone.policy.manifests import Mode
from hbone.policy.model import Action, Field, MeshNames, Request, Rule, Scope
from hbone.policy.verdict import Verdict
from hbone.policy.world import UnknownWorkload, World, parse_identity
from tests.unit.policy.builders import FRONTEND, authorization, constraint, facts, held, peer, question, rule, world

ONLY_WEB = authorization(
    "only-web", "{selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {namespaces: [web]}}]}]}"
)
STRICT = peer("default", "{mtls: {mode: STRICT}}", namespace="istio-system")


def said(mesh: World, source: str | None = "web/frontend", to: str = "shop/cart-0:8080", **rest: object) -> Explanation:
    return explain(mesh, question(mesh, source, to, **rest))  # type: ignore[arg-type]  # checked there


def why(explanation: Explanation, policy: str) -> str:
    return next(note.why for note in explanation.policies if note.policy == policy)


def test_an_allowed_connection_names_policy_rule_and_place() -> None:
    one = said(world(ONLY_WEB))
    assert (one.verdict, one.policy, one.rule, one.kind) == (Verdict.ALLOW, "shop/only-web", 0, "AuthorizationPolicy")
    assert one.place == "p.yaml:4"
    assert one.reason == "allowed by rule 0 of shop/only-web"
    assert one.mtls is Mode.PERMISSIVE


def test_without_policies_the_reason_says_so() -> None:
    one = said(world())
    assert (one.policy, one.rule) == (None, None)
    assert "no ALLOW policy applies to shop/cart-0" in one.reason


def test_a_denial_by_omission_names_the_allow_policies() -> None:
    one = said(world(ONLY_WEB), "other/x")
    assert (one.verdict, one.policy) == (Verdict.DENY, None)
    assert one.reason.endswith("no rule of theirs fits: shop/only-web")
    assert "namespaces wants web, but the caller's namespace is other" in why(one, "shop/only-web")


def test_plaintext_to_a_strict_port_is_denied_by_the_peer_authentication() -> None:
    one = said(world(STRICT, ONLY_WEB), None)
    assert (one.verdict, one.policy, one.rule, one.kind) == (
        Verdict.DENY,
        "istio-system/default",
        None,
        "PeerAuthentication",
    )
    assert one.mtls is Mode.STRICT
    assert "STRICT" in one.reason
    assert [note.policy for note in one.policies if note.decides] == ["istio-system/default"]


def test_a_strict_port_of_the_workload_names_the_workloads_object() -> None:
    own = peer("own", "{selector: {matchLabels: {app: cart}}, portLevelMtls: {8080: {mode: STRICT}}}")
    one = said(world(own), None)
    assert (one.policy, one.place) == ("shop/own", "p.yaml:1")
    assert said(world(own), None, "shop/cart-0:80").allowed


def test_deny_goes_before_an_allow_that_fits() -> None:
    deny = authorization("deny", "{action: DENY, rules: [{}]}", namespace="istio-system")
    one = said(world(ONLY_WEB, deny))
    assert (one.policy, one.reason) == ("istio-system/deny", "denied by rule 0 of istio-system/deny")
    assert why(one, "shop/only-web") == "rule 0 fits: but istio-system/deny denies, and DENY goes first"


OTHERS = [
    ("{selector: {matchLabels: {app: db}}, rules: [{}]}", "shop", "selects app=db, which shop/cart-0 has not"),
    ("{rules: [{}]}", "web", "is for namespace web"),
    ("{targetRefs: [{kind: Service, name: cart}], rules: [{}]}", "shop", "is for waypoints (targetRefs: Service cart)"),
    ("{}", "shop", "has no rules, so it fits nothing"),
    ("{rules: [{}]}", "shop", "rule 0 fits: so does shop/a, which comes first by name"),
    ("{action: AUDIT, rules: [{}]}", "shop", "rule 0 fits: logged, nothing more"),
    (
        "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "shop",
        "asks for methods, which a node cannot see: it is left out",
    ),
    (
        "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "shop",
        "nothing of it can be told by a node, so it never fits (without methods, which a node cannot see)",
    ),
    (
        "{rules: [{from: [{source: {namespaces: [x], ipBlocks: [10.0.0.1]}}, {source: {namespaces: [y]}}]}]}",
        "shop",
        "none of the 2 in from fits, the nearest: namespaces wants y, but the caller's namespace is web",
    ),
]


@pytest.mark.parametrize(("spec", "namespace", "words"), OTHERS)
def test_every_other_policy_says_why_it_did_not_decide(spec: str, namespace: str, words: str) -> None:
    mesh = world(authorization("a", "{rules: [{}]}"), authorization("other", spec, namespace=namespace))
    assert words in why(said(mesh), f"{namespace}/other")


PEERS = [
    (peer("other", "{mtls: {mode: STRICT}}", namespace="web"), "is for namespace web"),
    (peer("other", "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}"), "does not select shop/cart-0"),
    (
        peer("other", "{selector: {matchLabels: {app: cart}}}", namespace="istio-system"),
        "has a selector in the root namespace, where that selects nobody",
    ),
    (peer("other", "{mtls: {mode: STRICT}}", created="2026-01-01"), "is ignored: shop/ns is older"),
    (peer("other", "{mtls: {mode: STRICT}}", namespace="istio-system"), "asks for STRICT, which shop/ns overrides"),
    (peer("other", "{mtls: {mode: UNSET}}", namespace="istio-system"), "leaves the mode unset"),
]


@pytest.mark.parametrize(("other", "words"), PEERS)
def test_every_peer_authentication_says_its_part(other: str, words: str) -> None:
    one = said(world(peer("ns", "{mtls: {mode: PERMISSIVE}}"), other))
    assert why(one, "shop/ns") == "sets port 8080 to PERMISSIVE"
    assert words in [note.why for note in one.policies if note.policy.endswith("/other")]


def test_of_two_that_select_a_workload_the_newer_is_ignored() -> None:
    spec = "{selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}}"
    one = said(world(peer("a", spec), peer("b", spec)), None)
    assert why(one, "shop/b") == "is ignored: shop/a is older"


def test_what_watches_is_told_beside_the_verdict() -> None:
    dry = authorization("dry", "{action: DENY, rules: [{}]}", annotations='{istio.io/dry-run: "true"}')
    one = said(world(dry, authorization("audit", "{action: AUDIT, rules: [{}]}")))
    assert one.notes == ("without dry run the verdict would be deny, by shop/dry",)
    assert why(one, "shop/dry") == "rule 0 fits: counted, nothing more, since it is a dry run"
    value = one.to_json()
    assert (value["would"], value["dry_run"], value["audit"]) == ("deny", ["shop/dry rule 0"], ["shop/audit rule 0"])


def test_a_request_is_decided_as_by_a_proxy_that_reads_it() -> None:
    mesh = world(authorization("get", "{rules: [{to: [{operation: {methods: [GET]}}]}]}"))
    get, put = (said(mesh, seen=Request(method=method)) for method in ("GET", "PUT"))
    assert (get.allowed, put.allowed) == (True, False)
    assert get.notes == ("a node alone, which sees no requests, would deny: allow policies exist, but none allowed",)
    assert get.to_json()["layer"] == "l7"
    assert "methods wants GET, but the method is PUT" in why(put, "shop/get")


def test_a_policy_with_targets_is_explained_where_requests_are_read() -> None:
    targeted = authorization("t", "{targetRefs: [{kind: Service, name: cart}], action: DENY, rules: [{}]}")
    one = said(world(targeted), seen=Request())
    assert (one.policy, one.allowed) == ("shop/t", False)
    elsewhere = authorization("t", "{targetRefs: [{kind: Service, name: other}], action: DENY, rules: [{}]}")
    assert why(said(world(elsewhere), seen=Request()), "shop/t") == "is for Service other, not before shop/cart-0"


def test_a_rule_that_is_not_understood_is_told() -> None:
    spec = "{rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: [c]}]}]}"
    one = said(world(authorization("p", spec)), seen=Request())
    assert "is not understood: Envoy's filter state is not known here" in why(one, "shop/p")


def test_an_unknown_source_address_is_noted() -> None:
    assert "the source address is not known" in said(world(), ip=None).notes[0]


def test_a_destination_without_a_node_is_noted() -> None:
    plain = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: old-0, namespace: shop}
spec: {address: 127.0.0.9}
"""
    assert "speaks no HBONE" in said(world(workloads=plain), to="shop/old-0:80").notes[0]


def test_the_json_has_what_machines_rely_on() -> None:
    value = said(world(ONLY_WEB, STRICT)).to_json()
    assert {key: value[key] for key in ("verdict", "policy", "rule", "mtls")} == {
        "verdict": "allow",
        "policy": "shop/only-web",
        "rule": 0,
        "mtls": "STRICT",
    }
    assert isinstance(value["reason"], str)


def test_an_unknown_workload_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownWorkload, match="did you mean shop/cart-0"):
        world().named("shop/card-0")
    with pytest.raises(UnknownWorkload, match="the workloads are"):
        world().named("zzz/yyy")


def test_identities_are_named_short_or_whole() -> None:
    assert parse_identity("web/frontend", MeshNames()) == FRONTEND
    assert parse_identity(str(FRONTEND), MeshNames(trust_domain="x")) == FRONTEND
    with pytest.raises(UsageError, match="is no identity"):
        parse_identity("web", MeshNames())


# from what a node holds


def test_what_a_node_holds_explains_itself() -> None:
    web = rule(constraint(Field.NAMESPACES, "web"))
    policies = (
        held("a", web),
        held("b", rule(constraint(Field.NAMESPACES, "x"))),
        held("c", web, scope=Scope.WORKLOAD_SELECTOR),
        held("d"),
        held("e", web, action=Action.DENY, dry_run=True),
        held("istio_converted_static_strict", rule(constraint(Field.PRINCIPALS, refused=("*",))), action=Action.DENY),
    )
    engine = PolicyEngine(policies)
    one = explain_held(engine.policies, facts(), engine.judge(facts()))
    assert (one.policy, one.rule, one.kind, one.mtls) == ("shop/a", 0, "AuthorizationPolicy", Mode.STRICT)
    assert why(one, "shop/a") == "rule 0 fits: decides"
    assert "namespaces wants x" in why(one, "shop/b")
    assert why(one, "shop/c") == "is not named by the workload"
    assert why(one, "shop/d") == "has no rules, so it fits nothing"
    plain = explain_held(engine.policies, facts(None), engine.judge(facts(None)))
    assert (plain.kind, plain.policy) == ("PeerAuthentication", "shop/istio_converted_static_strict")
    foreign = explain_held(
        (held("a", Rule()),),
        facts()._replace(destination=facts().destination._replace(namespace="x")),
        engine.judge(facts()),
    )
    assert why(foreign, "shop/a") == "is for namespace shop"
