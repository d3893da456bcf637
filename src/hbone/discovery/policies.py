"""Policies as the control plane's protobuf messages (`istio.security.Authorization`), both ways.

What is not understood fails closed. A malformed address, an empty text to compare with, an unknown action or scope
reject the resource, where ztunnel drops the entry and so widens the rule. A field that is not known here, of a newer
sender, makes its rule one that never allows and always denies.

Two things that the message has no field for travel as extensions, which others ignore: AUDIT, as a dry-run DENY, which
to others is nothing but a log line, and trust domains, which others are told as principals where those can say it.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from hbone.addr import Prefix
from hbone.discovery.catalogue import Resource
from hbone.discovery.resources import InvalidResource
from hbone.policy import model as policy
from hbone.policy.match import FIELDS, is_l7
from hbone.policy.model import PRESENT, Account, Action, Constraint, Field, Form, Pattern, Scope, Value
from hbone.policy.values import plain_network
from hbone.proto import authorization_pb2 as pb

AUDIT_EXTENSION: Final = "hbone/audit"
TRUST_DOMAINS_EXTENSION: Final = "hbone/trust-domains"
"""Of a match; its value is a `Match` whose `namespaces` and `not_namespaces` are those of the trust domain."""

_MATCH_TYPE: Final = "type.googleapis.com/istio.security.Match"
_MAX_PORT: Final = 65535

SCOPES: Final = {
    pb.GLOBAL: Scope.GLOBAL,
    pb.NAMESPACE: Scope.NAMESPACE,
    pb.WORKLOAD_SELECTOR: Scope.WORKLOAD_SELECTOR,
}
ACTIONS: Final = {pb.ALLOW: Action.ALLOW, pb.DENY: Action.DENY}
_FORMS: Final = {"exact": Form.EXACT, "prefix": Form.PREFIX, "suffix": Form.SUFFIX, "presence": Form.PRESENT}


def snake(name: str) -> str:
    """`notSourceIps` → `not_source_ips`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


WIRE: Final[Mapping[Field, tuple[str, str]]] = {
    field: (snake(row.wire), f"not_{snake(row.wire)}")
    for field, row in FIELDS.items()
    if row.wire and snake(row.wire) in pb.Match.DESCRIPTOR.fields_by_name
}
"""Field → names of the message's lists of what is allowed and refused."""


# in


def decode_policy(name: str, body: bytes) -> policy.Authorization:
    """The resource called `name` ("namespace/name"); raises InvalidResource."""
    try:
        message = pb.Authorization.FromString(body)
    except DecodeError as error:
        raise InvalidResource("is not protobuf") from error
    if not message.name:
        raise InvalidResource("has no name")
    audit = any(extension.name == AUDIT_EXTENSION for extension in message.extensions)
    action, scope = ACTIONS.get(message.action), SCOPES.get(message.scope)
    if action is None:
        raise InvalidResource(f"unknown enum: invalid action {message.action}")
    if scope is None:
        raise InvalidResource(f"unknown enum: invalid scope {message.scope}")
    newer = _unknown(message)
    made = policy.Authorization(
        namespace=message.namespace,
        name=message.name,
        scope=scope,
        action=Action.AUDIT if audit else action,
        rules=tuple(_rule(number, rule, newer) for number, rule in enumerate(message.rules)),
        dry_run=message.dry_run and not audit,
    )
    if made.key != name:
        raise InvalidResource(f"is named {name!r} but is {made.key!r}")
    return made


def _unknown(message: Message) -> str | None:
    """What a message has that its type here has not."""
    unknown = UnknownFieldSet(message)
    numbers = sorted({unknown[index].field_number for index in range(len(unknown))})
    return f"field {numbers[0]} of {message.DESCRIPTOR.name} is not known here" if numbers else None


def _rule(number: int, message: pb.Rule, newer: str | None) -> policy.Rule:
    clauses = tuple(policy.Clause(tuple(_match(match) for match in clause.matches)) for clause in message.clauses)
    reason = newer or next(filter(None, map(_unknown, _parts(message))), None) or _foreign_extension(message)
    return policy.Rule(clauses=clauses, number=number, unknown=reason)


def _parts(rule: pb.Rule) -> Iterator[Message]:
    """The rule and every message inside it."""
    yield rule
    for clause in rule.clauses:
        yield clause
        for match in clause.matches:
            yield match
            for names in WIRE.values():
                for name in names:
                    yield from (value for value in getattr(match, name) if isinstance(value, Message))


def _foreign_extension(rule: pb.Rule) -> str | None:
    names = [e.name for clause in rule.clauses for match in clause.matches for e in match.extensions]
    foreign = [name for name in names if name != TRUST_DOMAINS_EXTENSION]
    return f"the extension {foreign[0]!r} of a match is not known here" if foreign else None


def _match(message: pb.Match) -> policy.Match:
    constraints = [
        Constraint(field=field, allowed=allowed, refused=refused)
        for field, names in WIRE.items()
        for allowed, refused in [tuple(_values(field, getattr(message, name)) for name in names)]
        if allowed or refused
    ]
    for extension in message.extensions:
        if extension.name == TRUST_DOMAINS_EXTENSION:
            inner = pb.Match()
            try:
                understood = extension.config.Unpack(inner) and _unknown(inner) is None
            except DecodeError:
                understood = False
            if not understood:
                raise InvalidResource(f"extension {TRUST_DOMAINS_EXTENSION} holds no match")
            allowed = tuple(_pattern(one) for one in inner.namespaces)
            refused = tuple(_pattern(one) for one in inner.not_namespaces)
            # what others are told as principals in its place is not for us
            principals = [
                Constraint(field=Field.PRINCIPALS, allowed=a, refused=r)
                for a, r in [(_patterns(inner.principals), _patterns(inner.not_principals))]
                if a or r
            ]
            constraints = [one for one in constraints if one.field is not Field.PRINCIPALS] + principals
            constraints.append(Constraint(field=Field.TRUST_DOMAINS, allowed=allowed, refused=refused))
    return policy.Match(tuple(constraints))


