"""Laws of policy: the engine is the reference, only faster; narrower never lets more in; both forms come back whole."""

import json
from dataclasses import replace

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.discovery.policies import decode_policy, policy_resource
from hbone.discovery.resources import InvalidResource
from hbone.documents.document import parse_documents
from hbone.documents.values import Document
from hbone.errors import InvalidConfiguration
from hbone.policy.decide import PolicyEngine
from hbone.policy.index import ReadyRule, RuleIndex
from hbone.policy.localform import parse_local_policies, plain_policy
from hbone.policy.match import predicate
from hbone.policy.model import (
    Action,
    Authorization,
    Clause,
    ConnectionFacts,
    Constraint,
    Destination,
    Field,
    Match,
    Rule,
    Scope,
)
from hbone.policy.parse import parse_policies
from hbone.policy.testing import parse_tests
from hbone.policy.traffic import read_traffic
from hbone.proto import authorization_pb2 as pb
from tests.support import policy_reference as reference
from tests.support.policy_strategies import (
    authorizations,
    callers_of,
    connections,
    constraints,
    every_connection,
    policy_sets,
    rules,
)

Policies = tuple[Authorization, ...]


def said(engine: PolicyEngine, facts: ConnectionFacts) -> reference.Said:
    decision = engine.judge(facts)
    return reference.Said(decision.allowed, decision.policy, decision.rule)


@settings(max_examples=150)
@given(policy_sets(), st.lists(connections(), min_size=1, max_size=3))
def test_the_engine_says_what_the_reference_says(policies: Policies, facts: list[ConnectionFacts]) -> None:
    engine = PolicyEngine(policies)
    for one in (other for some in facts for other in callers_of(some)):
        expected = reference.decide(policies, one)
        assert said(engine, one) == expected
        assert engine.allows(one) is expected.allowed


@settings(max_examples=200)
@given(rules())
def test_the_index_never_misses_a_rule_that_fits(rule: Rule) -> None:
    policy = Authorization(namespace="shop", name="p", scope=Scope.GLOBAL, action=Action.ALLOW, rules=(rule,))
    index = RuleIndex([ReadyRule(rule, policy)])
    for facts in every_connection(Destination("shop")):
        assert (index.first(facts) is not None) is reference.rule_fits(rule, Action.ALLOW, facts)


@given(constraints(), connections())
def test_a_constraint_holds_as_the_reference_has_it(constraint: Constraint, facts: ConnectionFacts) -> None:
    for one in callers_of(facts):
        assert predicate(constraint)(one) is reference.constraint_holds(constraint, one)


@settings(max_examples=60)
@given(policy_sets(), policy_sets(), connections())
def test_a_change_leaves_the_same_engine_as_a_new_one(
    before: Policies, after: Policies, facts: ConnectionFacts
) -> None:
    engine = PolicyEngine(before)
    engine.judge(facts)
    engine.replace(after)
    assert said(engine, facts) == said(PolicyEngine(after), facts)


