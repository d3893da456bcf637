"""The table of what rules can look at, and whether a constraint holds.

Everything that must agree about a field is one row of `FIELDS`: how manifests and the wire call it, which values it
takes, which proxy can see it, how the fact is read, and how an explanation speaks of it. Parsers, the compiler, the
index, explanations and the reference all read the row; nothing lists the fields a second time.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from operator import attrgetter
from typing import Final, cast

from hbone.addr import Prefix
from hbone.policy import claims
from hbone.policy.model import (
    ConnectionFacts,
    Constraint,
    Field,
    Form,
    Pattern,
    Template,
    Value,
)
from hbone.policy.paths import template_pattern
from hbone.values import dataclass

Predicate = Callable[[ConnectionFacts], bool]
Read = Callable[[ConnectionFacts], object]
Reader = Callable[[tuple[str, ...]], Read]
"""Makes, for a constraint's key, what reads the fact."""
Fits = Callable[[object], bool]
"""Whether a fact is among a list of values; a fact that is not there (None, "") is among none."""


class Layer(Enum):
    """Which proxy can see it: every node, or only one that reads HTTP requests."""

    L4 = "l4"
    L7 = "l7"


class Kind(Enum):
    """Which values a field takes."""

    PRINCIPAL = "principal"
    TEXT = "text"
    ACCOUNT = "service account"
    TRUST_DOMAIN = "trust domain"
    ADDRESS = "address"
    PORT = "port"
    HOST = "host"
    PATH = "path"
    HEADER = "header"
    REQUEST_PRINCIPAL = "request principal"
    CLAIM = "claim"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """One field. Empty names: not to be written there.

    `source`, `operation`: what it is called in a rule's `from` and `to`. `condition`: its key in `when`; one that
    ends in "[" takes names in brackets. `wire`: its name in a match of ztunnel's local file, and in snake case in
    `istio.security.Match`; `trustDomains` is ours alone. `subject`: what an explanation calls the fact.
    """

    layer: Layer
    kind: Kind
    read: Reader
    subject: str
    source: str = ""
    operation: str = ""
    condition: str = ""
    wire: str = ""


def _fact(path: str) -> Reader:
    read: Read = attrgetter(path)
    return lambda _key: read


def _request(name: str) -> Reader:
    of_request = attrgetter(name)

    def read(facts: ConnectionFacts) -> object:
        return None if facts.request is None else of_request(facts.request)

    return lambda _key: read


def _header(key: tuple[str, ...]) -> Read:
    return lambda facts: None if facts.request is None else facts.request.headers.get(key[0])


def _claim(key: tuple[str, ...]) -> Read:
    return lambda facts: None if facts.request is None else claims.texts_at(facts.request.claims, key)


def _request_principal(_key: tuple[str, ...]) -> Read:
    return lambda facts: None if facts.request is None else claims.request_principal(facts.request.claims)


