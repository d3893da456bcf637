"""What is valid, and still most likely not what anybody means. Needs the policies and the workloads together."""

from collections.abc import Callable, Iterator
from typing import Final

from hbone.policy.analyze import fits_all, may_fit_port, never_fits
from hbone.policy.compile import expand_principal, l7_names, with_trust_domains, without_requests
from hbone.policy.finding import Finding, Level, Says
from hbone.policy.lint_peers import CHECKS as PEER_CHECKS
from hbone.policy.manifests import AuthorizationPolicy
from hbone.policy.model import (
    Account,
    Action,
    Constraint,
    Field,
    Form,
    Pattern,
    Rule,
    Subject,
)
from hbone.policy.world import World, nearest_key


def lint(world: World) -> tuple[Finding, ...]:
    """Every finding, the gravest first, those of one level by place."""
    found = [finding for check in (*CHECKS, *PEER_CHECKS) for finding in check(world)]
    order = {level: number for number, level in enumerate(Level)}
    return tuple(sorted(dict.fromkeys(found), key=lambda one: (order[one.level], one.place, one.check)))


def _found(policy: AuthorizationPolicy, kind: tuple[Level, str], says: Says, rule: Rule | None = None) -> Finding:
    place = rule.place if rule is not None and rule.place else policy.place
    head = f"rule {rule.number} " if rule is not None else ""
    return Finding(level=kind[0], check=kind[1], policy=policy.key, place=place, what=head + says[0], fix=says[1])


def _selected(world: World, policy: AuthorizationPolicy) -> list[Subject]:
    root = world.names.root_namespace
    return [subject for subject in world.within_reach(policy.namespace) if policy.selects(subject, root)]


# policy by policy


def _never(world: World) -> Iterator[Finding]:
    for policy in world.policies.authorization:
        for rule in policy.rules:
            reason = never_fits(with_trust_domains(rule, world.names))
            if reason is not None:
                level = Level.ERROR if policy.action is Action.DENY else Level.WARNING
                what = f"can never fit: {reason}"
                yield _found(policy, (level, "never-fits"), (what, "correct or remove it"), rule)


def _l7(world: World) -> Iterator[Finding]:
    for policy in world.policies.authorization:
        if policy.selection.targets:
            continue
        for rule in policy.rules:
            asked = ", ".join(l7_names(rule))
            if not asked:
                continue
            kept = without_requests(rule, policy.action)
            fix = "name a waypoint's service in targetRefs, or ask only for callers, addresses and ports"
            if kept is None:
                what = f"asks for {asked}, which a node cannot see: it is left out, and allows nothing"
                yield _found(policy, (Level.WARNING, "l7-at-l4"), (what, fix), rule)
            elif never_fits(kept) is not None:
                what = f"asks for {asked}, which a node cannot see: nothing is left of it, and it denies nothing"
                yield _found(policy, (Level.ERROR, "l7-at-l4"), (what, fix), rule)
            else:
                what = f"asks for {asked}, which a node cannot see: it denies more than is written"
                yield _found(policy, (Level.WARNING, "l7-at-l4"), (what, fix), rule)


def _waypoint_only(world: World) -> Iterator[Finding]:
    for policy in world.policies.authorization:
        if policy.selection.targets:
            named = ", ".join(str(target) for target in policy.selection.targets)
            what = f"is for waypoints (targetRefs: {named}): nodes do not enforce it"
            yield _found(policy, (Level.WARNING, "waypoint-only"), (what, "select workloads by label, for nodes"))


def _empty_selector(world: World) -> Iterator[Finding]:
    for policy in world.policies.authorization:
        if policy.selection.empty_selector:
            what = "has a selector without labels: it is taken as none, so it is for everybody"
            yield _found(policy, (Level.WARNING, "empty-selector"), (what, "remove the selector, or give it labels"))


def _selects_nobody(world: World) -> Iterator[Finding]:
    for policy in world.policies.authorization if world.subjects else ():
        if not policy.selection.targets and not _selected(world, policy):
            where = f"namespace {policy.namespace}" if policy.namespace != world.names.root_namespace else "the mesh"
            labels = ", ".join(f"{key}={value}" for key, value in policy.selection.labels.items())
            what = f"selects nobody: no workload of {where}" + (f" has {labels}" if labels else "")
            yield _found(policy, (Level.WARNING, "selects-nobody"), (what, "correct the labels or the namespace"))


def _allows_nothing(world: World) -> Iterator[Finding]:
    """An ALLOW that makes everything else denied; most of all one that allows nothing itself."""
    for policy in world.policies.authorization:
        if policy.action is not Action.ALLOW or policy.selection.targets or policy.dry_run:
            continue
        kept = [r for rule in policy.rules if (r := without_requests(rule, Action.ALLOW)) is not None]
        whom = _whom(world, policy)
        if not policy.rules:
            what = f"has no rules: it allows nothing, so {whom} only what other policies allow"
            yield _found(policy, (Level.WARNING, "allows-nothing"), (what, "write rules, or rules: [{}] to allow all"))
        elif not kept:
            what = f"has no rule that a node can enforce: it allows nothing, and {whom} only what others allow"
            yield _found(policy, (Level.ERROR, "allows-nothing"), (what, "ask only for callers, addresses and ports"))
        elif not any(map(fits_all, kept)):
            what = f"makes everything else denied: {whom} only what ALLOW policies list"
            yield _found(policy, (Level.NOTE, "denies-the-rest"), (what, "list every caller that must get through"))


