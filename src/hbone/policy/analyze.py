"""What can be said of a rule without any connection: that it fits nothing, everything, or never a certain port.

Careful on one side: what is said is certain, what is not said may be true all the same.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from hbone.addr import Prefix
from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId
from hbone.policy.match import FIELDS, Kind, fits
from hbone.policy.model import (
    Account,
    Caller,
    Constraint,
    Field,
    Form,
    Match,
    Pattern,
    Rule,
    Value,
)
from hbone.policy.wording import written_name

_TEXTS: Final = {Kind.PRINCIPAL, Kind.TEXT, Kind.TRUST_DOMAIN, Kind.HOST, Kind.HEADER, Kind.PATH}
_OF_CALLER: Final = (Field.PRINCIPALS, Field.NAMESPACES, Field.SERVICE_ACCOUNTS, Field.TRUST_DOMAINS)


def never_fits(rule: Rule) -> str | None:
    """Why no connection can fit the rule as written; None when some could."""
    for clause in rule.clauses:
        if not clause.matches:
            continue
        reasons = [_never_holds(match.constraints) for match in clause.matches]
        if all(reason is not None for reason in reasons):
            return reasons[0]
    alone = [clause.matches[0] for clause in rule.clauses if len(clause.matches) == 1]
    return _never_holds(tuple(chain.from_iterable(match.constraints for match in alone))) if alone else None


def _never_holds(constraints: Sequence[Constraint]) -> str | None:
    if not constraints:
        return "a match without a field"
    for constraint in constraints:
        reason = _contradicts_itself(constraint)
        if reason is not None:
            return reason
    return _no_such_caller(constraints) or _no_such_port(constraints)


def _contradicts_itself(constraint: Constraint) -> str | None:
    if not constraint.allowed:
        return None
    name = written_name(constraint, negated=False)
    if constraint.field in _OF_CALLER and all(map(_nobodys, constraint.allowed)):
        return f"{name} {constraint.allowed[0]}: a '*' inside a value stands for itself, and no name has one"
    exact = constraint.field is Field.PRINCIPALS and _all_exact(constraint.allowed)
    if exact and not any(_caller(str(value)) for value in constraint.allowed):
        return f"{name} {constraint.allowed[0]} is no identity; write trust-domain/ns/namespace/sa/account"
    if constraint.refused and all(_covered(value, constraint) for value in constraint.allowed):
        return f"{written_name(constraint, negated=True)} takes away all that {name} allows"
    return None


def _nobodys(value: Value) -> bool:
    return isinstance(value, Pattern) and "*" in value.text


def _covered(value: Value, constraint: Constraint) -> bool:
    """Whether all that `value` stands for is refused."""
    if value in constraint.refused:
        return True
    match value:
        case Pattern(form=Form.EXACT, text=text):
            return FIELDS[constraint.field].kind in _TEXTS and fits(constraint.field, constraint.refused)(text)
        case Pattern():
            return any(isinstance(one, Pattern) and one.form is Form.PRESENT for one in constraint.refused)
        case Prefix(network=network):
            return any(
                isinstance(one, Prefix)
                and one.network.version == network.version
                and one.network.prefixlen <= network.prefixlen
                and network.network_address in one.network
                for one in constraint.refused
            )
        case _:
            return False


def _no_such_caller(constraints: Sequence[Constraint]) -> str | None:
    """Whether constraints on the caller exclude each other, as far as one of them names callers outright."""
    about = [one for one in constraints if one.field in _OF_CALLER]
    named = next((one for one in about if one.field is Field.PRINCIPALS and _all_exact(one.allowed)), None)
    if named is None or len(about) < 2:
        return _accounts_outside(about)
    callers = [made for value in named.allowed if (made := _caller(str(value))) is not None]
    if any(all(_holds(constraint, one) for constraint in about) for one in callers):
        return None
    others = ", ".join(dict.fromkeys(written_name(one, negated=not one.allowed) for one in about if one is not named))
    return f"no principal of {written_name(named, negated=False)} is in {others}" if callers else None


def _accounts_outside(about: Sequence[Constraint]) -> str | None:
    """Service accounts of other namespaces than those allowed beside them."""
    accounts = next((one for one in about if one.field is Field.SERVICE_ACCOUNTS and one.allowed), None)
    for wanted in about:
        if wanted.field is Field.NAMESPACES and accounts is not None and wanted.allowed:
            among = fits(Field.NAMESPACES, wanted.allowed)
            if not any(isinstance(one, Account) and among(one.namespace) for one in accounts.allowed):
                return "no service account of the one is in a namespace of the other"
    return None


def _all_exact(values: Iterable[Value]) -> bool:
    found = list(values)
    return bool(found) and all(isinstance(value, Pattern) and value.form is Form.EXACT for value in found)


def _caller(principal: str) -> Caller | None:
    try:
        identity = SpiffeId.parse(SCHEME + principal)
    except InvalidSpiffeId:
        return None
    return Caller(identity) if identity.path else None


def _holds(constraint: Constraint, caller: Caller) -> bool:
    fact = {
        Field.PRINCIPALS: caller.principal,
        Field.NAMESPACES: caller.namespace,
        Field.SERVICE_ACCOUNTS: caller.account,
        Field.TRUST_DOMAINS: caller.trust_domain,
    }[constraint.field]
    if constraint.allowed and not fits(constraint.field, constraint.allowed)(fact):
        return False
    return not (constraint.refused and fits(constraint.field, constraint.refused)(fact))


def _no_such_port(constraints: Sequence[Constraint]) -> str | None:
    about = [one for one in constraints if one.field is Field.DESTINATION_PORTS]
    lists = [frozenset(one.allowed) for one in about if one.allowed]
    if not lists:
        return None
    refused = {value for one in about for value in one.refused}
    left = [port for port in lists[0] if all(port in among for among in lists) and port not in refused]
    return None if left else "no port is left of those that are allowed"


def fits_all(rule: Rule) -> bool:
    """Whether every connection fits."""
    return rule.unknown is None and not any(clause.matches for clause in rule.clauses)


def may_fit_port(rule: Rule, port: int) -> bool:
    """Whether some connection to that port could fit, as far as ports alone tell."""
    return all(any(_port_holds(match, port) for match in clause.matches) for clause in rule.clauses if clause.matches)


def _port_holds(match: Match, port: int) -> bool:
    if not match.constraints:
        return False
    about = [one for one in match.constraints if one.field is Field.DESTINATION_PORTS]
    return all((not one.allowed or port in one.allowed) and port not in one.refused for one in about)
