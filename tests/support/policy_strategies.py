"""Policies and connections for property tests, from a world so small that they meet all the time."""

from collections.abc import Iterator
from itertools import product

from hypothesis import strategies as st

from hbone.addr import IpAddress, parse_ip
from hbone.identity.spiffe import SpiffeId
from hbone.policy.model import (
    PRESENT,
    Account,
    Action,
    Authorization,
    Clause,
    ConnectionFacts,
    Constraint,
    Destination,
    Field,
    Form,
    Match,
    Pattern,
    Rule,
    Scope,
    Value,
    caller,
)
from hbone.policy.values import parse_prefix

NAMESPACES = ("web", "shop", "w")
IDENTITIES = (
    *(SpiffeId.for_workload(td, ns, sa) for td in ("a.b", "a.bc") for ns in NAMESPACES for sa in ("x", "xy")),
    SpiffeId.parse("spiffe://a.b/ns/web/other"),
    SpiffeId.parse("spiffe://a.b/web"),
)
ADDRESSES = tuple(parse_ip(ip) for ip in ("10.0.0.1", "10.0.1.1", "192.168.0.9", "fd00::1", "fd00:1::1"))
RANGES = tuple(
    parse_prefix(text)
    for text in ("10.0.0.1", "10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "fd00::/16", "fd00::1", "::/0", "192.168.0.0/31")
)
PORTS = (80, 8080, 9090)
KEYS = ("shop/p0", "shop/p1", "root/p0", "web/p2")


def _patterns(*texts: str) -> st.SearchStrategy[Value]:
    forms = st.sampled_from([Form.EXACT, Form.PREFIX, Form.SUFFIX])
    return st.one_of(st.just(PRESENT), st.builds(Pattern, forms, st.sampled_from(texts)))


_values: dict[Field, st.SearchStrategy[Value]] = {
    Field.PRINCIPALS: _patterns("a.b/ns/web/sa/x", "a.b/ns/web/sa/xy", "a.b/ns/web/", "a.b/ns/w", "a.b", "/sa/x"),
    Field.NAMESPACES: _patterns("web", "w", "shop", "b"),
    Field.TRUST_DOMAINS: _patterns("a.b", "a.bc", "c"),
    Field.SERVICE_ACCOUNTS: st.builds(Account, st.sampled_from(NAMESPACES), st.sampled_from(("x", "xy"))),
    Field.SOURCE_IPS: st.sampled_from(RANGES),
    Field.DESTINATION_IPS: st.sampled_from(RANGES),
    Field.DESTINATION_PORTS: st.sampled_from(PORTS),
}


@st.composite
def constraints(draw: st.DrawFn) -> Constraint:
    field = draw(st.sampled_from((*_values, Field.PRINCIPALS, Field.PRINCIPALS, Field.NAMESPACES)))
    values = st.lists(_values[field], max_size=3, unique=True).map(tuple)
    allowed, refused = draw(st.tuples(values, values).filter(any))
    return Constraint(field=field, allowed=allowed, refused=refused if draw(st.booleans()) or not allowed else ())


# mostly the simple shapes, which connections fit: what is deeply nested fits nothing and proves little
_empty_or_more = st.sampled_from((1, 1, 1, 1, 2, 2, 3, 0))


@st.composite
def matches(draw: st.DrawFn) -> Match:
    count = draw(_empty_or_more)
    fields = st.lists(constraints(), min_size=count, max_size=count, unique_by=lambda one: one.field)
    return Match(tuple(draw(fields)))


@st.composite
def clauses(draw: st.DrawFn) -> Clause:
    return Clause(tuple(draw(matches()) for _ in range(draw(_empty_or_more))))


@st.composite
def rules(draw: st.DrawFn, number: int = 0) -> Rule:
    unknown = "a newer field" if draw(st.integers(0, 30)) == 0 else None
    return Rule(clauses=tuple(draw(clauses()) for _ in range(draw(_empty_or_more))), number=number, unknown=unknown)


@st.composite
def authorizations(draw: st.DrawFn, key: str = "shop/p0") -> Authorization:
    namespace, name = key.split("/")
    count = draw(st.integers(0, 3))
    return Authorization(
        namespace=namespace,
        name=name,
        scope=draw(st.sampled_from((Scope.GLOBAL, Scope.GLOBAL, Scope.NAMESPACE, Scope.WORKLOAD_SELECTOR))),
        action=draw(st.sampled_from(Action)),
        rules=tuple(draw(rules(number)) for number in range(count)),
        dry_run=draw(st.integers(0, 4)) == 0,
    )


@st.composite
def policy_sets(draw: st.DrawFn) -> tuple[Authorization, ...]:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, min_size=1, max_size=len(KEYS)))
    return tuple(draw(authorizations(key)) for key in keys)


addresses: st.SearchStrategy[IpAddress] = st.sampled_from(ADDRESSES)


@st.composite
def connections(draw: st.DrawFn) -> ConnectionFacts:
    return ConnectionFacts(
        caller(draw(st.one_of(st.none(), st.sampled_from(IDENTITIES)))),
        draw(st.one_of(addresses, st.none())),
        Destination(
            draw(st.sampled_from(("shop", "shop", "web"))),
            tuple(draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=draw(st.sampled_from((0, 0, 0, 2)))))),
        ),
        draw(st.one_of(addresses, st.none())),
        draw(st.sampled_from(PORTS)),
    )


def every_connection(destination: Destination) -> Iterator[ConnectionFacts]:
    """From everybody, from everywhere, to every port."""
    for identity, ip, port in product((None, *IDENTITIES), ADDRESSES, PORTS):
        yield ConnectionFacts(caller(identity), ip, destination, ADDRESSES[0], port)


def callers_of(facts: ConnectionFacts) -> tuple[ConnectionFacts, ...]:
    """The same connection from everybody."""
    return tuple(facts._replace(caller=caller(identity)) for identity in (None, *IDENTITIES))
