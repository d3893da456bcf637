"""Why a policy did not decide, in words: which constraint of which rule does not hold for a connection."""

from hbone.policy.compile import l7_names
from hbone.policy.index import ReadyRule
from hbone.policy.model import Action, Authorization, Clause, ConnectionFacts, Match, Rule
from hbone.policy.verdict import Decision, Verdict
from hbone.policy.wording import failing


def fitting(policy: Authorization, facts: ConnectionFacts) -> int | None:
    """The number of the first rule that fits; None where none does."""
    return next((rule.number for rule in policy.rules if fits(rule, policy, facts)), None)


def fits(rule: Rule, authorization: Authorization, facts: ConnectionFacts) -> bool:
    ready = ReadyRule(rule, authorization)
    return not ready.never and ready.fits(facts)


def why_not_decisive(authorization: Authorization, decision: Decision) -> str:
    if authorization.action is Action.AUDIT:
        return "logged, nothing more"
    if authorization.dry_run:
        return "counted, nothing more, since it is a dry run"
    if authorization.action is Action.ALLOW and decision.verdict is Verdict.DENY:
        return f"but {decision.policy} denies, and DENY goes first"
    return f"so does {decision.policy}, which comes first by name"


def why_not(rule: Rule, kept: Rule | None, facts: ConnectionFacts) -> str:
    """Why a rule as written does not fit; `kept` is what is enforced of it."""
    place = f" ({rule.place})" if rule.place else ""
    head = f"rule {rule.number}{place}"
    asked = ", ".join(l7_names(rule))
    if kept is None:
        return f"{head} asks for {asked}, which a node cannot see: it is left out"
    if kept.unknown is not None:
        return f"{head} is not understood: {kept.unknown}"
    for clause in kept.clauses:
        reason = _why_clause_fails(clause, facts)
        if reason is not None:
            hidden = f" (without {asked}, which a node cannot see)" if asked and facts.request is None else ""
            return f"{head}: {reason}{hidden}"
    return f"{head} fits nothing"


def _why_clause_fails(clause: Clause, facts: ConnectionFacts) -> str | None:
    """The nearest miss among its matches; None when it holds."""
    misses: list[list[str]] = []
    for match in clause.matches:
        reasons = _misses(match, facts)
        if not reasons:
            return None
        misses.append(reasons)
    if not misses:
        return None
    nearest = min(misses, key=len)
    among = f"none of the {len(misses)} in {clause.name or 'a clause'} fits, the nearest: " if len(misses) > 1 else ""
    return among + " and ".join(nearest)


def _misses(match: Match, facts: ConnectionFacts) -> list[str]:
    if not match.constraints:
        return ["nothing of it can be told by a node, so it never fits"]
    return [reason for constraint in match.constraints if (reason := failing(constraint, facts)) is not None]
