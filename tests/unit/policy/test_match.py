"""Does a constraint hold, field by field (reference: authorization_policy.proto, ztunnel's rbac)."""

import pytest

from hbone.addr import parse_ip
from hbone.identity.spiffe import SpiffeId
from hbone.policy.match import FIELDS, Kind, Layer, predicate
from hbone.policy.model import (
    Account,
    ConnectionFacts,
    Constraint,
    Field,
    Form,
    Pattern,
    Request,
    Template,
    Value,
    caller,
)
from hbone.policy.values import parse_prefix
from hbone.policy.wording import failing, shown_values, written_name
from tests.unit.policy.builders import constraint, facts, value


def holds(one: Constraint, seen: ConnectionFacts) -> bool:
    return predicate(one)(seen)


def test_every_field_has_a_row() -> None:
    assert set(FIELDS) == set(Field)
    assert {row.kind for row in FIELDS.values()} <= set(Kind)


@pytest.mark.parametrize(
    ("written", "form", "text"),
    [
        ("*", Form.PRESENT, ""),
        ("*abc", Form.SUFFIX, "abc"),
        ("abc*", Form.PREFIX, "abc"),
        ("abc", Form.EXACT, "abc"),
        ("*x*", Form.SUFFIX, "x*"),
        ("a*b", Form.EXACT, "a*b"),
    ],
)
def test_a_text_becomes_a_pattern_and_is_written_back(written: str, form: Form, text: str) -> None:
    pattern = Pattern.parse(written)
    assert (pattern.form, pattern.text) == (form, text)
    assert str(pattern) == written


@pytest.mark.parametrize(
    ("field", "allowed", "fits"),
    [
        (Field.PRINCIPALS, "cluster.local/ns/web/sa/frontend", True),
        (Field.PRINCIPALS, "cluster.local/ns/web/sa/back", False),
        (Field.PRINCIPALS, "spiffe://cluster.local/ns/web/sa/frontend", False),
        (Field.PRINCIPALS, "cluster.local/ns/web/*", True),
        (Field.PRINCIPALS, "cluster.local/ns/we*", True),
        (Field.PRINCIPALS, "*/sa/frontend", True),
        (Field.PRINCIPALS, "*", True),
        (Field.NAMESPACES, "web", True),
        (Field.NAMESPACES, "we", False),
        (Field.NAMESPACES, "we*", True),
        (Field.NAMESPACES, "*eb", True),
        (Field.NAMESPACES, "*", True),
        (Field.NAMESPACES, "WEB", False),
        (Field.TRUST_DOMAINS, "cluster.local", True),
        (Field.TRUST_DOMAINS, "*.local", True),
        (Field.TRUST_DOMAINS, "other", False),
    ],
)
def test_callers_are_compared_by_pattern(field: Field, allowed: str, fits: bool) -> None:
    assert holds(constraint(field, allowed), facts()) is fits
    assert holds(constraint(field, refused=(allowed,)), facts()) is not fits


@pytest.mark.parametrize("field", [Field.PRINCIPALS, Field.NAMESPACES, Field.TRUST_DOMAINS])
@pytest.mark.parametrize("written", ["*", "web*", "*a", "cluster.local/ns/web/sa/frontend"])
def test_without_identity_positive_never_holds_and_negative_always(field: Field, written: str) -> None:
    plain = facts(None)
    assert not holds(constraint(field, written), plain)
    assert holds(constraint(field, refused=(written,)), plain)


def test_a_service_account_is_compared_whatever_its_trust_domain() -> None:
    wanted = Constraint(field=Field.SERVICE_ACCOUNTS, allowed=(Account("web", "frontend"),))
    assert holds(wanted, facts())
    assert holds(wanted, facts("spiffe://other.example/ns/web/sa/frontend"))
    assert not holds(wanted, facts("web/back"))
    assert not holds(wanted, facts(None))
    refused = Constraint(field=Field.SERVICE_ACCOUNTS, refused=wanted.allowed)
    assert holds(refused, facts(None))
    assert not holds(refused, facts())


def test_an_identity_of_another_form_has_a_principal_but_no_namespace() -> None:
    seen = facts("spiffe://cluster.local/payments/web")
    said = failing(constraint(Field.NAMESPACES, "web"), seen)
    assert said == "namespaces wants web, but cluster.local/payments/web has none"
    assert "the caller has no identity" in str(failing(constraint(Field.NAMESPACES, "web"), facts(None)))
    assert holds(constraint(Field.PRINCIPALS, "cluster.local/payments/web"), seen)
    assert not holds(constraint(Field.NAMESPACES, "*"), seen)
    assert caller(SpiffeId.parse("spiffe://cluster.local/payments/web")).account is None