def _patterns(messages: Iterable[pb.StringMatch]) -> tuple[Value, ...]:
    return tuple(_pattern(one) for one in messages)


def _values(field: Field, messages: Iterable[object]) -> tuple[Value, ...]:
    found: list[Value] = []
    for message in messages:
        match message:
            case pb.StringMatch():
                found.append(_pattern(message))
            case pb.Address():
                found.append(_prefix(message))
            case pb.ServiceAccountMatch():
                found.append(Account(message.namespace, message.serviceAccount))
            case int() if message <= _MAX_PORT:
                found.append(message)
            case _:
                raise InvalidResource(f"has {FIELDS[field].subject} {message}")
    return tuple(dict.fromkeys(found))


def _pattern(message: pb.StringMatch) -> Pattern:
    form = _FORMS.get(message.WhichOneof("match_type") or "")
    if form is Form.PRESENT:
        return PRESENT
    if form is None:
        if _unknown(message) is not None:
            return Pattern(Form.EXACT)  # fits nothing; the rule fails closed
        raise InvalidResource("has an empty text to compare with")
    text: str = getattr(message, form.value)
    if not text:
        raise InvalidResource(f"has an empty {form.value} to compare with")
    return Pattern(form, text)


def _prefix(message: pb.Address) -> Prefix:
    raw = bytes(message.address)
    if len(raw) not in {4, 16} or message.length > len(raw) * 8:
        raise InvalidResource(f"failed to parse address, had {len(raw)} bytes and a prefix of {message.length} bits")
    return Prefix(plain_network(ip_network((raw, message.length), strict=False)))


# out


def policy_resource(authorization: policy.Authorization) -> Resource:
    """As published. Rules on requests have no place in it and must be compiled away before."""
    audit = authorization.action is Action.AUDIT
    message = pb.Authorization(
        name=authorization.name,
        namespace=authorization.namespace,
        scope=next(number for number, scope in SCOPES.items() if scope is authorization.scope),
        action=pb.ALLOW if authorization.action is Action.ALLOW else pb.DENY,
        dry_run=authorization.dry_run or audit,
        rules=[
            pb.Rule(clauses=[pb.Clause(matches=map(_match_message, clause.matches)) for clause in rule.clauses])
            for rule in authorization.rules
        ],
    )
    if audit:
        message.extensions.add(name=AUDIT_EXTENSION)
    return Resource(name=authorization.key, body=message.SerializeToString(deterministic=True))


def _match_message(match: policy.Match) -> pb.Match:
    message = pb.Match()
    for constraint in match.constraints:
        if constraint.field in WIRE:
            names = WIRE[constraint.field]
            for name, values in zip(names, (constraint.allowed, constraint.refused), strict=True):
                getattr(message, name).extend(_messages(constraint.field, values))
        elif is_l7(constraint):
            raise ValueError(constraint.field)
    _write_trust_domains(message, match)
    return message


def _messages(field: Field, values: Iterable[Value]) -> Iterator[object]:
    for value in values:
        match value:
            case Pattern():
                yield _pattern_message(value)
            case Prefix(network=network):
                yield pb.Address(address=network.network_address.packed, length=network.prefixlen)
            case Account(namespace=namespace, service_account=account):
                yield pb.ServiceAccountMatch(namespace=namespace, serviceAccount=account)
            case int():
                yield value
            case _:
                raise ValueError(field)


def _pattern_message(pattern: Pattern) -> pb.StringMatch:
    message = pb.StringMatch()
    if pattern.form is Form.PRESENT:
        message.presence.SetInParent()
    else:
        setattr(message, pattern.form.value, pattern.text)
    return message


def _write_trust_domains(message: pb.Match, match: policy.Match) -> None:
    """The extension, and the nearest that principals can say for those who do not know it."""
    domains = [constraint for constraint in match.constraints if constraint.field is Field.TRUST_DOMAINS]
    if not domains:
        return
    own = pb.Match(
        namespaces=[_pattern_message(p) for c in domains for p in c.allowed if isinstance(p, Pattern)],
        not_namespaces=[_pattern_message(p) for c in domains for p in c.refused if isinstance(p, Pattern)],
        principals=message.principals,
        not_principals=message.not_principals,
    )
    config = message.extensions.add(name=TRUST_DOMAINS_EXTENSION).config
    config.type_url, config.value = _MATCH_TYPE, own.SerializeToString(deterministic=True)
    for constraint in domains:
        if not message.principals:
            message.principals.extend(_as_principals(constraint.allowed))
        message.not_principals.extend(_as_principals(constraint.refused))


def _as_principals(values: Iterable[Value]) -> Iterator[pb.StringMatch]:
    for value in values:
        if isinstance(value, Pattern) and value.form is not Form.SUFFIX:
            exact = value.form is Form.EXACT
            yield _pattern_message(Pattern(Form.PREFIX, f"{value.text}/") if exact else value)
