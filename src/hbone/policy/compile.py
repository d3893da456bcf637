"""Policies as written → what nodes enforce, with Istio's names and rules.

A node sees connections, not requests. So an ALLOW (or AUDIT) rule that asks for anything of a request is left out:
it cannot be met. Of a DENY rule only those fields are left out; a match that is empty then never holds. STRICT
becomes a DENY of callers without identity. Names of trust domains are widened to the mesh's aliases.

With `Layer.L7` rules stay whole: that is what a proxy that reads requests enforces.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from hbone.policy.manifests import AuthorizationPolicy, Mode, PeerAuthentication, Policies
from hbone.policy.match import FIELDS, Kind, Layer, is_l7
from hbone.policy.model import (
    PRESENT,
    Action,
    Authorization,
    Clause,
    Constraint,
    Destination,
    Field,
    Form,
    Match,
    MeshNames,
    Pattern,
    Rule,
    Scope,
    Subject,
    Value,
)
from hbone.policy.peerauth import Effective, PeerAuthentications
from hbone.policy.selectors import BySelector
from hbone.values import dataclass

STATIC_STRICT: Final = "istio_converted_static_strict"
CONVERTED: Final = "converted_peer_authentication_"

_NO_IDENTITY: Final = Constraint(field=Field.PRINCIPALS, refused=(PRESENT,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What is in force. `authorizations` are sorted by key; `sources` has the policy each was made of, by key, as far
    as it was one."""

    names: MeshNames
    layer: Layer
    written: Policies
    peers: PeerAuthentications
    selectors: BySelector[AuthorizationPolicy]
    authorizations: tuple[Authorization, ...]
    sources: Mapping[str, AuthorizationPolicy | PeerAuthentication]

    def keys_for(self, subject: Subject) -> tuple[str, ...]:
        """The policies that a workload names: those that select it, sorted, then those for its STRICT ports."""
        root = self.names.root_namespace
        found = {
            policy.key
            for namespace in {subject.namespace, root}
            for policy in self.selectors.selecting(namespace, subject.labels)
        }
        if self.layer is Layer.L7:
            found |= {policy.key for policy in self.written.authorization if policy.targets(subject, root)}
        return (*sorted(found), *self._strict_keys(subject))

    def destination(self, subject: Subject) -> Destination:
        return Destination(subject.namespace, self.keys_for(subject))

    def _strict_keys(self, subject: Subject) -> tuple[str, ...]:
        effective = self.peers.of_workload(subject)
        if effective.exceptions and effective.workload is not None:
            return (_converted_key(effective.workload),)
        return (f"{self.names.root_namespace}/{STATIC_STRICT}",) if effective.mode is Mode.STRICT else ()


def compile_policies(policies: Policies, names: MeshNames, layer: Layer = Layer.L4) -> Compiled:
    """Everything that `policies` put in force."""
    peers = PeerAuthentications(policies.peer, names.root_namespace)
    made: dict[str, Authorization] = {}
    sources: dict[str, AuthorizationPolicy | PeerAuthentication] = {}
    for policy in policies.authorization:
        if policy.selection.targets and layer is Layer.L4:
            continue  # for waypoints alone
        made[policy.key] = _authorization(policy, names, layer)
        sources[policy.key] = policy
    for one in _strictness(peers):
        made[one.key] = one
    sources.update({_converted_key(peer): peer for peer in policies.peer if _converted_key(peer) in made})
    return Compiled(
        names=names,
        layer=layer,
        written=policies,
        peers=peers,
        selectors=BySelector(
            (p.namespace, p.selection.labels, p) for p in policies.authorization if p.selection.labels
        ),
        authorizations=tuple(made[key] for key in sorted(made)),
        sources=sources,
    )


def _scope(policy: AuthorizationPolicy, root_namespace: str) -> Scope:
    if policy.selection.labels or policy.selection.targets:
        return Scope.WORKLOAD_SELECTOR
    return Scope.GLOBAL if policy.namespace == root_namespace else Scope.NAMESPACE


def _authorization(policy: AuthorizationPolicy, names: MeshNames, layer: Layer) -> Authorization:
    rules = [with_trust_domains(rule, names) for rule in policy.rules]
    if layer is Layer.L4:
        rules = [kept for rule in rules if (kept := without_requests(rule, policy.action)) is not None]
    else:
        rules = [_with_unknown(rule) for rule in rules]
    return Authorization(
        namespace=policy.namespace,
        name=policy.name,
        scope=_scope(policy, names.root_namespace),
        action=policy.action,
        rules=tuple(rules),
        dry_run=policy.dry_run,
        place=policy.place,
    )


# requests


def l7_names(rule: Rule) -> tuple[str, ...]:
    """The fields of a rule that only requests have, sorted."""
    found = {FIELDS[c.field] for clause in rule.clauses for match in clause.matches for c in match.constraints}
    return tuple(sorted(row.source or row.operation or row.condition for row in found if row.layer is Layer.L7))


