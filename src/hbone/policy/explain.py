"""The verdict on a connection in words: what decided, and for every other policy why it did not."""

from dataclasses import replace

from hbone.policy.manifests import AuthorizationPolicy, Mode, PeerAuthentication
from hbone.policy.match import Layer
from hbone.policy.model import Action, Authorization, ConnectionFacts, Transport
from hbone.policy.peerauth import Effective
from hbone.policy.reasons import fitting, why_not, why_not_decisive
from hbone.policy.verdict import Decision, Reason, Verdict
from hbone.policy.world import Question, World
from hbone.values import dataclass

AUTHORIZATION, PEER = "AuthorizationPolicy", "PeerAuthentication"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNote:
    """One policy and its part in the verdict. `fits` is the number of the rule that fits, None where none does."""

    kind: str
    policy: str
    action: str
    place: str | None
    applies: bool
    fits: int | None = None
    decides: bool = False
    why: str

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "policy": self.policy,
            "action": self.action,
            "place": self.place,
            "applies": self.applies,
            "fits": self.fits,
            "decides": self.decides,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`policy`, `rule` and `place` are what decided; None where no single one did. `notes` are for the reader."""

    verdict: Verdict
    reason: str
    kind: str | None = None
    policy: str | None = None
    rule: int | None = None
    place: str | None = None
    mtls: Mode
    layer: Layer
    decision: Decision
    policies: tuple[PolicyNote, ...]
    notes: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW

    def to_json(self) -> dict[str, object]:
        observed = self.decision.observed
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "policy": self.policy,
            "rule": self.rule,
            "mtls": self.mtls.value,
            "kind": self.kind,
            "place": self.place,
            "layer": self.layer.value,
            "would": observed.would.value if observed is not None else self.verdict.value,
            "dry_run": [str(hit) for hit in observed.dry_run] if observed is not None else [],
            "audit": [str(hit) for hit in observed.audit] if observed is not None else [],
            "notes": list(self.notes),
            "policies": [note.to_json() for note in self.policies],
        }


def explain(world: World, question: Question) -> Explanation:
    """As a node would decide; with a request, as a proxy before the workload that reads requests would."""
    layer = Layer.L4 if question.request is None else Layer.L7
    facts = world.facts(question, layer)
    decision = world.engine(layer).judge(facts)
    effective = world.compiled(layer).peers.of_workload(question.subject)
    said = Explanation(
        verdict=decision.verdict,
        reason="",
        mtls=effective.at(question.port),
        layer=layer,
        decision=decision,
        policies=(*_policy_notes(world, question, facts, decision), *_peer_notes(world, question, effective)),
        notes=tuple(_notes(world, question, decision)),
    )
    return _with_reason(said, world, question, effective)


def _with_reason(said: Explanation, world: World, question: Question, effective: Effective) -> Explanation:
    decision, subject = said.decision, question.subject
    match decision.reason:
        case Reason.NO_ALLOW_POLICIES:
            return replace(said, reason=f"no DENY fits, and no ALLOW policy applies to {subject.key}: all may pass")
        case Reason.NOT_ALLOWED:
            engine, facts = world.engine(said.layer), world.facts(question, said.layer)
            allow = [p for p in engine.applicable(facts.destination) if p.action is Action.ALLOW and not p.dry_run]
            names = ", ".join(policy.key for policy in allow)
            return replace(said, reason=f"ALLOW policies apply to {subject.key}, and no rule of theirs fits: {names}")
        case Reason.POLICY_MISSING:
            return replace(said, reason=str(decision), policy=decision.policy)
        case Reason.ALLOWED | Reason.DENIED:
            pass
    source = world.compiled(said.layer).sources.get(decision.policy or "")
    if isinstance(source, AuthorizationPolicy):
        verb = "denied" if decision.verdict is Verdict.DENY else "allowed"
        reason = f"{verb} by rule {decision.rule} of {source.key}"
        return replace(
            said, reason=reason, kind=AUTHORIZATION, policy=source.key, rule=decision.rule, place=decision.place
        )
    by = effective.decided_by(question.port)
    reason = f"port {question.port} takes mutual TLS only (STRICT), and the connection proves no identity"
    key = by.key if by is not None else decision.policy
    return replace(
        said,
        reason=reason,
        kind=PEER,
        policy=key,
        place=by.place if by is not None else None,
        policies=tuple(replace(n, decides=True) if (n.kind, n.policy) == (PEER, key) else n for n in said.policies),
    )


def _notes(world: World, question: Question, decision: Decision) -> list[str]:
    notes: list[str] = []
    subject = question.subject
    if subject.transport is Transport.PLAINTEXT:
        notes.append(f"{subject.key} speaks no HBONE: no node stands before it, so nothing of this is enforced there")
    observed = decision.observed
    if observed is not None and observed.would is not decision.verdict:
        notes.append(f"without dry run the verdict would be {observed.would.value}, by {observed.would_by}")
    if question.request is not None:
        plain = world.engine().judge(world.facts(question))
        if plain.verdict is not decision.verdict:
            notes.append(f"a node alone, which sees no requests, would {plain.verdict.value}: {plain}")
    if question.source_ip is None:
        notes.append("the source address is not known, so no rule on addresses can fit: give one")
    return notes


# authorization policies


def _policy_notes(world: World, question: Question, facts: ConnectionFacts, decision: Decision) -> list[PolicyNote]:
    compiled = world.compiled(decision_layer(question))
    made = {authorization.key: authorization for authorization in compiled.authorizations}
    notes: list[PolicyNote] = []
    for policy in sorted(world.policies.authorization, key=lambda one: one.key):
        authorization = made.get(policy.key)
        absent = _why_not_applied(policy, authorization, question, world, facts)
        if absent is not None or authorization is None:
            notes.append(_note(policy, applies=False, why=absent or ""))
            continue
        notes.append(_applied(policy, authorization, facts, decision))
    return notes


def decision_layer(question: Question) -> Layer:
    return Layer.L4 if question.request is None else Layer.L7


def _note(policy: AuthorizationPolicy, *, applies: bool, why: str) -> PolicyNote:
    action = f"{policy.action.name}, dry run" if policy.dry_run else policy.action.name
    return PolicyNote(
        kind=AUTHORIZATION, policy=policy.key, action=action, place=policy.place, applies=applies, why=why
    )


def _why_not_applied(
    policy: AuthorizationPolicy,
    authorization: Authorization | None,
    question: Question,
    world: World,
    facts: ConnectionFacts,
) -> str | None:
    subject, root = question.subject, world.names.root_namespace
    targets = policy.selection.targets
    if targets:
        named = ", ".join(str(target) for target in targets)
        if authorization is None:
            return f"is for waypoints (targetRefs: {named}): nodes do not enforce it"
        return None if policy.key in facts.destination.policies else f"is for {named}, not before {subject.key}"
    if policy.selects(subject, root):
        return None
    if policy.namespace not in {subject.namespace, root}:
        return f"is for namespace {policy.namespace}"
    lacking = [f"{k}={v}" for k, v in policy.selection.labels.items() if subject.labels.get(k) != v]
    return f"selects {', '.join(lacking)}, which {subject.key} has not"


def _applied(
    policy: AuthorizationPolicy, authorization: Authorization, facts: ConnectionFacts, decision: Decision
) -> PolicyNote:
    number = fitting(authorization, facts)
    note = _note(policy, applies=True, why="")
    if number is not None:
        decides = decision.policy == policy.key
        why = "decides" if decides else why_not_decisive(authorization, decision)
        return replace(note, fits=number, decides=decides, why=f"rule {number} fits: {why}")
    if not policy.rules:
        return replace(note, why="has no rules, so it fits nothing")
    kept = {rule.number: rule for rule in authorization.rules}
    return replace(note, why="; ".join(why_not(rule, kept.get(rule.number), facts) for rule in policy.rules))


# peer authentications


def _peer_notes(world: World, question: Question, effective: Effective) -> list[PolicyNote]:
    return [
        PolicyNote(
            kind=PEER,
            policy=peer.key,
            action=peer.mode.value,
            place=peer.place,
            applies=peer.namespace in {question.subject.namespace, world.names.root_namespace}
            and peer.selection.takes_labels(question.subject.labels)
            and not (peer.selection.labels and peer.namespace == world.names.root_namespace),
            why=_peer_part(peer, world, question, effective),
        )
        for peer in sorted(world.compiled().peers.objects, key=lambda one: one.key)
    ]


def _peer_part(peer: PeerAuthentication, world: World, question: Question, effective: Effective) -> str:
    subject, root = question.subject, world.names.root_namespace
    by = effective.decided_by(question.port)
    older = {newer.key: first for newer, first in world.compiled().peers.ignored()}
    if peer.selection.labels and peer.namespace == root:
        return "has a selector in the root namespace, where that selects nobody"
    if peer.namespace not in {subject.namespace, root}:
        return f"is for namespace {peer.namespace}"
    if not peer.selection.takes_labels(subject.labels):
        return f"does not select {subject.key}"
    if by is peer:
        return f"sets port {question.port} to {effective.at(question.port).value}"
    if peer.key in older:
        return f"is ignored: {older[peer.key].key} is older"
    if peer.selection.labels and effective.workload is not None and peer is not effective.workload:
        return f"is ignored: {effective.workload.key} is older"
    if by is None or peer.mode is Mode.UNSET:
        return "leaves the mode unset"
    return f"asks for {peer.mode.value}, which {by.key} overrides"