@pytest.mark.parametrize(
    ("text", "ip", "fits"),
    [
        ("127.0.0.2", "127.0.0.2", True),
        ("127.0.0.2", "127.0.0.3", False),
        ("127.0.0.0/8", "127.9.9.9", True),
        ("127.0.0.7/8", "127.9.9.9", True),
        ("0.0.0.0/0", "127.0.0.2", True),
        ("::/0", "127.0.0.2", False),
        ("fd00::/16", "fd00::1", True),
        ("0.0.0.0/0", "fd00::1", False),
        ("::ffff:127.0.0.0/104", "127.0.0.2", True),
    ],
)
def test_addresses_are_compared_with_ranges_of_their_family(text: str, ip: str, fits: bool) -> None:
    assert holds(constraint(Field.SOURCE_IPS, text), facts(ip=ip)) is fits
    assert holds(constraint(Field.SOURCE_IPS, refused=(text,)), facts(ip=ip)) is not fits
    assert holds(constraint(Field.DESTINATION_IPS, text), facts(to_ip=ip)) is fits


def test_an_address_that_is_not_known_is_in_no_range() -> None:
    unknown = facts()._replace(source_ip=None)
    assert not holds(constraint(Field.SOURCE_IPS, "0.0.0.0/0"), unknown)
    assert "the source address is not known" in str(failing(constraint(Field.SOURCE_IPS, "0.0.0.0/0"), unknown))


def test_ports_are_compared_by_number() -> None:
    assert holds(constraint(Field.DESTINATION_PORTS, 80, 8080), facts())
    assert not holds(constraint(Field.DESTINATION_PORTS, 80), facts())
    assert not holds(constraint(Field.DESTINATION_PORTS, 8080, refused=(8080,)), facts())


SEEN = Request(
    method="GET",
    host="Cart.shop:8080",
    path="/api/items/7",
    headers={"x-version": "2,3", "x-empty": ""},
    claims={
        "iss": "https://issuer.example/a",
        "sub": "ann",
        "aud": ["shop", "web"],
        "azp": "app",
        "scope": "read write",
        "realm": {"roles": ["admin", "user"]},
        "age": 7,
    },
    remote_ip=parse_ip("203.0.113.9"),
)


def l7(field: Field, *allowed: Value, key: tuple[str, ...] = ()) -> Constraint:
    return Constraint(field=field, key=key, allowed=allowed)


@pytest.mark.parametrize(
    ("one", "fits"),
    [
        (l7(Field.METHODS, value("GET")), True),
        (l7(Field.METHODS, value("get")), False),
        (l7(Field.METHODS, value("G*")), True),
        (l7(Field.HOSTS, value("cart.SHOP:8080")), True),
        (l7(Field.HOSTS, value("cart.shop")), False),
        (l7(Field.HOSTS, value("cart.shop:*")), True),
        (l7(Field.HOSTS, value("*:8080")), True),
        (l7(Field.PATHS, value("/api/*")), True),
        (l7(Field.PATHS, value("/API/*")), False),
        (l7(Field.PATHS, Template("/api/{*}/7")), True),
        (l7(Field.PATHS, Template("/api/{*}")), False),
        (l7(Field.PATHS, Template("/api/{**}"), value("/x")), True),
        (l7(Field.HEADERS, value("2,3"), key=("x-version",)), True),
        (l7(Field.HEADERS, value("2"), key=("x-version",)), False),
        (l7(Field.HEADERS, value("*"), key=("x-empty",)), True),
        (l7(Field.HEADERS, value("*"), key=("x-none",)), False),
        (l7(Field.REMOTE_IPS, parse_prefix("203.0.113.0/24")), True),
        (l7(Field.REMOTE_IPS, parse_prefix("10.0.0.0/8")), False),
        (l7(Field.REQUEST_PRINCIPALS, value("https://issuer.example/a/ann")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("https://issuer.example/ann")), False),
        (l7(Field.REQUEST_PRINCIPALS, value("*")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("*/ann")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("https://issuer.example/a/*")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("*nn")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("https:*")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("ann")), False),
        (l7(Field.REQUEST_PRINCIPALS, value("https:*/a*")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("*/a/*nn")), True),
        (l7(Field.REQUEST_PRINCIPALS, value("*/b/*nn")), False),
        (l7(Field.AUDIENCES, value("web")), True),
        (l7(Field.AUDIENCES, value("db")), False),
        (l7(Field.PRESENTERS, value("app")), True),
        (l7(Field.CLAIMS, value("write"), key=("scope",)), True),
        (l7(Field.CLAIMS, value("admin"), key=("realm", "roles")), True),
        (l7(Field.CLAIMS, value("adm*"), key=("realm", "roles")), True),
        (l7(Field.CLAIMS, value("x"), key=("realm", "none", "deep")), False),
        (l7(Field.CLAIMS, value("7"), key=("age",)), False),
        (l7(Field.FILTER_STATE, value("x"), key=("f[k]",)), False),
    ],
)
def test_requests_are_compared_as_waypoints_do(one: Constraint, fits: bool) -> None:
    assert holds(one, facts(seen=SEEN)) is fits


