"""The engine: order of actions, shapes, what is missing, what only watches, and what open connections get."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hbone.errors import PolicyDenied
from hbone.policy.decide import Missing, PolicyEngine
from hbone.policy.index import ReadyRule, RuleIndex
from hbone.policy.model import (
    Action,
    Authorization,
    Clause,
    ConnectionFacts,
    Constraint,
    Destination,
    Field,
    Match,
    Request,
    Rule,
    Scope,
    closed,
)
from hbone.policy.verdict import Reason, Verdict
from tests.unit.policy.builders import constraint, facts, held, rule

WEB = rule(constraint(Field.NAMESPACES, "web"))
ANY = Rule()
NOBODY = Rule(clauses=(Clause((Match(),)),))


def judged(*policies: Authorization, **of: Any) -> tuple[bool, Reason, str | None]:
    decision = PolicyEngine(policies).judge(facts(**of))
    return decision.allowed, decision.reason, decision.policy


def test_without_policies_everything_passes() -> None:
    assert judged() == (True, Reason.NO_ALLOW_POLICIES, None)


def test_a_deny_rule_wins_over_an_allow_rule_for_the_same_caller() -> None:
    policies = held("a", WEB), held("b", WEB, action=Action.DENY)
    assert judged(*policies) == (False, Reason.DENIED, "shop/b")


def test_an_allow_that_fits_lets_pass_and_one_that_does_not_keeps_out() -> None:
    assert judged(held("a", WEB)) == (True, Reason.ALLOWED, "shop/a")
    assert judged(held("a", WEB), source="other/x") == (False, Reason.NOT_ALLOWED, None)


def test_any_allow_is_enough() -> None:
    assert judged(held("a", NOBODY), held("b", WEB))[0]


def test_a_deny_that_does_not_fit_changes_nothing() -> None:
    assert judged(held("a", WEB, action=Action.DENY), source="other/x") == (True, Reason.NO_ALLOW_POLICIES, None)


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        ((), False),
        ((ANY,), True),
        ((NOBODY,), False),
        ((Rule(clauses=(Clause(()),)),), True),
        ((Rule(clauses=(Clause((Match(), Match((constraint(Field.DESTINATION_PORTS, 8080),)))),)),), True),
        ((Rule(clauses=(Clause(()), Clause((Match(),)))),), False),
        ((NOBODY, ANY), True),
    ],
    ids=["no rules", "empty rule", "empty match", "empty clause", "empty match beside one", "and", "or"],
)
def test_emptiness_means_what_it_means_to_ztunnel(rules: tuple[Rule, ...], fits: bool) -> None:
    assert judged(held("a", *rules))[0] is fits
    assert judged(held("a", *rules, action=Action.DENY))[0] is not fits


def test_what_is_not_understood_never_allows_and_always_denies() -> None:
    newer = Rule(unknown="field 99 of Match is not known here")
    assert judged(held("a", newer)) == (False, Reason.NOT_ALLOWED, None)
    assert judged(held("a", newer, action=Action.DENY)) == (False, Reason.DENIED, "shop/a")
    narrowed = replace(newer, clauses=WEB.clauses)
    assert not judged(held("a", narrowed, action=Action.DENY), source="other/x")[0]
    assert judged(held("a", newer, action=Action.AUDIT))[0]


def test_in_place_of_an_unreadable_policy_everything_it_could_be_about_is_denied() -> None:
    assert not judged(closed("shop", "p", Scope.NAMESPACE, "broken"))[0]
    assert judged(closed("web", "p", Scope.NAMESPACE, "broken"))[0]


def test_the_first_by_name_is_named_among_those_that_fit() -> None:
    everywhere = replace(held("b", WEB, action=Action.DENY), namespace="a", scope=Scope.GLOBAL)
    selected = held("a", WEB, action=Action.DENY, scope=Scope.WORKLOAD_SELECTOR)
    wide = held("z", WEB, action=Action.DENY)
    assert judged(wide, selected, everywhere, named=("shop/a",))[2] == "a/b"
    assert judged(wide, selected, named=("shop/a",))[2] == "shop/a"
    assert judged(wide)[2] == "shop/z"


def test_a_decision_names_the_rule_and_its_place() -> None:
    engine = PolicyEngine(
        [held("a", rule(constraint(Field.NAMESPACES, "x"), number=0), replace(WEB, number=1, place="p.yaml:7"))]
    )
    decision = engine.judge(facts())
    assert (decision.rule, decision.place) == (1, "p.yaml:7")
    assert str(decision) == "explicitly allowed by: shop/a"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (held("a", WEB, action=Action.DENY), "explicitly denied by: shop/a"),
        (held("a", NOBODY), "allow policies exist, but none allowed"),
    ],
)
def test_a_denial_is_an_error_that_says_why(policy: Authorization, words: str) -> None:
    error = PolicyEngine([policy]).judge(facts()).denial()
    assert isinstance(error, PolicyDenied)
    assert (error.why, error.status, error.flag) == (words, 401, "DENY")


# whom policies are for


def test_scopes_reach_as_far_as_they_say() -> None:
    policies = (
        replace(held("all", WEB, action=Action.DENY, scope=Scope.GLOBAL), namespace="root"),
        held("here", rule(constraint(Field.DESTINATION_PORTS, 80)), action=Action.DENY),
        held("one", rule(constraint(Field.DESTINATION_PORTS, 81)), action=Action.DENY, scope=Scope.WORKLOAD_SELECTOR),
    )
    engine = PolicyEngine(policies)
    elsewhere = facts("x/y", port=80)._replace(destination=Destination("web"))
    assert not engine.allows(facts())
    assert not engine.allows(facts("x/y", port=80))
    assert engine.allows(elsewhere)
    assert engine.allows(facts("x/y", port=81))
    assert not engine.allows(facts("x/y", port=81, named=("shop/one",)))


def test_a_policy_that_a_workload_names_holds_whatever_its_scope() -> None:
    foreign = replace(held("p", WEB, action=Action.DENY), namespace="web")
    engine = PolicyEngine([foreign])
    assert engine.allows(facts())
    assert not engine.allows(facts(named=("web/p",)))
    assert [one.key for one in engine.applicable(facts(named=("web/p",)).destination)] == ["web/p"]
    assert engine.applicable(facts().destination) == ()


def test_a_policy_that_is_named_and_not_there_denies() -> None:
    assert judged(named=("shop/gone",)) == (False, Reason.POLICY_MISSING, "shop/gone")
    assert judged(held("a", ANY), named=("shop/gone",))[0] is False
    assert judged(held("a", ANY, action=Action.DENY), named=("shop/gone",))[1] is Reason.DENIED


def test_a_missing_policy_can_be_passed_over_as_ztunnel_does() -> None:
    assert PolicyEngine(missing=Missing.SKIP).allows(facts(named=("shop/gone",)))


# changes


def test_a_missing_policy_that_arrives_is_in_force() -> None:
    engine = PolicyEngine()
    asked = facts(named=("shop/p",))
    assert not engine.allows(asked)
    assert engine.apply([held("p", WEB, scope=Scope.WORKLOAD_SELECTOR)])
    assert engine.allows(asked)
    assert engine.apply(removed=["shop/p"])
    assert not engine.allows(asked)


def test_the_version_grows_with_changes_only() -> None:
    engine = PolicyEngine([held("p", WEB)])
    assert engine.version == 1
    assert not engine.apply([held("p", WEB)], removed=["shop/none"])
    assert engine.version == 1
    assert engine.apply([held("p", ANY)])
    assert engine.version == 2
    assert not engine.replace([held("p", ANY)])
    assert engine.replace([])
    assert (engine.version, engine.policies) == (3, ())


def test_a_policy_that_moves_to_another_scope_leaves_the_old_one() -> None:
    engine = PolicyEngine([replace(held("p", ANY, action=Action.DENY, scope=Scope.GLOBAL), namespace="root")])
    elsewhere = facts()._replace(destination=Destination("web"))
    assert not engine.allows(elsewhere)
    engine.apply([replace(held("p", ANY, action=Action.DENY), namespace="root")])
    assert engine.allows(elsewhere)
    assert not engine.allows(facts()._replace(destination=Destination("root")))


def test_what_was_prepared_for_many_destinations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbone.policy.decide._MAX_DESTINATIONS", 3)
    engine = PolicyEngine([held("p", WEB, action=Action.DENY, scope=Scope.GLOBAL)])
    for number in range(10):
        assert not engine.allows(facts()._replace(destination=Destination(f"n{number}")))


def test_order_holds_after_policies_came_and_went() -> None:
    engine = PolicyEngine([held("m", WEB)])
    engine.judge(facts())
    engine.apply([held("a", WEB), replace(held("z", WEB, scope=Scope.GLOBAL), namespace="a")])
    assert engine.judge(facts()).policy == "a/z"
    engine.apply(removed=["a/z"])
    assert engine.judge(facts()).policy == "shop/a"
    engine.apply(removed=["shop/a"])
    assert engine.judge(facts()).policy == "shop/m"


# open connections


def test_a_recheck_tells_step_by_step_who_must_go() -> None:
    engine = PolicyEngine([held("p", WEB, action=Action.DENY)])
    connections = [(number, facts() if number % 3 == 0 else facts("other/x")) for number in range(7)]
    steps = list(engine.recheck(connections, chunk=3))
    assert [[handle for handle, _ in step] for step in steps] == [[0], [3], [6]]
    assert {decision.policy for step in steps for _, decision in step} == {"shop/p"}


def test_a_recheck_goes_on_with_what_is_in_force_then() -> None:
    engine = PolicyEngine()
    steps = engine.recheck([(1, facts()), (2, facts())], chunk=1)
    assert next(steps) == []
    engine.apply([held("p", WEB, action=Action.DENY)])
    assert [handle for handle, _ in next(steps)] == [2]


def test_a_recheck_uses_the_destination_as_it_is_now() -> None:
    engine = PolicyEngine([held("p", WEB, action=Action.DENY, scope=Scope.WORKLOAD_SELECTOR)])
    before, now = facts(), facts(named=("shop/p",))
    assert [list(step) for step in engine.recheck([("c", before)])] == [[]]
    ((handle, _),) = next(engine.recheck([("c", now)]))
    assert handle == "c"


def test_a_recheck_of_nothing_takes_no_step() -> None:
    nothing: list[tuple[str, ConnectionFacts]] = []
    assert list(PolicyEngine().recheck(nothing)) == []


# policies that only watch


def test_a_dry_run_deny_is_counted_and_lets_pass() -> None:
    engine = PolicyEngine([held("p", WEB, action=Action.DENY, dry_run=True)])
    decision = engine.judge(facts())
    assert decision.allowed
    assert decision.observed is not None
    assert (decision.observed.would, decision.observed.would_by) == (Verdict.DENY, "shop/p")
    assert [str(hit) for hit in decision.observed.dry_run] == ["shop/p rule 0"]
    engine.judge(facts("other/x"))
    count = engine.dry_run["shop/p"]
    assert (count.fitted, count.would_deny, count.would_allow) == (1, 1, 0)


def test_a_dry_run_allow_would_deny_what_it_does_not_list() -> None:
    engine = PolicyEngine([held("p", WEB, dry_run=True)])
    decision = engine.judge(facts("other/x"))
    assert decision.allowed
    assert decision.observed is not None
    assert (decision.observed.would, decision.observed.would_by) == (Verdict.DENY, "shop/p")
    assert engine.dry_run["shop/p"].would_deny == 1
    fitting = engine.judge(facts()).observed
    assert fitting is not None
    assert (fitting.would, fitting.would_by) == (Verdict.ALLOW, None)


def test_a_dry_run_allow_would_allow_what_others_deny_by_omission() -> None:
    engine = PolicyEngine([held("a", NOBODY), held("p", WEB, dry_run=True)])
    decision = engine.judge(facts())
    assert not decision.allowed
    assert decision.observed is not None
    assert decision.observed.would is Verdict.ALLOW
    assert engine.dry_run["shop/p"].would_allow == 1


def test_a_dry_run_cannot_change_an_enforced_denial() -> None:
    engine = PolicyEngine([held("a", WEB, action=Action.DENY), held("p", ANY, dry_run=True)])
    observed = engine.judge(facts()).observed
    assert observed is not None
    assert (observed.would, observed.would_by) == (Verdict.DENY, None)


def test_an_audit_is_counted_by_policy_and_changes_nothing() -> None:
    engine = PolicyEngine([held("a", WEB, action=Action.AUDIT), held("b", ANY, action=Action.AUDIT, dry_run=True)])
    decision = engine.judge(facts())
    assert decision.allowed
    assert decision.observed is not None
    assert [hit.policy for hit in decision.observed.audit] == ["shop/a", "shop/b"]
    engine.judge(facts("other/x"))
    assert engine.audited == {"shop/a": 1, "shop/b": 2}


def test_a_verdict_alone_counts_nothing() -> None:
    engine = PolicyEngine([held("a", WEB, action=Action.AUDIT)])
    assert engine.allows(facts())
    assert engine.audited == {}


# cost


FOR_OTHERS: dict[str, Callable[[int], Constraint]] = {
    "principal": lambda n: constraint(Field.PRINCIPALS, f"cluster.local/ns/n{n}/sa/a"),
    "prefix": lambda n: constraint(Field.PRINCIPALS, f"cluster.local/ns/n{n}/sa/*"),
    "namespace": lambda n: constraint(Field.NAMESPACES, f"n{n}"),
    "port": lambda n: constraint(Field.DESTINATION_PORTS, 10_000 + n),
    "range": lambda n: constraint(Field.SOURCE_IPS, f"10.{n // 250}.{n % 250}.0/24"),
    "plaintext": lambda _: constraint(Field.PRINCIPALS, refused=("*",)),
}


@pytest.mark.parametrize("kind", FOR_OTHERS)
def test_rules_for_others_are_not_even_looked_at(kind: str) -> None:
    policies = [held(f"p{number}", rule(FOR_OTHERS[kind](number))) for number in range(1000)]
    index = RuleIndex(ReadyRule(one.rules[0], one) for one in policies)
    assert index.candidates(facts()) == []


def test_a_request_is_judged_by_the_same_engine() -> None:
    get = rule(constraint(Field.METHODS, "GET"))
    engine = PolicyEngine([held("p", get)])
    assert engine.allows(facts(seen=Request(method="GET")))
    assert not engine.allows(facts(seen=Request(method="PUT")))
    assert not engine.allows(facts())
