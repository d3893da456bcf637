"""Policies as protobuf: fields and defaults as upstream's, but what is not understood fails closed."""

from collections.abc import Callable

import pytest

from hbone.discovery.policies import (
    AUDIT_EXTENSION,
    TRUST_DOMAINS_EXTENSION,
    WIRE,
    decode_policy,
    policy_resource,
)
from hbone.discovery.resources import InvalidResource
from hbone.policy.model import (
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
from hbone.proto import authorization_pb2 as pb


def message(*matches: pb.Match, action: int = pb.ALLOW) -> pb.Authorization:
    rules = [pb.Rule(clauses=[pb.Clause(matches=matches)])]
    return pb.Authorization(name="p", namespace="shop", scope=pb.NAMESPACE, action=pb.Action.Name(action), rules=rules)


def decoded(source: pb.Authorization) -> Authorization:
    return decode_policy("shop/p", source.SerializeToString())


def only(policy: Authorization) -> tuple[Constraint, ...]:
    return policy.rules[0].clauses[0].matches[0].constraints


def test_every_list_of_a_match_has_a_field() -> None:
    lists = {field.name for field in pb.Match.DESCRIPTOR.fields} - {"extensions"}
    assert {name for names in WIRE.values() for name in names} == lists


def test_every_field_is_read() -> None:
    match = pb.Match(
        namespaces=[pb.StringMatch(exact="web")],
        not_namespaces=[pb.StringMatch(prefix="t-")],
        principals=[pb.StringMatch(suffix="/a")],
        source_ips=[pb.Address(address=b"\x0a\0\0\0", length=8)],
        not_source_ips=[pb.Address(address=b"\x0a\1\0\0", length=32)],
        destination_ips=[pb.Address(address=bytes(16), length=0)],
        destination_ports=[80],
        not_destination_ports=[81],
        service_accounts=[pb.ServiceAccountMatch(namespace="a", serviceAccount="b")],
    )
    match.not_principals.add().presence.SetInParent()
    found = {one.field: one for one in only(decoded(message(match)))}
    assert found[Field.NAMESPACES].allowed == (Pattern(Form.EXACT, "web"),)
    assert found[Field.NAMESPACES].refused == (Pattern(Form.PREFIX, "t-"),)
    assert found[Field.PRINCIPALS].allowed == (Pattern(Form.SUFFIX, "/a"),)
    assert found[Field.PRINCIPALS].refused == (Pattern(Form.PRESENT),)
    assert found[Field.SOURCE_IPS].allowed == (parse_prefix("10.0.0.0/8"),)
    assert found[Field.SOURCE_IPS].refused == (parse_prefix("10.1.0.0"),)
    assert found[Field.DESTINATION_IPS].allowed == (parse_prefix("::/0"),)
    assert (found[Field.DESTINATION_PORTS].allowed, found[Field.DESTINATION_PORTS].refused) == ((80,), (81,))
    assert found[Field.SERVICE_ACCOUNTS].allowed == (Account("a", "b"),)


def test_a_mapped_address_is_made_plain() -> None:
    mapped = bytes(10) + b"\xff\xff\x0a\0\0\0"
    (one,) = only(decoded(message(pb.Match(source_ips=[pb.Address(address=mapped, length=104)]))))
    assert one.allowed == (parse_prefix("10.0.0.0/8"),)


def test_scope_and_dry_run_are_read() -> None:
    for number, scope in ((pb.GLOBAL, Scope.GLOBAL), (pb.WORKLOAD_SELECTOR, Scope.WORKLOAD_SELECTOR)):
        source = message()
        source.scope = number
        source.dry_run = True
        policy = decoded(source)
        assert (policy.scope, policy.dry_run) == (scope, True)


def changed(change: Callable[[pb.Authorization], object]) -> pb.Authorization:
    source = message(pb.Match(destination_ports=[80]))
    change(source)
    return source


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (message(pb.Match(source_ips=[pb.Address(address=b"\1\2\3", length=8)])), "had 3 bytes"),
        (message(pb.Match(source_ips=[pb.Address(address=b"\1\2\3\4", length=33)])), "a prefix of 33 bits"),
        (message(pb.Match(principals=[pb.StringMatch()])), "an empty text to compare with"),
        (message(pb.Match(principals=[pb.StringMatch(exact="")])), "an empty exact to compare with"),
        (message(pb.Match(not_namespaces=[pb.StringMatch(prefix="")])), "an empty prefix to compare with"),
        (message(pb.Match(destination_ports=[65536])), "destination port 65536"),
        (changed(lambda one: one.ClearField("name")), "has no name"),
        (changed(lambda one: setattr(one, "name", "other")), "is named 'shop/p' but is 'shop/other'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_rejects_the_resource(source: pb.Authorization, reason: str) -> None:
    with pytest.raises(InvalidResource, match=reason):
        decoded(source)


def test_bytes_that_are_no_policy_and_unknown_enums_are_rejected() -> None:
    with pytest.raises(InvalidResource, match="is not protobuf"):
        decode_policy("shop/p", b"\xff")
    with pytest.raises(InvalidResource, match="invalid action 7"):
        decode_policy("shop/p", message().SerializeToString() + b"\x20\x07")
    with pytest.raises(InvalidResource, match="invalid scope 7"):
        decode_policy("shop/p", message().SerializeToString() + b"\x18\x07")


def inside(depth: str) -> bytes:
    """A policy with field 99 somewhere."""
    extra = b"\x98\x06\x01"
    match = pb.Match(destination_ports=[80]).SerializeToString() + (extra if depth == "Match" else b"")
    if depth == "StringMatch":
        match += b"\x1a" + bytes([len(extra)]) + extra
    clause = b"\x12" + bytes([len(match)]) + match + (extra if depth == "Clause" else b"")
    rule = b"\x0a" + bytes([len(clause)]) + clause + (extra if depth == "Rule" else b"")
    body = b"\x0a\x01p\x12\x04shop\x18\x01\x2a" + bytes([len(rule)]) + rule
    return body + (extra if depth == "Authorization" else b"")


@pytest.mark.parametrize("depth", ["Authorization", "Rule", "Clause", "Match", "StringMatch"])
def test_a_field_of_a_newer_sender_closes_the_rule(depth: str) -> None:
    policy = decode_policy("shop/p", inside(depth))
    assert policy.rules[0].unknown == f"field 99 of {depth} is not known here"
    assert decode_policy("shop/p", inside("none")).rules[0].unknown is None


def test_an_extension_of_a_match_that_is_not_known_closes_the_rule() -> None:
    match = pb.Match(destination_ports=[80])
    match.extensions.add(name="vendor/thing")
    assert "'vendor/thing'" in str(decoded(message(match)).rules[0].unknown)


def test_an_extension_of_the_whole_is_passed_over() -> None:
    source = message(pb.Match(destination_ports=[80]))
    source.extensions.add(name="vendor/thing")
    assert decoded(source).rules[0].unknown is None


def held(*constraints: Constraint, action: Action = Action.ALLOW) -> Authorization:
    rules = (Rule(clauses=(Clause((Match(constraints),)),)),)
    return Authorization(namespace="shop", name="p", scope=Scope.NAMESPACE, action=action, rules=rules)


def test_audit_is_to_others_a_dry_run() -> None:
    resource = policy_resource(held(Constraint(field=Field.DESTINATION_PORTS, allowed=(80,)), action=Action.AUDIT))
    sent = pb.Authorization.FromString(resource.body)
    assert (sent.action, sent.dry_run, sent.extensions[0].name) == (pb.DENY, True, AUDIT_EXTENSION)
    back = decode_policy(resource.name, resource.body)
    assert (back.action, back.dry_run) == (Action.AUDIT, False)


def test_a_trust_domain_is_told_to_others_as_principals() -> None:
    domains = Constraint(
        field=Field.TRUST_DOMAINS,
        allowed=(Pattern.parse("a.b"), Pattern.parse("*.c")),
        refused=(Pattern.parse("x*"),),
    )
    resource = policy_resource(held(domains))
    (match,) = pb.Authorization.FromString(resource.body).rules[0].clauses[0].matches
    assert [one.prefix for one in match.principals] == ["a.b/"]
    assert [one.prefix for one in match.not_principals] == ["x"]
    assert only(decode_policy(resource.name, resource.body)) == (domains,)


def test_principals_beside_a_trust_domain_are_kept() -> None:
    principals = Constraint(field=Field.PRINCIPALS, allowed=(Pattern.parse("a/b"),))
    domains = Constraint(field=Field.TRUST_DOMAINS, allowed=(Pattern.parse("a"),))
    resource = policy_resource(held(principals, domains))
    assert only(decode_policy(resource.name, resource.body)) == (principals, domains)


def test_an_extension_of_ours_that_holds_no_match_is_rejected() -> None:
    match = pb.Match(destination_ports=[80])
    match.extensions.add(name=TRUST_DOMAINS_EXTENSION)
    with pytest.raises(InvalidResource, match="holds no match"):
        decoded(message(match))


def test_rules_on_requests_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="METHODS"):
        policy_resource(held(Constraint(field=Field.METHODS, allowed=(Pattern.parse("GET"),))))