def test_the_server_name_is_compared_where_requests_are_read() -> None:
    assert holds(l7(Field.SNI, value("*.example")), facts(seen=SEEN, sni="a.example"))
    assert not holds(l7(Field.SNI, value("*.example")), facts(seen=SEEN))


@pytest.mark.parametrize("field", [field for field, row in FIELDS.items() if row.layer is Layer.L7])
def test_nothing_of_a_request_holds_without_one(field: Field) -> None:
    key = ("x",) if field in {Field.HEADERS, Field.CLAIMS} else ()
    positive = Constraint(field=field, key=key, allowed=(value("*"),))
    negative = Constraint(field=field, key=key, refused=(value("no"),))
    assert not holds(positive, facts(sni="x"))
    assert not holds(negative, facts(sni="x"))
    assert "no request is seen" in str(failing(positive, facts(sni="x")))


def test_a_request_without_a_token_has_no_principal() -> None:
    seen = facts(seen=Request(claims=None))
    assert not holds(l7(Field.REQUEST_PRINCIPALS, value("*")), seen)
    assert not holds(l7(Field.REQUEST_PRINCIPALS, value("*")), facts(seen=Request(claims={"iss": "i"})))
    assert holds(Constraint(field=Field.REQUEST_PRINCIPALS, refused=(value("*"),)), seen)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (
            constraint(Field.PRINCIPALS, "a", "b"),
            "principals wants a, b, but the caller is cluster.local/ns/web/sa/frontend",
        ),
        (constraint(Field.NAMESPACES, refused=("web",)), "notNamespaces has web, and the caller's namespace is web"),
        (constraint(Field.DESTINATION_PORTS, 80), "ports wants 80, but the destination port is 8080"),
        (
            constraint(Field.DESTINATION_IPS, "10.0.0.0/8"),
            "destination.ip wants 10.0.0.0/8, but the destination address",
        ),
        (
            Constraint(field=Field.SERVICE_ACCOUNTS, allowed=(Account("a", "b"),)),
            "serviceAccounts wants a/b, but the caller's service account is web/frontend",
        ),
        (constraint(Field.DESTINATION_IPS, refused=("127.0.0.3",)), "not destination.ip has 127.0.0.3/32"),
    ],
)
def test_a_miss_tells_what_was_wanted_and_what_was_there(one: Constraint, words: str) -> None:
    assert words in str(failing(one, facts()))


def test_a_miss_on_a_request_names_the_key() -> None:
    header = l7(Field.HEADERS, value("9"), key=("x-version",))
    assert failing(header, facts(seen=SEEN)) == "request.headers[x-version] wants 9, but the header x-version is 2,3"
    claim = l7(Field.CLAIMS, value("none"), key=("realm", "roles"))
    assert "the token's claim realm.roles is admin, user" in str(failing(claim, facts(seen=SEEN)))
    principal = l7(Field.REQUEST_PRINCIPALS, value("none"))
    assert "is https://issuer.example/a/ann" in str(failing(principal, facts(seen=SEEN)))
    state = Constraint(field=Field.FILTER_STATE, key=("f[k]",), allowed=(value("x"),))
    assert written_name(state, negated=False) == "experimental.envoy.filters.f[k]"


def test_what_holds_has_no_miss_and_long_lists_are_cut() -> None:
    assert failing(constraint(Field.DESTINATION_PORTS, 8080), facts()) is None
    assert shown_values(tuple(range(9))) == "0, 1, 2, 3 and 5 more"