FIELDS: Final[Mapping[Field, FieldRow]] = {
    Field.PRINCIPALS: FieldRow(
        layer=Layer.L4,
        kind=Kind.PRINCIPAL,
        read=_fact("caller.principal"),
        subject="the caller",
        source="principals",
        condition="source.principal",
        wire="principals",
    ),
    Field.NAMESPACES: FieldRow(
        layer=Layer.L4,
        kind=Kind.TEXT,
        read=_fact("caller.namespace"),
        subject="the caller's namespace",
        source="namespaces",
        condition="source.namespace",
        wire="namespaces",
    ),
    Field.SERVICE_ACCOUNTS: FieldRow(
        layer=Layer.L4,
        kind=Kind.ACCOUNT,
        read=_fact("caller.account"),
        subject="the caller's service account",
        source="serviceAccounts",
        condition="source.serviceAccount",
        wire="serviceAccounts",
    ),
    Field.TRUST_DOMAINS: FieldRow(
        layer=Layer.L4,
        kind=Kind.TRUST_DOMAIN,
        read=_fact("caller.trust_domain"),
        subject="the caller's trust domain",
        source="trustDomains",
        condition="source.trustDomain",
        wire="trustDomains",
    ),
    Field.SOURCE_IPS: FieldRow(
        layer=Layer.L4,
        kind=Kind.ADDRESS,
        read=_fact("source_ip"),
        subject="the source address",
        source="ipBlocks",
        condition="source.ip",
        wire="sourceIps",
    ),
    Field.DESTINATION_IPS: FieldRow(
        layer=Layer.L4,
        kind=Kind.ADDRESS,
        read=_fact("destination_ip"),
        subject="the destination address",
        condition="destination.ip",
        wire="destinationIps",
    ),
    Field.DESTINATION_PORTS: FieldRow(
        layer=Layer.L4,
        kind=Kind.PORT,
        read=_fact("destination_port"),
        subject="the destination port",
        operation="ports",
        condition="destination.port",
        wire="destinationPorts",
    ),
    Field.SNI: FieldRow(
        layer=Layer.L7,
        kind=Kind.TEXT,
        read=_fact("sni"),
        subject="the TLS server name",
        condition="connection.sni",
    ),
    Field.REMOTE_IPS: FieldRow(
        layer=Layer.L7,
        kind=Kind.ADDRESS,
        read=_request("remote_ip"),
        subject="the client address",
        source="remoteIpBlocks",
        condition="remote.ip",
    ),
    Field.REQUEST_PRINCIPALS: FieldRow(
        layer=Layer.L7,
        kind=Kind.REQUEST_PRINCIPAL,
        read=_request_principal,
        subject="the request's principal",
        source="requestPrincipals",
        condition="request.auth.principal",
    ),
    Field.AUDIENCES: FieldRow(
        layer=Layer.L7,
        kind=Kind.CLAIM,
        read=lambda _key: _claim(("aud",)),
        subject="the token's audience",
        condition="request.auth.audiences",
    ),
    Field.PRESENTERS: FieldRow(
        layer=Layer.L7,
        kind=Kind.CLAIM,
        read=lambda _key: _claim(("azp",)),
        subject="the token's presenter",
        condition="request.auth.presenter",
    ),
    Field.CLAIMS: FieldRow(
        layer=Layer.L7, kind=Kind.CLAIM, read=_claim, subject="the token's claim", condition="request.auth.claims["
    ),
    Field.HOSTS: FieldRow(
        layer=Layer.L7, kind=Kind.HOST, read=_request("host"), subject="the requested host", operation="hosts"
    ),
    Field.METHODS: FieldRow(
        layer=Layer.L7, kind=Kind.TEXT, read=_request("method"), subject="the method", operation="methods"
    ),
    Field.PATHS: FieldRow(layer=Layer.L7, kind=Kind.PATH, read=_request("path"), subject="the path", operation="paths"),
    Field.HEADERS: FieldRow(
        layer=Layer.L7, kind=Kind.HEADER, read=_header, subject="the header", condition="request.headers["
    ),
    Field.FILTER_STATE: FieldRow(
        layer=Layer.L7,
        kind=Kind.OPAQUE,
        read=lambda _key: lambda _facts: None,
        subject="Envoy's filter state",
        condition="experimental.envoy.filters.",
    ),
}


def is_l7(constraint: Constraint) -> bool:
    """Whether only a proxy that reads requests can tell."""
    return FIELDS[constraint.field].layer is Layer.L7


# does a fact fit


def _texts(values: Sequence[Value], *, fold: bool = False) -> Fits:
    patterns = [value for value in values if isinstance(value, Pattern)]

    def of(form: Form) -> tuple[str, ...]:
        return tuple(p.text.lower() if fold else p.text for p in patterns if p.form is form)

    exact, prefixes, suffixes = frozenset(of(Form.EXACT)), of(Form.PREFIX), of(Form.SUFFIX)
    if any(p.form is Form.PRESENT for p in patterns):
        return bool
    if not prefixes and not suffixes and not fold:
        return lambda fact: fact in exact and fact != ""

    def fits(fact: object) -> bool:
        if not fact:
            return False
        text = cast("str", fact).lower() if fold else cast("str", fact)
        return text in exact or text.startswith(prefixes) or text.endswith(suffixes)

    return fits


