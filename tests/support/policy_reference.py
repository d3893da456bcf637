"""The policy engine as one would write it on a whiteboard: no index, no preparation, every rule tried in order.

What it says is what policies mean; the engine must say the same, faster.
"""

from collections.abc import Iterable
from typing import NamedTuple

from hbone.addr import Prefix
from hbone.policy.model import (
    Account,
    Action,
    Authorization,
    ConnectionFacts,
    Constraint,
    Field,
    Form,
    Match,
    Pattern,
    Rule,
    Scope,
    Value,
)


class Said(NamedTuple):
    """`policy` and `rule` are None where no single rule decided."""

    allowed: bool
    policy: str | None = None
    rule: int | None = None


def decide(policies: Iterable[Authorization], facts: ConnectionFacts) -> Said:
    """The verdict of all policies that are for the destination, none of them a dry run."""
    mine = sorted((policy for policy in policies if is_for(policy, facts)), key=lambda policy: policy.key)
    enforced = [policy for policy in mine if not policy.dry_run]
    for policy in enforced:
        number = fitting_rule(policy, facts)
        if policy.action is Action.DENY and number is not None:
            return Said(False, policy.key, number)
    held = {policy.key for policy in policies}
    for key in facts.destination.policies:
        if key not in held:
            return Said(False, key)
    allowing = [policy for policy in enforced if policy.action is Action.ALLOW]
    for policy in allowing:
        number = fitting_rule(policy, facts)
        if number is not None:
            return Said(True, policy.key, number)
    return Said(not allowing)


def is_for(policy: Authorization, facts: ConnectionFacts) -> bool:
    if policy.scope is Scope.GLOBAL or policy.key in facts.destination.policies:
        return True
    return policy.scope is Scope.NAMESPACE and policy.namespace == facts.destination.namespace


def fitting_rule(policy: Authorization, facts: ConnectionFacts) -> int | None:
    for rule in policy.rules:
        if rule_fits(rule, policy.action, facts):
            return rule.number
    return None


def rule_fits(rule: Rule, action: Action, facts: ConnectionFacts) -> bool:
    if rule.unknown is not None:
        return action is Action.DENY
    for clause in rule.clauses:
        if clause.matches and not any(match_holds(match, facts) for match in clause.matches):
            return False
    return True


def match_holds(match: Match, facts: ConnectionFacts) -> bool:
    if not match.constraints:
        return False
    return all(constraint_holds(constraint, facts) for constraint in match.constraints)


def constraint_holds(constraint: Constraint, facts: ConnectionFacts) -> bool:
    allowed = not constraint.allowed or any(value_fits(constraint.field, v, facts) for v in constraint.allowed)
    refused = any(value_fits(constraint.field, value, facts) for value in constraint.refused)
    return allowed and not refused


def value_fits(field: Field, value: Value, facts: ConnectionFacts) -> bool:
    identity = facts.caller.identity
    workload = identity.workload if identity is not None else None
    match field, value:
        case Field.PRINCIPALS, Pattern():
            return pattern_fits(value, str(identity)[len("spiffe://") :] if identity is not None else "")
        case Field.NAMESPACES, Pattern():
            return pattern_fits(value, workload[0] if workload is not None else "")
        case Field.TRUST_DOMAINS, Pattern():
            return pattern_fits(value, identity.trust_domain if identity is not None else "")
        case Field.SERVICE_ACCOUNTS, Account():
            return workload is not None and workload == (value.namespace, value.service_account)
        case Field.SOURCE_IPS, Prefix():
            return facts.source_ip is not None and facts.source_ip in value
        case Field.DESTINATION_IPS, Prefix():
            return facts.destination_ip is not None and facts.destination_ip in value
        case Field.DESTINATION_PORTS, int():
            return facts.destination_port == value
        case _:
            raise AssertionError((field, value))


def pattern_fits(pattern: Pattern, text: str) -> bool:
    if text == "":
        return False
    match pattern.form:
        case Form.EXACT:
            return text == pattern.text
        case Form.PREFIX:
            return text[: len(pattern.text)] == pattern.text
        case Form.SUFFIX:
            return text.endswith(pattern.text)
        case Form.PRESENT:
            return True
