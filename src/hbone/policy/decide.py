"""The engine: which of the policies in force lets a connection pass, or keeps it out.

DENY before ALLOW: a DENY that fits denies; else, where nothing allows by rule, everything passes; else an ALLOW must
fit. Among several that fit, the first by name is named, so that one question has one answer. AUDIT and dry-run
policies never change a verdict: they are reported beside it.

Policies are found by the destination: those for everybody, those for its namespace, those it names. Each of these
groups has an index of its own, built when it is first asked for and kept until one of its policies changes.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from enum import Enum
from itertools import islice
from typing import Final, TypeVar

from hbone.policy.index import ReadyRule, RuleIndex
from hbone.policy.model import Action, Authorization, ConnectionFacts, Destination, Scope
from hbone.policy.verdict import NO_ALLOW_POLICIES, NOT_ALLOWED, Decision, Hit, Observed, Reason, Verdict
from hbone.values import dataclass

_Handle = TypeVar("_Handle")

CHUNK: Final = 128
"""Connections judged between two breaths of the loop: well below 1 ms, so that an index may be built meanwhile."""
_MAX_DESTINATIONS: Final = 65536
_EVERYBODY: Final = 0
_GroupKey = int | str | tuple[str, ...]
"""Of the policies for everybody (0), for a namespace, or of those that a workload names."""


class Missing(Enum):
    """What a destination that names a policy which is not there gets."""

    DENY = "deny"
    SKIP = "skip"


class _Ready:
    """A policy in force, its rules ready to be tried."""

    __slots__ = ("policy", "rules")

    def __init__(self, policy: Authorization) -> None:
        self.policy = policy
        self.rules = tuple(ReadyRule(rule, policy) for rule in policy.rules)


class _Group:
    """The policies of one scope, by what they do; an index is None where there is no policy of the kind."""

    __slots__ = ("allow", "audit", "deny", "dry_allow", "dry_deny", "first_dry_allow")

    def __init__(self, policies: Collection[_Ready]) -> None:
        enforced = [one for one in policies if not one.policy.dry_run]
        dry = [one for one in policies if one.policy.dry_run]
        self.deny = _index(enforced, Action.DENY)
        self.allow = _index(enforced, Action.ALLOW)
        self.dry_deny = _index(dry, Action.DENY)
        self.dry_allow = _index(dry, Action.ALLOW)
        self.audit = _index(policies, Action.AUDIT)
        self.first_dry_allow = min((one.policy.key for one in dry if one.policy.action is Action.ALLOW), default=None)


def _index(policies: Iterable[_Ready], action: Action) -> RuleIndex | None:
    mine = [one for one in policies if one.policy.action is action]
    return RuleIndex(rule for one in mine for rule in one.rules) if mine else None


class _Ruleset:
    """All that holds for one destination."""

    __slots__ = ("allow", "audit", "deny", "dry_allow", "dry_deny", "first_dry_allow", "missing", "watches")

    def __init__(self, groups: Collection[_Group], missing: str | None) -> None:
        self.deny = tuple(group.deny for group in groups if group.deny is not None)
        self.allow = tuple(group.allow for group in groups if group.allow is not None)
        self.dry_deny = tuple(group.dry_deny for group in groups if group.dry_deny is not None)
        self.dry_allow = tuple(group.dry_allow for group in groups if group.dry_allow is not None)
        self.audit = tuple(group.audit for group in groups if group.audit is not None)
        self.first_dry_allow = min((g.first_dry_allow for g in groups if g.first_dry_allow is not None), default=None)
        self.missing = (
            None if missing is None else Decision(verdict=Verdict.DENY, reason=Reason.POLICY_MISSING, policy=missing)
        )
        self.watches = bool(self.dry_deny or self.dry_allow or self.audit)


@dataclass(slots=True)
class DryRunCount:
    """How often a dry-run policy would have decided otherwise than was decided, and how often it fitted."""

    fitted: int = 0
    would_deny: int = 0
    would_allow: int = 0


class PolicyEngine:
    """Judges connections by the policies in force. Not thread-safe; nothing here waits.

    `version` grows with every change. `dry_run` counts by policy key what dry-run policies would have done to the
    connections that were judged (not to those that were judged again); `audited` how often an AUDIT policy fitted.
    """

    def __init__(self, policies: Iterable[Authorization] = (), *, missing: Missing = Missing.DENY) -> None:
        self.version = 0
        self.dry_run: dict[str, DryRunCount] = {}
        self.audited: dict[str, int] = {}
        self._missing = missing
        self._policies: dict[str, _Ready] = {}
        self._groups: dict[_GroupKey, _Group] = {}
        self._rulesets: dict[Destination, _Ruleset] = {}
        if policies:
            self.replace(policies)

    # policies

    @property
    def policies(self) -> tuple[Authorization, ...]:
        """All in force, by key."""
        return tuple(self._policies[key].policy for key in sorted(self._policies))

    def replace(self, policies: Iterable[Authorization]) -> bool:
        """Make these all that is in force; True if anything is different from before."""
        wanted = {policy.key: policy for policy in policies}
        gone = [key for key in self._policies if key not in wanted]
        return self.apply(wanted.values(), gone)

    def apply(self, changed: Iterable[Authorization] = (), removed: Iterable[str] = ()) -> bool:
        """Put these in force, and take those keys out; True if anything is different from before.

        All of it is in force when this returns: a verdict never sees half of a change.
        """
        touched: list[Authorization] = []
        for key in removed:
            former = self._policies.pop(key, None)
            if former is not None:
                touched.append(former.policy)
                self.dry_run.pop(key, None)  # policies come and go; counts of those that went would pile up
                self.audited.pop(key, None)
        for policy in changed:
            former = self._policies.get(policy.key)
            if former is not None and former.policy == policy:
                continue
            touched += [policy] if former is None else [policy, former.policy]
            self._policies[policy.key] = _Ready(policy)
        if touched:
            self._forget(touched)
            self.version += 1
        return bool(touched)

    def _forget(self, touched: Iterable[Authorization]) -> None:
        """Drops what was built from policies that are no longer the same."""
        self._rulesets.clear()
        keys = {policy.key for policy in touched}
        scopes = {_scope_of(policy) for policy in touched}
        stale = [g for g in self._groups if (not keys.isdisjoint(g) if isinstance(g, tuple) else g in scopes)]
        for group in stale:
            del self._groups[group]
        order = 0
        for key in sorted(self._policies):
            for rule in self._policies[key].rules:
                rule.order = order
                order += 1

    # verdicts

    def judge(self, facts: ConnectionFacts) -> Decision:
        """The verdict on a new connection."""
        ruleset = self._rulesets.get(facts.destination) or self._ruleset(facts.destination)
        decision = _decide(ruleset, facts)
        if ruleset.watches:
            observed = _observed(ruleset, facts, decision)
            self._count(observed, decision)
            return replace(decision, observed=observed)
        return decision

    def allows(self, facts: ConnectionFacts) -> bool:
        """The verdict alone; nothing is counted."""
        ruleset = self._rulesets.get(facts.destination) or self._ruleset(facts.destination)
        return _decide(ruleset, facts).verdict is Verdict.ALLOW

    def recheck(
        self, connections: Iterable[tuple[_Handle, ConnectionFacts]], *, chunk: int = CHUNK
    ) -> Iterator[list[tuple[_Handle, Decision]]]:
        """Those among open connections that are no longer allowed, `chunk` connections at a time.

        Each step judges the next ones by what is in force then and yields the denied ones, often none: let the loop
        breathe between steps. `connections` is walked as it goes, so hand in a copy, with the destination of each
        as it is now.
        """
        remaining = iter(connections)
        while part := list(islice(remaining, chunk)):
            denied: list[tuple[_Handle, Decision]] = []
            for handle, facts in part:
                ruleset = self._rulesets.get(facts.destination) or self._ruleset(facts.destination)
                decision = _decide(ruleset, facts)
                if decision.verdict is Verdict.DENY:
                    denied.append((handle, decision))
            yield denied

    def applicable(self, destination: Destination) -> tuple[Authorization, ...]:
        """The policies that hold for a destination, by key."""
        named = set(destination.policies)
        return tuple(
            policy
            for policy in self.policies
            if policy.scope is Scope.GLOBAL
            or (policy.scope is Scope.NAMESPACE and policy.namespace == destination.namespace)
            or policy.key in named
        )

    def _ruleset(self, destination: Destination) -> _Ruleset:
        if len(self._rulesets) >= _MAX_DESTINATIONS:
            self._rulesets.clear()
            self._groups.clear()
        named = tuple(destination.policies)
        missing = next((key for key in named if key not in self._policies), None)
        groups = [self._group(_EVERYBODY), self._group(destination.namespace), self._group(named)]
        made = _Ruleset(groups, missing if self._missing is Missing.DENY else None)
        self._rulesets[destination] = made
        return made

    def _group(self, scope: _GroupKey) -> _Group:
        group = self._groups.get(scope)
        if group is None:
            if isinstance(scope, tuple):
                members = [self._policies[key] for key in scope if key in self._policies]
            else:
                members = [one for one in self._policies.values() if _scope_of(one.policy) == scope]
            group = self._groups[scope] = _Group(members)
        return group

    def _count(self, observed: Observed, decision: Decision) -> None:
        for hit in observed.audit:
            self.audited[hit.policy] = self.audited.get(hit.policy, 0) + 1
        for hit in observed.dry_run:
            self.dry_run.setdefault(hit.policy, DryRunCount()).fitted += 1
        if observed.would_by is not None:
            count = self.dry_run.setdefault(observed.would_by, DryRunCount())
            if observed.would is Verdict.DENY:
                count.would_deny += 1
            else:
                count.would_allow += 1


def _scope_of(policy: Authorization) -> _GroupKey | None:
    """The group that a policy is in by itself: everybody's, a namespace's by its name, or none."""
    match policy.scope:
        case Scope.GLOBAL:
            return _EVERYBODY
        case Scope.NAMESPACE:
            return policy.namespace
        case Scope.WORKLOAD_SELECTOR:
            return None


def _first(indexes: tuple[RuleIndex, ...], facts: ConnectionFacts) -> ReadyRule | None:
    best: ReadyRule | None = None
    for index in indexes:
        found = index.first(facts)
        if found is not None and (best is None or found.order < best.order):
            best = found
    return best


def _decide(ruleset: _Ruleset, facts: ConnectionFacts) -> Decision:
    if ruleset.deny:
        found = _first(ruleset.deny, facts)
        if found is not None:
            return found.decision
    if ruleset.missing is not None:
        return ruleset.missing
    if not ruleset.allow:
        return NO_ALLOW_POLICIES
    found = _first(ruleset.allow, facts)
    return NOT_ALLOWED if found is None else found.decision


def _observed(ruleset: _Ruleset, facts: ConnectionFacts, decision: Decision) -> Observed:
    deny = _fitting(ruleset.dry_deny, facts)
    allow = _fitting(ruleset.dry_allow, facts)
    would, would_by = decision.verdict, None
    if decision.reason not in {Reason.DENIED, Reason.POLICY_MISSING}:
        if deny:
            would, would_by = Verdict.DENY, deny[0].policy
        elif allow:
            would, would_by = Verdict.ALLOW, allow[0].policy
        elif ruleset.dry_allow and decision.reason is Reason.NO_ALLOW_POLICIES:
            would, would_by = Verdict.DENY, ruleset.first_dry_allow
    return Observed(
        audit=_fitting(ruleset.audit, facts),
        dry_run=(*deny, *allow),
        would=would,
        would_by=would_by if would is not decision.verdict else None,
    )


def _fitting(indexes: tuple[RuleIndex, ...], facts: ConnectionFacts) -> tuple[Hit, ...]:
    """One rule of each policy that fits."""
    found: dict[str, ReadyRule] = {}
    for index in indexes:
        for rule in sorted(index.candidates(facts), key=_order):
            if rule.policy not in found and rule.fits(facts):
                found[rule.policy] = rule
    return tuple(Hit(rule.policy, rule.rule.number, rule.rule.place) for _, rule in sorted(found.items()))


def _order(rule: ReadyRule) -> int:
    return rule.order
