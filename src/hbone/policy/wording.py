"""Constraints in words: what they are called, what they want, and why one does not hold."""

from collections.abc import Sequence
from typing import cast

from hbone.policy.match import FIELDS, Layer, fact, fits, predicate
from hbone.policy.model import Account, ConnectionFacts, Constraint, Field, Value


def written_name(constraint: Constraint, *, negated: bool) -> str:
    """What the field is called where the rule is written: `notPrincipals`, `request.headers[x-version]`."""
    row = FIELDS[constraint.field]
    name = row.source or row.operation
    if not name:
        name = row.condition
        if name.endswith("["):
            name = name[:-1] + "".join(f"[{part}]" for part in constraint.key)
        elif constraint.field is Field.FILTER_STATE:
            name += "".join(constraint.key)
        return f"not {name}" if negated else name
    return f"not{name[0].upper()}{name[1:]}" if negated else name


def shown_fact(constraint: Constraint, facts: ConnectionFacts) -> str:
    """The fact as an explanation speaks of it: "the caller is cluster.local/ns/web/sa/web"."""
    row = FIELDS[constraint.field]
    subject = f"{row.subject} {'.'.join(constraint.key)}" if constraint.key else row.subject
    value = fact(constraint, facts)
    if row.layer is Layer.L7 and facts.request is None:
        return "no request is seen"
    if not value and row.subject.startswith("the caller"):
        return "the caller has no identity" if facts.caller.identity is None else f"{facts.caller} has none"
    if not value:
        return f"{subject} is not known"
    match value:
        case Account():
            text = str(value)
        case tuple():
            text = "/".join(str(part) for part in cast("tuple[object, ...]", value))
        case list():
            text = ", ".join(str(part) for part in cast("list[object]", value))
        case _:
            text = str(value)
    return f"{subject} is {text}"


def shown_values(values: Sequence[Value]) -> str:
    """At most four of them."""
    texts = [str(value) for value in values[:4]]
    more = f" and {len(values) - 4} more" if len(values) > 4 else ""
    return ", ".join(texts) + more


def failing(constraint: Constraint, facts: ConnectionFacts) -> str | None:
    """Why the constraint does not hold; None when it does."""
    if predicate(constraint)(facts):
        return None
    is_there = shown_fact(constraint, facts)
    value = fact(constraint, facts)
    if constraint.refused and fits(constraint.field, constraint.refused)(value):
        return f"{written_name(constraint, negated=True)} has {shown_values(constraint.refused)}, and {is_there}"
    return f"{written_name(constraint, negated=False)} wants {shown_values(constraint.allowed)}, but {is_there}"
