"""Explanations from policies as a node holds them, without the manifests they were made of."""

from hbone.policy.compile import CONVERTED, STATIC_STRICT
from hbone.policy.explain import AUTHORIZATION, PEER, Explanation, PolicyNote
from hbone.policy.manifests import Mode
from hbone.policy.match import Layer
from hbone.policy.model import ANONYMOUS, Authorization, ConnectionFacts, Destination, Scope
from hbone.policy.reasons import fitting, why_not, why_not_decisive
from hbone.policy.verdict import Decision


def explain_held(policies: tuple[Authorization, ...], facts: ConnectionFacts, decision: Decision) -> Explanation:
    """`policies` are all that the node holds, `decision` its verdict."""
    notes = tuple(_note(policy, facts, decision) for policy in policies)
    strict = _takes_no_plaintext(policies, facts)
    decided = next((note for note in notes if note.decides), None)
    return Explanation(
        verdict=decision.verdict,
        reason=str(decision),
        kind=decided.kind if decided is not None else None,
        policy=decision.policy,
        rule=decision.rule,
        place=decision.place,
        mtls=Mode.STRICT if strict else Mode.PERMISSIVE,
        layer=Layer.L4,
        decision=decision,
        policies=notes,
    )


def _note(policy: Authorization, facts: ConnectionFacts, decision: Decision) -> PolicyNote:
    number = fitting(policy, facts) if holds(policy, facts.destination) else None
    decides = decision.policy == policy.key
    if not holds(policy, facts.destination):
        wide = policy.scope is Scope.NAMESPACE
        why = f"is for namespace {policy.namespace}" if wide else "is not named by the workload"
    elif number is not None:
        why = f"rule {number} fits: {'decides' if decides else why_not_decisive(policy, decision)}"
    else:
        why = "; ".join(why_not(rule, rule, facts) for rule in policy.rules)
    return PolicyNote(
        kind=PEER if _is_converted(policy) else AUTHORIZATION,
        policy=policy.key,
        action=f"{policy.action.name}, dry run" if policy.dry_run else policy.action.name,
        place=policy.place,
        applies=holds(policy, facts.destination),
        fits=number,
        decides=decides,
        why=why or "has no rules, so it fits nothing",
    )


def holds(policy: Authorization, destination: Destination) -> bool:
    """Whether a policy is for a destination."""
    if policy.key in destination.policies or policy.scope is Scope.GLOBAL:
        return True
    return policy.scope is Scope.NAMESPACE and policy.namespace == destination.namespace


def _is_converted(policy: Authorization) -> bool:
    return policy.name.startswith((STATIC_STRICT, CONVERTED))


def _takes_no_plaintext(policies: tuple[Authorization, ...], facts: ConnectionFacts) -> bool:
    """Whether what STRICT was turned into refuses a peer without identity at this port."""
    plain = facts._replace(caller=ANONYMOUS)
    strict = [one for one in policies if _is_converted(one) and holds(one, facts.destination)]
    return any(fitting(one, plain) is not None for one in strict)