def _whom(world: World, policy: AuthorizationPolicy) -> str:
    selected = _selected(world, policy)
    if not world.subjects or len(selected) > 1:
        return f"{len(selected)} workloads take" if selected else "whom it selects takes"
    return f"{selected[0].key} takes" if selected else "whom it selects takes"


def _closed_ports(world: World) -> Iterator[Finding]:
    """Ports of workloads that some ALLOW policy closes to everybody."""
    allowed_by: dict[int, list[AuthorizationPolicy]] = {}  # by id: endpoints of one entry share their name
    for policy in world.policies.authorization:
        if policy.action is Action.ALLOW and not policy.dry_run:
            for subject in _selected(world, policy):
                allowed_by.setdefault(id(subject), []).append(policy)
    for subject in world.subjects:
        allowing = allowed_by.get(id(subject), [])
        rules = [r for policy in allowing for rule in policy.rules if (r := without_requests(rule, Action.ALLOW))]
        for port in sorted(subject.ports) if rules else ():
            if not any(may_fit_port(rule, port) for rule in rules):
                what = f"leaves port {port} of {subject.key} to nobody: no ALLOW rule fits it"
                yield _found(allowing[0], (Level.WARNING, "closed-port"), (what, f'add ports: ["{port}"] to a rule'))


def _unknown_callers(world: World) -> Iterator[Finding]:
    principals = {str(subject.identity).partition("://")[2] for subject in world.subjects}
    accounts = {Account(*w) for subject in world.subjects if (w := subject.identity.workload) is not None}
    namespaces = {account.namespace for account in accounts}
    for policy in world.policies.authorization if world.subjects else ():
        for rule in policy.rules:
            for constraint in _constraints(rule):
                for text, known, what in _named(constraint, world, principals, accounts, namespaces):
                    near = nearest_key(text, known)
                    fix = f"did you mean {near}?" if near else "correct it, or ignore this if it is yet to come"
                    says = (f"names {what} {text}, which no workload has", fix)
                    yield _found(policy, (Level.WARNING, "unknown-caller"), says, rule)


def _constraints(rule: Rule) -> Iterator[Constraint]:
    for clause in rule.clauses:
        for match in clause.matches:
            yield from match.constraints


def _named(
    constraint: Constraint,
    world: World,
    principals: set[str],
    accounts: set[Account],
    namespaces: set[str],
) -> Iterator[tuple[str, list[str], str]]:
    """Names of callers that nobody has, each with the names that somebody has, and what it is."""
    domains = world.names.trust_domains
    for value in (*constraint.allowed, *constraint.refused):
        match constraint.field, value:
            case Field.PRINCIPALS, Pattern(form=Form.EXACT, text=text):
                expanded = expand_principal(text, domains)
                ours = any(one.partition("/")[0] in domains for one in expanded)
                if ours and principals.isdisjoint(expanded):
                    yield text, sorted(principals), "the principal"
            case Field.SERVICE_ACCOUNTS, Account() if value not in accounts:
                yield str(value), sorted(map(str, accounts)), "the service account"
            case Field.NAMESPACES, Pattern(form=Form.EXACT, text=text) if text not in namespaces:
                yield text, sorted(namespaces), "the namespace"
            case _:
                pass


def _shadowed(world: World) -> Iterator[Finding]:
    """Policies that change nothing because another does all that they could."""
    policies = [p for p in world.policies.authorization if not p.selection.targets and not p.dry_run]
    near: dict[str, list[AuthorizationPolicy]] = {}
    for policy in policies:
        near.setdefault(policy.namespace, []).append(policy)
    for policy in policies:
        everywhere = near.get(world.names.root_namespace, []) if policy.namespace != world.names.root_namespace else []
        for other in (*near[policy.namespace], *everywhere):
            if other is policy or not _reaches_as_far(other, policy, world.names.root_namespace):
                continue
            if _same_reach(other, policy) and policy.key < other.key and _shadow(policy, other) is not None:
                continue  # each shadows the other: the later by name is reported
            what = _shadow(other, policy)
            if what is None:
                continue
            yield _found(policy, (Level.WARNING, "shadowed"), (what, f"remove it, or narrow {other.key}"))
            break


def _reaches_as_far(other: AuthorizationPolicy, policy: AuthorizationPolicy, root: str) -> bool:
    if other.namespace not in {policy.namespace, root}:
        return False
    return other.selection.labels.items() <= policy.selection.labels.items()


def _shadow(other: AuthorizationPolicy, policy: AuthorizationPolicy) -> str | None:
    """How `other` leaves nothing for `policy` to do, where it reaches as far."""
    whole = any(map(fits_all, other.rules))
    if other.action is Action.DENY and whole and policy.action is not Action.AUDIT:
        return f"has no effect: {other.key} denies everything"
    if other.action is policy.action and whole:
        return f"has no effect: {other.key} fits everything that it could fit"
    if other.action is policy.action and _rules_within(policy, other):
        return f"has no effect: {other.key} has the same rules"
    return None


def _same_reach(policy: AuthorizationPolicy, other: AuthorizationPolicy) -> bool:
    return other.namespace == policy.namespace and other.selection.labels == policy.selection.labels


def _rules_within(policy: AuthorizationPolicy, other: AuthorizationPolicy) -> bool:
    mine, theirs = ({(rule.clauses, rule.unknown) for rule in one.rules} for one in (policy, other))
    return bool(mine) and mine <= theirs


CHECKS: Final[tuple[Callable[[World], Iterator[Finding]], ...]] = (
    _never,
    _l7,
    _waypoint_only,
    _empty_selector,
    _selects_nobody,
    _allows_nothing,
    _closed_ports,
    _unknown_callers,
    _shadowed,
)
