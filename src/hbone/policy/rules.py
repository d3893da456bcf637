"""The rules of an AuthorizationPolicy, as it is written: `from`, `to` and each `when` become a clause."""

from collections.abc import Mapping
from typing import Final

from hbone.documents.fields import Section, nearest, shown
from hbone.policy.match import FIELDS, Kind
from hbone.policy.model import Clause, Constraint, Field, Match, Rule
from hbone.policy.values import bracketed, read_values

MAX_RULES: Final = 512
MAX_SOURCES: Final = 512
MAX_ACCOUNTS: Final = 16

SOURCE_FIELDS: Final[Mapping[str, Field]] = {row.source: field for field, row in FIELDS.items() if row.source}
OPERATION_FIELDS: Final[Mapping[str, Field]] = {row.operation: f for f, row in FIELDS.items() if row.operation}
CONDITIONS: Final[Mapping[str, Field]] = {row.condition: field for field, row in FIELDS.items() if row.condition}
_WITH_ACCOUNTS: Final = ("principals", "notPrincipals", "namespaces", "notNamespaces")


def read_rules(spec: Section, namespace: str) -> tuple[Rule, ...]:
    """`spec.rules`; problems for what is wrong in them. `namespace` is the policy's own."""
    _limit(spec, "rules", MAX_RULES)
    return tuple(_rule(section, number, namespace) for number, section in enumerate(spec.sections("rules")))


def _limit(section: Section, key: str, limit: int) -> None:
    value = section.raw(key)
    if isinstance(value, list) and len(value) > limit:
        section.problem(key, f"has {len(value)} items", f"use {limit} at most")


def _rule(section: Section, number: int, namespace: str) -> Rule:
    _limit(section, "from", MAX_SOURCES)
    clauses: list[Clause] = []
    to = [_item(item, "operation", OPERATION_FIELDS, namespace) for item in section.sections("to")]
    if to:
        clauses.append(Clause(tuple(to), "to"))
    sources = [_item(item, "source", SOURCE_FIELDS, namespace) for item in section.sections("from")]
    if sources:
        clauses.append(Clause(tuple(sources), "from"))
    clauses += [_condition(item, namespace) for item in section.sections("when")]
    section.finish()
    document = section.document
    place = f"{document.file}:{document.line_of(section.path)}"
    return Rule(clauses=tuple(clauses), number=number, place=place)


def _item(item: Section, key: str, fields: Mapping[str, Field], namespace: str) -> Match:
    """One item of `from` or `to`: a source or an operation."""
    inner = item.section(key)
    item.finish()
    if inner is None:
        if key not in item:
            item.missing(key, f"write {key}: {{{next(iter(fields))}: […]}}")
        return Match()
    before = len(inner.problems)
    constraints = [c for name, field in fields.items() if (c := _constraint(inner, name, field, namespace)) is not None]
    inner.finish()
    if not constraints and len(inner.problems) == before:
        known = ", ".join(fields)
        inner.problem((), f"the {key} has no field", f"give at least one of: {known} (or the not… form)")
    if key == "source":
        _check_accounts(inner)
    return Match(tuple(constraints))


def _constraint(section: Section, name: str, field: Field, namespace: str) -> Constraint | None:
    kind = FIELDS[field].kind
    allowed = read_values(section, name, kind, namespace)
    refused = read_values(section, f"not{name[0].upper()}{name[1:]}", kind, namespace)
    return Constraint(field=field, allowed=allowed, refused=refused) if allowed or refused else None


def _check_accounts(source: Section) -> None:
    for key in ("serviceAccounts", "notServiceAccounts"):
        if source.raw(key):
            _limit(source, key, MAX_ACCOUNTS)
            for other in _WITH_ACCOUNTS:
                if source.raw(other):
                    source.problem(key, f"cannot be combined with {other} in one source", f"keep {key} or {other}")


def _condition(item: Section, namespace: str) -> Clause:
    """One item of `when`."""
    key = item.required_text("key", "source.namespace")
    known = _condition_field(item, key) if key is not None else None
    kind = FIELDS[known[0]].kind if known is not None else Kind.TEXT
    before = len(item.problems)
    allowed = read_values(item, "values", kind, namespace)
    refused = read_values(item, "notValues", kind, namespace)
    item.finish()
    if not allowed and not refused and len(item.problems) == before:
        item.problem((), "a condition without values", "give it values or notValues")
    if known is None or key is None or not (allowed or refused):
        return Clause((Match(),))
    constraint = Constraint(field=known[0], key=known[1], allowed=allowed, refused=refused)
    return Clause((Match((constraint,)),), key)


def _condition_field(item: Section, key: str) -> tuple[Field, tuple[str, ...]] | None:
    """The field of a condition's key, and what is in its brackets; None, with a problem, when there is none."""
    if key in CONDITIONS and key[-1] not in "[.":
        return CONDITIONS[key], ()
    for stem, field in CONDITIONS.items():
        if stem.endswith("[") and key.startswith(stem[:-1]):
            names = bracketed(key[len(stem) - 1 :])
            if names is None or (field is Field.HEADERS and len(names) != 1):
                item.problem("key", f"{shown(key)} has no name in brackets", f"write {stem}name]")
                return None
            return field, (names[0].lower(),) if field is Field.HEADERS else names
        if stem.endswith(".") and key.startswith(stem) and len(key) > len(stem):
            return field, (key[len(stem) :],)
    names_known = [f"{stem}…]" if stem.endswith("[") else stem for stem in CONDITIONS]
    known = ", ".join(name for name in names_known if not name.endswith("."))
    item.problem("key", f"{shown(key)} is not a known condition", nearest(key, CONDITIONS, f"use one of: {known}"))
    return None