@settings(max_examples=60)
@given(policy_sets(), st.lists(connections(), max_size=8), st.integers(1, 4))
def test_a_recheck_finds_those_that_are_denied(policies: Policies, facts: list[ConnectionFacts], chunk: int) -> None:
    engine = PolicyEngine(policies)
    steps = list(engine.recheck(enumerate(facts), chunk=chunk))
    assert len(steps) == -(-len(facts) // chunk)
    denied = {handle for step in steps for handle, _ in step}
    assert denied == {number for number, one in enumerate(facts) if not engine.allows(one)}


@settings(max_examples=60)
@given(policy_sets(), connections())
def test_dry_run_and_audit_never_change_a_verdict(policies: Policies, facts: ConnectionFacts) -> None:
    enforced = tuple(p for p in policies if not p.dry_run and p.action is not Action.AUDIT)
    missing = {p.key for p in policies} - {p.key for p in enforced}
    known = tuple(key for key in facts.destination.policies if key not in missing)
    without = facts._replace(destination=facts.destination._replace(policies=known))
    assert PolicyEngine(policies).allows(facts) is PolicyEngine(enforced).allows(without)


@settings(max_examples=60)
@given(policy_sets(), connections())
def test_what_a_dry_run_foretells_is_what_happens_once_it_is_enforced(
    policies: Policies, facts: ConnectionFacts
) -> None:
    observed = PolicyEngine(policies).judge(facts).observed
    if observed is not None:
        enforced = tuple(replace(policy, dry_run=False) for policy in policies)
        assert observed.would is PolicyEngine(enforced).judge(facts).verdict


@settings(max_examples=60)
@given(policy_sets(), connections(), constraints(), st.data())
def test_a_narrower_allow_never_lets_more_in(
    policies: Policies, facts: ConnectionFacts, extra: Constraint, data: st.DataObject
) -> None:
    allowing = [p for p in policies if p.action is Action.ALLOW and p.rules]
    if not allowing:
        return
    policy = data.draw(st.sampled_from(allowing))
    number = data.draw(st.integers(0, len(policy.rules) - 1))
    clause = Clause((Match((extra,)),))
    narrow = replace(policy.rules[number], clauses=(*policy.rules[number].clauses, clause))
    rules = (*policy.rules[:number], narrow, *policy.rules[number + 1 :])
    narrower = tuple(replace(p, rules=rules) if p is policy else p for p in policies)
    assert not (PolicyEngine(narrower).allows(facts) and not PolicyEngine(policies).allows(facts))


@settings(max_examples=60)
@given(policy_sets(), connections(), authorizations("zone/extra"))
def test_another_deny_never_lets_more_in(policies: Policies, facts: ConnectionFacts, extra: Authorization) -> None:
    more = (*policies, replace(extra, action=Action.DENY))
    assert not (PolicyEngine(more).allows(facts) and not PolicyEngine(policies).allows(facts))


@settings(max_examples=60)
@given(policy_sets(), connections(), st.data())
def test_what_is_not_understood_never_lets_more_in(
    policies: Policies, facts: ConnectionFacts, data: st.DataObject
) -> None:
    if not any(policy.rules for policy in policies):
        return
    policy = data.draw(st.sampled_from([p for p in policies if p.rules]))
    rules = (replace(policy.rules[0], unknown="field 99"), *policy.rules[1:])
    newer = tuple(replace(p, rules=rules) if p is policy else p for p in policies)
    assert not (PolicyEngine(newer).allows(facts) and not PolicyEngine(policies).allows(facts))


def without_repeats(policy: Authorization) -> Authorization:
    """As the wire brings it back: constraints in the table's order."""
    order = list(Field)

    def match(one: Match) -> Match:
        return Match(tuple(sorted(one.constraints, key=lambda c: order.index(c.field))))

    def rule(one: Rule) -> Rule:
        return replace(one, clauses=tuple(Clause(tuple(map(match, c.matches))) for c in one.clauses), unknown=None)

    return replace(policy, rules=tuple(map(rule, policy.rules)))


@given(authorizations())
def test_a_policy_comes_back_from_the_local_form(policy: Authorization) -> None:
    known = replace(policy, rules=tuple(replace(rule, unknown=None) for rule in policy.rules))
    documents = parse_documents("p.json", json.dumps(plain_policy(known)))
    (back,) = parse_local_policies(documents)
    assert without_repeats(back) == without_repeats(known)


@given(authorizations())
def test_a_policy_comes_back_from_the_wire(policy: Authorization) -> None:
    policy = without_repeats(policy)
    if policy.action is Action.AUDIT:
        policy = replace(policy, dry_run=False)
    resource = policy_resource(policy)
    assert without_repeats(decode_policy(resource.name, resource.body)) == policy


@given(
    st.binary(max_size=120), authorizations(), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3)
)
def test_any_bytes_are_a_policy_or_a_reason(raw: bytes, policy: Authorization, changes: list[tuple[int, int]]) -> None:
    body = bytearray(policy_resource(replace(policy, dry_run=False)).body)
    for position, value in changes:
        body[position % len(body)] = value
    for attempt in (raw, bytes(body)):
        try:
            name = pb.Authorization.FromString(attempt)
        except DecodeError:
            continue
        try:
            decode_policy(f"{name.namespace}/{name.name}", attempt)
        except InvalidResource as error:
            assert error.what


# fmt: off
WORDS = [
    "apiVersion", "kind", "metadata", "name", "namespace", "spec", "selector", "matchLabels", "rules", "from", "to",
    "when", "source", "operation", "principals", "notPrincipals", "ipBlocks", "ports", "hosts", "key", "values",
    "notValues", "action", "mtls", "mode", "portLevelMtls", "jwtRules", "issuer", "targetRefs", "provider", "cases",
    "request", "claims", "serviceAccounts", "annotations", "istio.io/dry-run", "scope", "dryRun",
    "destinationPorts", "sourceIps",
]
TEXTS = [
    "security.istio.io/v1", "AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "ALLOW", "DENY",
    "CUSTOM", "STRICT", "a.b/ns/web/sa/x", "10.0.0.0/8", "*", "8080", "request.headers[x]", "source.ip", "true",
    "spiffe://a", "{**}", "/a/{*}/b", "shop", "Allow", "Global",
]
# fmt: on
SCALARS = st.one_of(st.sampled_from(TEXTS), st.none(), st.booleans(), st.integers(-5, 70000), st.text(max_size=6))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)


def in_manifest(kind: str, spec: object) -> object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "p", "namespace": "n"},
        "spec": spec,
    }


RULES = st.dictionaries(
    st.sampled_from(["from", "to", "when"]),
    st.lists(
        st.dictionaries(
            st.sampled_from(["source", "operation", "key", "values", "notValues"]),
            st.one_of(TREES, st.dictionaries(st.sampled_from(WORDS), st.lists(SCALARS, max_size=2), max_size=3)),
            max_size=2,
        ),
        max_size=2,
    ),
    max_size=3,
)
MANIFESTS = st.builds(
    in_manifest,
    st.sampled_from(["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"]),
    st.one_of(
        TREES,
        st.dictionaries(st.sampled_from(WORDS), TREES, max_size=4),
        st.fixed_dictionaries({"rules": st.lists(RULES)}),
    ),
)


@given(st.one_of(TREES, MANIFESTS))
def test_reading_raises_nothing_but_its_own_error(tree: object) -> None:
    try:
        documents: tuple[Document, ...] = parse_documents("f.yaml", json.dumps(tree))
    except InvalidConfiguration:
        return
    for read in (parse_policies, parse_local_policies, parse_tests):
        try:
            read(documents)
        except InvalidConfiguration as error:
            assert error.problems
            assert all(problem.fix for problem in error.problems)


@given(
    st.lists(
        st.one_of(
            st.text(), st.dictionaries(st.sampled_from(["scope", "message", "src.addr"]), SCALARS).map(json.dumps)
        )
    )
)
def test_no_line_of_a_log_is_an_error(lines: list[str]) -> None:
    read_traffic(lines)
    read_traffic(f"2026-01-01T00:00:00Z\tinfo\taccess\tconnection complete\t{line}" for line in lines)
