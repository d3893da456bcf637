"""Policies in the shape of ztunnel's local file, both ways: what nodes hold, and what they show of it.

    rules: [[[{principals: [!Exact cluster.local/ns/web/sa/web], notDestinationPorts: [9999]}]]]

Rules are lists of clauses, clauses lists of matches. Texts are tagged, or mappings of one key (`{Exact: x}`), which
JSON can hold. Nothing is dropped: what cannot be read refuses the policy. Beyond ztunnel's words there are
`trustDomains`, and the action `Audit`.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from hbone.documents.fields import Section, shown
from hbone.documents.values import Array, Document, Object, Path, Tagged, Value
from hbone.errors import InvalidConfiguration, Problem
from hbone.policy import model
from hbone.policy.match import FIELDS, Kind
from hbone.policy.model import (
    PRESENT,
    Account,
    Action,
    Authorization,
    Clause,
    Constraint,
    Field,
    Form,
    Match,
    Pattern,
    Rule,
    Scope,
)
from hbone.policy.values import parse_prefix
from hbone.policy.wording import written_name

_T = TypeVar("_T")

_SCOPES: Final = {scope.value: scope for scope in Scope}
_ACTIONS: Final = {action.value: action for action in Action}
_FORMS: Final = {form.value: form for form in Form}
WIRE_FIELDS: Final[Mapping[str, Field]] = {row.wire: field for field, row in FIELDS.items() if row.wire}

Plain = object
"""Text, number, bool, None, or a list or dict of them."""


def parse_local_policies(documents: Iterable[Document]) -> tuple[Authorization, ...]:
    """One document a policy (`LocalFile.policies`). Raises InvalidConfiguration with every problem."""
    problems: list[Problem] = []
    policies: dict[str, Authorization] = {}
    for document in documents:
        policy = _policy(document, problems)
        if policy is not None and policies.setdefault(policy.key, policy) is not policy:
            problems.append(document.problem(("name",), f"the policy {policy.key} is there twice", "keep one of them"))
    if problems:
        raise InvalidConfiguration(dict.fromkeys(problems))
    return tuple(policies.values())


def _policy(document: Document, problems: list[Problem]) -> Authorization | None:
    root = Section.root(document, problems, "a mapping with name, namespace, scope, action and rules")
    if root is None:
        return None
    name, namespace = root.required_text("name", "only-web"), root.text("namespace")
    for key, example in (("namespace", "shop"), ("scope", "Namespace"), ("action", "Allow"), ("rules", "[]")):
        if root.raw(key) is None:
            root.missing(key, f"write {key}: {example}")
    policy = Authorization(
        namespace=namespace,
        name=name or "",
        scope=_word(root, "scope", _SCOPES, Scope.GLOBAL),
        action=_word(root, "action", _ACTIONS, Action.DENY),
        rules=tuple(_rule(root, number, path, value) for number, (path, value) in enumerate(root.values("rules"))),
        dry_run=root.flag("dryRun"),
        place=_place(root, ()),
    )
    root.finish()
    if not namespace and policy.scope is not Scope.GLOBAL and root.raw("namespace") is not None:
        root.problem("namespace", "is empty", "write the namespace that the policy is for, or scope: Global")
    return policy if name is not None else None


def _place(root: Section, path: Path) -> str:
    return f"{root.document.file}:{root.document.line_of(path)}"


def _word(root: Section, key: str, choices: Mapping[str, _T], default: _T) -> _T:
    """One of the words, also as a tag without a value, `!Allow`."""
    value = root.raw(key)
    if isinstance(value, Tagged) and value.value in {None, ""}:
        return root.word((key,), value.tag, choices, default)
    return root.choice(key, choices, default)


def _rule(root: Section, number: int, path: Path, value: Value) -> Rule:
    if isinstance(value, Object) and set(value) == {"unknown"}:
        return Rule(number=number, place=_place(root, path), unknown=str(value["unknown"]))
    clauses = tuple(_clause(root, at, one) for at, one in _items(root, path, value, "a rule: a list of clauses"))
    return Rule(clauses=clauses, number=number, place=_place(root, path))


def _clause(root: Section, path: Path, value: Value) -> Clause:
    return Clause(tuple(_match(root, at, one) for at, one in _items(root, path, value, "a clause: a list of matches")))


def _items(root: Section, path: Path, value: Value, wanted: str) -> list[tuple[Path, Value]]:
    if isinstance(value, Array):
        return [((*path, index), item) for index, item in enumerate(value)]
    root.wrong_type(path, value, wanted)
    return []


def _match(root: Section, path: Path, value: Value) -> Match:
    if not isinstance(value, Object):
        root.wrong_type(path, value, "a match: a mapping such as {destinationPorts: [8080]}")
        return Match()
    section = Section(root.document, value, path, root.problems)
    constraints = [
        Constraint(field=field, allowed=allowed, refused=refused)
        for name, field in WIRE_FIELDS.items()
        for allowed, refused in [(_values(section, name, field), _values(section, negative(name), field))]
        if allowed or refused
    ]
    section.finish()
    return Match(tuple(constraints))


def negative(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


def _values(section: Section, key: str, field: Field) -> tuple[model.Value, ...]:
    read = [_value(section, path, value, FIELDS[field].kind) for path, value in section.values(key)]
    return tuple(dict.fromkeys(value for value in read if value is not None))


def _value(section: Section, path: Path, value: Value, kind: Kind) -> model.Value | None:
    match kind, value:
        case Kind.PORT, int() if not isinstance(value, bool):
            if 0 <= value < 65536:
                return value
            section.problem(path, f"{value} is not a port", "write a number from 0 to 65535")
            return None
        case Kind.ADDRESS, str():
            return section.parsed(path, value, parse_prefix)
        case Kind.ACCOUNT, Object():
            return _account(section, path, value)
        case ((Kind.PORT | Kind.ADDRESS | Kind.ACCOUNT), _):
            section.wrong_type(path, value, _WANTED[kind])
            return None
        case _:
            return _pattern(section, path, value)


_WANTED: Final = {
    Kind.PORT: "a number from 0 to 65535",
    Kind.ADDRESS: "an address range, as in 10.0.0.0/8",
    Kind.ACCOUNT: "{namespace: web, serviceAccount: web}",
}


def _account(section: Section, path: Path, value: Object) -> Account | None:
    inner = Section(section.document, value, (*section.path, *path), section.problems)
    namespace, account = inner.required_text("namespace", "web"), inner.required_text("serviceAccount", "web")
    inner.finish()
    return None if namespace is None or account is None else Account(namespace, account)


def _pattern(section: Section, path: Path, value: Value) -> Pattern | None:
    word: object = None
    content: Value = None
    if isinstance(value, Tagged):
        word, content = value.tag, value.value
    elif isinstance(value, Object) and len(value) == 1:
        word, content = next(iter(value.items()))
    elif value == "Presence":
        word = value
    form = _FORMS.get(str(word).lower())
    if form is Form.PRESENT:
        return PRESENT
    if form is None:
        fix = "write !Exact, !Prefix, !Suffix or !Presence"
        section.problem(path, f"{shown(value)} is not a text to compare with", fix)
    elif not isinstance(content, str) or not content:
        section.problem(path, f"{form.name.capitalize()} of {shown(content)}", "give it a text that is not empty")
    else:
        return Pattern(form, content)
    return None


# out


def plain_policy(policy: Authorization) -> dict[str, Plain]:
    """As JSON and YAML can hold it. A rule that is not understood has `unknown` in place of clauses."""
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": policy.scope.value,
        "action": policy.action.value,
        "dryRun": policy.dry_run,
        "rules": [_plain_rule(rule) for rule in policy.rules],
    }


def _plain_rule(rule: Rule) -> Plain:
    if rule.unknown is not None:
        return {"unknown": rule.unknown}
    return [[_plain_match(match) for match in clause.matches] for clause in rule.clauses]


def _plain_match(match: Match) -> dict[str, Plain]:
    fields: dict[str, Plain] = {}
    for constraint in match.constraints:
        name = FIELDS[constraint.field].wire or written_name(constraint, negated=False)
        if constraint.allowed:
            fields[name] = [_plain_value(value) for value in constraint.allowed]
        if constraint.refused:
            fields[negative(name)] = [_plain_value(value) for value in constraint.refused]
    return fields


def _plain_value(value: model.Value) -> Plain:
    match value:
        case Pattern(form=Form.PRESENT):
            return {"Presence": []}  # ztunnel's spelling in its config dump
        case Pattern(form=form, text=text):
            return {form.name.capitalize(): text}
        case Account(namespace=namespace, service_account=account):
            return {"namespace": namespace, "serviceAccount": account}
        case int():
            return value
        case _:
            return str(value)
