"""Rules, found by what they demand: a connection is compared only with those that could fit it.

A rule whose clause names callers, namespaces, service accounts, source ranges or ports is filed under each of them,
so a thousand policies for other callers cost a few lookups in dictionaries. Only rules that name nothing of the
kind are tried for every connection.

    principals: [cluster.local/ns/web/sa/web]   → under that principal
    principals: [cluster.local/ns/web/*]        → under the head "cluster.local/ns/web/"
    notPrincipals: ["*"]                        → under "", the principal of a plaintext peer
    ipBlocks: [10.1.0.0/16]                     → under 10.1 of 16 bits
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from hbone.addr import Prefix
from hbone.policy.match import Predicate, predicate
from hbone.policy.model import (
    PRESENT,
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
    Value,
    head_of,
)
from hbone.policy.verdict import Decision, Reason, Verdict

Slot = tuple[str, object]
"""A drawer and the place in it: ("namespace", "shop")."""

_Clauses = tuple[tuple[tuple[Predicate, ...], ...], ...]


class ReadyRule:
    """A rule, ready to be tried. `order` is its place among all rules in force: the first that fits decides."""

    __slots__ = ("_clauses", "_matches", "decision", "never", "order", "policy", "rule", "slots")

    def __init__(self, rule: Rule, policy: Authorization) -> None:
        self.rule = rule
        self.policy = policy.key
        self.order = 0
        denies = policy.action is Action.DENY
        self.decision = Decision(
            verdict=Verdict.DENY if denies else Verdict.ALLOW,
            reason=Reason.DENIED if denies else Reason.ALLOWED,
            policy=policy.key,
            rule=rule.number,
            place=rule.place,
        )
        matches = [
            [match for match in clause.matches if match.constraints] for clause in rule.clauses if clause.matches
        ]
        self.never = any(not clause for clause in matches)
        if rule.unknown is not None:
            self.never = not denies
            matches = []
        self._matches = matches
        self._clauses: _Clauses | None = None
        self.slots = _slots(matches) if not self.never else None

    def _prepare(self) -> _Clauses:
        """The tests, made when they are first needed: most rules of a large mesh are never tried here."""
        self._clauses = tuple(
            tuple(tuple(map(predicate, match.constraints)) for match in clause) for clause in self._matches
        )
        return self._clauses

    def fits(self, facts: ConnectionFacts) -> bool:
        clauses = self._clauses
        for clause in clauses if clauses is not None else self._prepare():
            for match in clause:
                for test in match:
                    if not test(facts):
                        break
                else:
                    break
            else:
                return False
        return True


class RuleIndex:
    """Rules of one action. `first` is the one with the lowest order that fits."""

    __slots__ = ("_open", "_ranges", "_tables")

    def __init__(self, rules: Iterable[ReadyRule]) -> None:
        self._open: list[ReadyRule] = []
        tables: dict[str, dict[object, list[ReadyRule]]] = {}
        for rule in sorted((rule for rule in rules if not rule.never), key=_order):
            if rule.slots is None:
                self._open.append(rule)
            else:
                for drawer, place in rule.slots:
                    tables.setdefault(drawer, {}).setdefault(place, []).append(rule)
        self._tables = tuple((_READ[drawer], table) for drawer, table in tables.items() if drawer in _READ)
        self._ranges = _ranges(tables)

    def first(self, facts: ConnectionFacts) -> ReadyRule | None:
        best: ReadyRule | None = None
        for rule in self._open:
            if rule.fits(facts):
                best = rule
                break
        for read, table in self._tables:
            bucket = table.get(read(facts))
            if bucket is not None:
                best = _better(bucket, facts, best)
        if self._ranges and (ip := facts.source_ip) is not None:
            number = int(ip)
            for shift, ranges in self._ranges.get(ip.version, ()):
                near = ranges.get(number >> shift)
                if near is not None:
                    best = _better(near, facts, best)
        return best

    def candidates(self, facts: ConnectionFacts) -> list[ReadyRule]:
        """The rules that `first` would compare with; to show that they are few."""
        found = list(self._open)
        for read, table in self._tables:
            found += table.get(read(facts), ())
        if facts.source_ip is not None:
            for shift, ranges in self._ranges.get(facts.source_ip.version, ()):
                found += ranges.get(int(facts.source_ip) >> shift, ())
        return found


def _better(bucket: Sequence[ReadyRule], facts: ConnectionFacts, best: ReadyRule | None) -> ReadyRule | None:
    for rule in bucket:
        if best is not None and rule.order >= best.order:
            return best
        if rule.fits(facts):
            return rule
    return best


def _order(rule: ReadyRule) -> int:
    return rule.order


Range = tuple[int, Mapping[object, Sequence[ReadyRule]]]


def _ranges(tables: Mapping[str, Mapping[object, Sequence[ReadyRule]]]) -> dict[int, tuple[Range, ...]]:
    """By IP version: how far to shift an address right, and the rules by what remains."""
    found: dict[int, list[Range]] = {}
    for drawer, table in tables.items():
        kind, _, rest = drawer.partition(":")
        if kind == _RANGE:
            version, _, shift = rest.partition(":")
            found.setdefault(int(version), []).append((int(shift), table))
    return {version: tuple(ranges) for version, ranges in found.items()}


# where a rule is filed

_PRINCIPAL: Final = "principal"
_ACCOUNT: Final = "account"
_HEAD: Final = "head"
_NAMESPACE: Final = "namespace"
_PORT: Final = "port"
_RANGE: Final = "range"

_READ: Final[Mapping[str, Callable[[ConnectionFacts], object]]] = {
    _PRINCIPAL: attrgetter("caller.principal"),
    _ACCOUNT: attrgetter("caller.account"),
    _HEAD: attrgetter("caller.head"),
    _NAMESPACE: attrgetter("caller.namespace"),
    _PORT: attrgetter("destination_port"),
}


def _slots(clauses: Sequence[Sequence[Match]]) -> tuple[Slot, ...] | None:
    """Where to file a rule so that no connection that it fits can miss it; None when it must always be tried.

    All clauses must hold, so the one that tells callers apart best is enough; of that one every match counts.
    """
    found = [slots for clause in clauses if (slots := _of_clause(clause)) is not None]
    return min(found, key=_coarseness) if found else None


_PREFERENCE: Final = (_PRINCIPAL, _ACCOUNT, _HEAD, _RANGE, _NAMESPACE, _PORT)


def _coarseness(slots: tuple[Slot, ...]) -> int:
    return max(_PREFERENCE.index(drawer.partition(":")[0]) for drawer, _ in slots)


def _of_clause(clause: Sequence[Match]) -> tuple[Slot, ...] | None:
    slots: dict[Slot, None] = {}
    for match in clause:
        found = [s for constraint in match.constraints if (s := _of_constraint(constraint))]
        if not found:
            return None
        finest = min(found, key=_coarseness)
        slots.update(dict.fromkeys(finest))
    return tuple(slots)


def _of_constraint(constraint: Constraint) -> tuple[Slot, ...] | None:
    """Facts under one of these places are all that the constraint can hold for; None when it cannot be said."""
    if not constraint.allowed:
        anonymous = constraint.field is Field.PRINCIPALS and PRESENT in constraint.refused
        return ((_PRINCIPAL, ""),) if anonymous else None
    find = _FILED.get(constraint.field)
    if find is None:
        return None
    found = [find(value) for value in constraint.allowed]
    if None not in found:
        return tuple(slot for slot in found if slot is not None)
    if constraint.field is Field.PRINCIPALS:
        heads = [_head(value) for value in constraint.allowed]
        return None if None in heads else tuple(slot for slot in heads if slot is not None)
    return None


def _principal(value: Value) -> Slot | None:
    exact = isinstance(value, Pattern) and value.form is Form.EXACT and value.text
    return (_PRINCIPAL, exact) if exact else None


def _head(value: Value) -> Slot | None:
    if not isinstance(value, Pattern) or value.form not in {Form.EXACT, Form.PREFIX}:
        return None
    head = head_of(value.text)
    return (_HEAD, head) if head else None


def _namespace(value: Value) -> Slot | None:
    exact = isinstance(value, Pattern) and value.form is Form.EXACT and value.text
    return (_NAMESPACE, exact) if exact else None


def _account(value: Value) -> Slot | None:
    return (_ACCOUNT, value) if isinstance(value, Account) else None


def _port(value: Value) -> Slot | None:
    return (_PORT, value) if isinstance(value, int) else None


def _range(value: Value) -> Slot | None:
    if not isinstance(value, Prefix):
        return None
    network = value.network
    shift = network.max_prefixlen - network.prefixlen
    return f"{_RANGE}:{network.version}:{shift}", int(network.network_address) >> shift


_FILED: Final[Mapping[Field, Callable[[Value], Slot | None]]] = {
    Field.PRINCIPALS: _principal,
    Field.SERVICE_ACCOUNTS: _account,
    Field.NAMESPACES: _namespace,
    Field.DESTINATION_PORTS: _port,
    Field.SOURCE_IPS: _range,
}