def _headers(values: Sequence[Value]) -> Fits:
    if any(isinstance(value, Pattern) and value.form is Form.PRESENT for value in values):
        return lambda fact: fact is not None  # an empty header is there all the same
    return _texts(values)


def _paths(values: Sequence[Value]) -> Fits:
    templates = [template_pattern(value.text) for value in values if isinstance(value, Template)]
    plain = _texts(values)
    if not templates:
        return plain
    return lambda fact: plain(fact) or (isinstance(fact, str) and any(t.fullmatch(fact) for t in templates))


def _claims(values: Sequence[Value]) -> Fits:
    fits = _texts(values)
    return lambda fact: any(map(fits, cast("Sequence[str]", fact))) if fact else False


def _request_principals(values: Sequence[Value]) -> Fits:
    patterns = [value for value in values if isinstance(value, Pattern)]
    return lambda fact: (
        fact is not None and any(claims.principal_fits(pattern, cast("tuple[str, str]", fact)) for pattern in patterns)
    )


def _equal(values: Sequence[Value]) -> Fits:
    wanted = frozenset(values)
    return lambda fact: fact in wanted


def _addresses(values: Sequence[Value]) -> Fits:
    v4: list[tuple[int, int]] = []
    v6: list[tuple[int, int]] = []
    for value in values:
        if isinstance(value, Prefix):
            network = value.network
            (v4 if network.version == 4 else v6).append((int(network.netmask), int(network.network_address)))

    def fits(fact: object) -> bool:
        if isinstance(fact, IPv4Address):
            return _within(int(fact), v4)
        return isinstance(fact, IPv6Address) and _within(int(fact), v6)

    return fits


def _within(number: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(number & mask == network for mask, network in ranges)


_FITS: Final[Mapping[Kind, Callable[[Sequence[Value]], Fits]]] = {
    Kind.PRINCIPAL: _texts,
    Kind.TEXT: _texts,
    Kind.TRUST_DOMAIN: _texts,
    Kind.ACCOUNT: _equal,
    Kind.PORT: _equal,
    Kind.ADDRESS: _addresses,
    Kind.HOST: partial(_texts, fold=True),
    Kind.PATH: _paths,
    Kind.HEADER: _headers,
    Kind.REQUEST_PRINCIPAL: _request_principals,
    Kind.CLAIM: _claims,
    Kind.OPAQUE: _equal,
}


def fits(field: Field, values: Sequence[Value]) -> Fits:
    """Whether a fact of `field` is among `values`."""
    return _FITS[FIELDS[field].kind](values)


def fact(constraint: Constraint, facts: ConnectionFacts) -> object:
    """What `facts` have where the constraint looks."""
    return FIELDS[constraint.field].read(constraint.key)(facts)


def predicate(constraint: Constraint) -> Predicate:
    """Whether it holds: nothing allowed or the fact among it, and the fact not among what is refused.

    A field that only requests have does not hold without a request, whatever is asked of it.
    """
    row = FIELDS[constraint.field]
    among = fits(constraint.field, constraint.allowed) if constraint.allowed else None
    barred = fits(constraint.field, constraint.refused) if constraint.refused else None
    test = _test(row.read(constraint.key), among, barred)
    if row.layer is Layer.L7:
        return lambda facts: facts.request is not None and test(facts)
    return test


def _test(read: Read, among: Fits | None, barred: Fits | None) -> Predicate:
    if among is None:
        return (lambda facts: not barred(read(facts))) if barred is not None else lambda _: True
    if barred is None:
        return lambda facts: among(read(facts))

    def both(facts: ConnectionFacts) -> bool:
        value = read(facts)
        return among(value) and not barred(value)

    return both