def without_requests(rule: Rule, action: Action) -> Rule | None:
    """What a node can enforce of a rule; None where that is nothing."""
    if not any(is_l7(c) for clause in rule.clauses for match in clause.matches for c in match.constraints):
        return rule
    if action is not Action.DENY:
        return None
    clauses = tuple(
        replace(
            clause,
            matches=tuple(Match(tuple(c for c in match.constraints if not is_l7(c))) for match in clause.matches),
        )
        for clause in rule.clauses
    )
    return replace(rule, clauses=clauses)


def _with_unknown(rule: Rule) -> Rule:
    """A rule on something that no proxy of ours can see fails closed."""
    constraints = [c for clause in rule.clauses for match in clause.matches for c in match.constraints]
    opaque = [c for c in constraints if FIELDS[c.field].kind is Kind.OPAQUE]
    return replace(rule, unknown=f"{FIELDS[opaque[0].field].subject} is not known here") if opaque else rule


# trust domains


def with_aliases(policy: Authorization, names: MeshNames) -> Authorization:
    """A policy that somebody else compiled, who does not know the aliases (istiod, for nodes)."""
    return replace(policy, rules=tuple(with_trust_domains(rule, names) for rule in policy.rules))


def with_trust_domains(rule: Rule, names: MeshNames) -> Rule:
    """Principals and trust domains that name the mesh's own domain, widened to its aliases."""
    known = names.trust_domains
    clauses = tuple(
        replace(
            clause,
            matches=tuple(Match(tuple(_widened(c, known) for c in match.constraints)) for match in clause.matches),
        )
        for clause in rule.clauses
    )
    return replace(rule, clauses=clauses)


def _widened(constraint: Constraint, known: tuple[str, ...]) -> Constraint:
    match constraint.field:
        case Field.PRINCIPALS:
            expand = expand_principal
        case Field.TRUST_DOMAINS:
            expand = _expand_trust_domain
        case _:
            return constraint

    def widened(values: Iterable[Value]) -> tuple[Value, ...]:
        found: dict[Value, None] = {}
        for value in values:
            texts = () if _is_nobodys(value) else expand(str(value), known)
            found |= dict.fromkeys(map(Pattern.parse, texts)) if texts else {value: None}
        return tuple(found)

    return replace(constraint, allowed=widened(constraint.allowed), refused=widened(constraint.refused))


def _is_nobodys(value: Value) -> bool:
    """An exact name with a "*", which others who compile can say: as text it would be read as a pattern."""
    return isinstance(value, Pattern) and value.form is Form.EXACT and "*" in value.text


def expand_principal(written: str, known: tuple[str, ...]) -> list[str]:
    """One principal as written → one for each known trust domain, if it names one of them or cluster.local."""
    parts = written.split("/")
    domain = parts[0]
    if len(parts) != 5 or domain == "*":
        return [written]
    if domain != "cluster.local" and not any(_domain_fits(domain, one) for one in known):
        return [written]
    rest = "/".join(parts[1:])
    return [written if domain.startswith("*") and one.endswith(domain[1:]) else f"{one}/{rest}" for one in known]


def _domain_fits(written: str, domain: str) -> bool:
    if written.startswith("*"):
        return domain.endswith(written[1:])
    if written.endswith("*"):
        return domain.startswith(written[:-1])
    return written == domain


def _expand_trust_domain(written: str, known: tuple[str, ...]) -> list[str]:
    return list(known) if written in known else [written]


# peer authentication


def _converted_key(peer: PeerAuthentication) -> str:
    return f"{peer.namespace}/{CONVERTED}{peer.name}"


def _strictness(peers: PeerAuthentications) -> list[Authorization]:
    """The policies that refuse plaintext where it must not be."""
    if not peers.objects:
        return []
    strict = Rule(clauses=(_clause(_NO_IDENTITY),))
    made = [_deny(peers.root_namespace, STATIC_STRICT, (strict,), None)]
    for peer in peers.objects:
        if peer.selection.labels and peer.namespace != peers.root_namespace:
            effective = peers.effective(peer.namespace, peer)
            if effective.exceptions:
                rules = _exception_rules(effective)
                made.append(_deny(peer.namespace, f"{CONVERTED}{peer.name}", rules, peer.place))
    return made


def _exception_rules(effective: Effective) -> tuple[Rule, ...]:
    ports = effective.exceptions
    if effective.mode is Mode.STRICT:
        clauses = [_clause(Constraint(field=Field.DESTINATION_PORTS, refused=(port,))) for port in ports]
        return (Rule(clauses=(_clause(_NO_IDENTITY), *clauses)),)
    return tuple(
        Rule(
            clauses=(_clause(_NO_IDENTITY, Constraint(field=Field.DESTINATION_PORTS, allowed=(port,))),), number=number
        )
        for number, port in enumerate(ports)
    )


def _clause(*constraints: Constraint) -> Clause:
    return Clause((Match(constraints),))


def _deny(namespace: str, name: str, rules: tuple[Rule, ...], place: str | None) -> Authorization:
    return Authorization(
        namespace=namespace,
        name=name,
        scope=Scope.WORKLOAD_SELECTOR,
        action=Action.DENY,
        rules=rules,
        place=place,
    )
