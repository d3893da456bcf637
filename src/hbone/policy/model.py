"""What policies are made of, and what they may look at.

A policy (`Authorization`) has rules, any of which may fit; a rule has clauses, all of which must hold; a clause has
matches, any of which suffices; a match has constraints on fields, all of which must hold. These are the three levels
of the `istio.security.Authorization` that nodes are sent; what an AuthorizationPolicy says fits into them too: `to`,
`from` and each `when` are a clause, their items its matches.

Nothing is a special case twice: a rule without clauses fits everything, a clause without matches holds, but a match
without constraints holds never, and a policy without rules fits nothing.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from hbone.addr import IpAddress, Prefix
from hbone.identity.spiffe import SCHEME, SpiffeId
from hbone.values import dataclass

JsonValue: TypeAlias = "Mapping[str, JsonValue] | list[JsonValue] | str | float | bool | None"


class Form(Enum):
    """How a pattern compares."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENT = "presence"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text to compare with. An empty text, such as the identity of a plaintext peer, fits none."""

    form: Form
    text: str = ""

    @classmethod
    def parse(cls, written: str) -> "Pattern":
        """As in manifests: `*`, `*suffix`, `prefix*`, else exact; in this order, so `*x*` is the suffix `x*`."""
        if written == "*":
            return PRESENT
        if written.startswith("*"):
            return cls(Form.SUFFIX, written[1:])
        if written.endswith("*"):
            return cls(Form.PREFIX, written[:-1])
        return cls(Form.EXACT, written)

    def __str__(self) -> str:
        match self.form:
            case Form.EXACT:
                return self.text
            case Form.PREFIX:
                return f"{self.text}*"
            case Form.SUFFIX:
                return f"*{self.text}"
            case Form.PRESENT:
                return "*"


PRESENT: Final = Pattern(Form.PRESENT)


class Account(NamedTuple):
    """A service account, whatever its trust domain."""

    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"


@dataclass(frozen=True, slots=True)
class Template:
    """A path with `{*}` for one segment and `{**}` for any number; `hbone.policy.paths` says which paths fit."""

    text: str

    def __str__(self) -> str:
        return self.text


Value = Pattern | Prefix | Account | Template | int
"""What a constraint lists; an int is a port."""


class Field(Enum):
    """What a constraint may look at; `hbone.policy.match` has all else about each, in one table."""

    PRINCIPALS = "principals"
    NAMESPACES = "namespaces"
    SERVICE_ACCOUNTS = "service accounts"
    TRUST_DOMAINS = "trust domains"
    SOURCE_IPS = "source addresses"
    DESTINATION_IPS = "destination addresses"
    DESTINATION_PORTS = "destination ports"
    SNI = "server names"
    REMOTE_IPS = "client addresses"
    REQUEST_PRINCIPALS = "request principals"
    AUDIENCES = "token audiences"
    PRESENTERS = "token presenters"
    CLAIMS = "token claims"
    HOSTS = "hosts"
    METHODS = "methods"
    PATHS = "paths"
    HEADERS = "headers"
    FILTER_STATE = "Envoy filter state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One field, with what it may be (empty: anything) and what it must not be.

    `key` is the name of a header (in lower case), or the path to a claim; empty for other fields.
    """

    field: Field
    key: tuple[str, ...] = ()
    allowed: tuple[Value, ...] = ()
    refused: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Constraints that must all hold; none at all hold never."""

    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """Matches of which one must hold; `name` is what it was written as: "from", "to", a condition's key."""

    matches: tuple[Match, ...] = ()
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Clauses that must all hold. `number` is its place in the policy as written, `place` its file:line.

    `unknown` says what in it is not understood: such a rule never allows and always denies.
    """

    clauses: tuple[Clause, ...] = ()
    number: int = 0
    place: str | None = field(default=None, compare=False)
    unknown: str | None = None


class Action(Enum):
    ALLOW = "Allow"
    DENY = "Deny"
    AUDIT = "Audit"


class Scope(Enum):
    """Whom a policy is for: everybody, a namespace, or the workloads that name it."""

    GLOBAL = "Global"
    NAMESPACE = "Namespace"
    WORKLOAD_SELECTOR = "WorkloadSelector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """A policy as it is enforced. `place` is the file:line it was written at, where that is known."""

    namespace: str
    name: str
    scope: Scope
    action: Action
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False
    place: str | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """ "namespace/name", its name in the mesh."""
        return f"{self.namespace}/{self.name}"


def closed(namespace: str, name: str, scope: Scope, why: str) -> Authorization:
    """In place of a policy that cannot be read and has no former version: denies everything it could be about."""
    rule = Rule(unknown=why)
    return Authorization(namespace=namespace, name=name, scope=scope, action=Action.DENY, rules=(rule,))


# facts


def head_of(principal: str) -> str:
    """`cluster.local/ns/shop/`, as far as a principal (or the beginning of one) has it; "" where it is shorter."""
    parts = principal.split("/", 3)
    return "/".join((*parts[:3], "")) if len(parts) == 4 else ""


class Caller:
    """Who calls, in every form that rules ask for; all empty for a peer that proved no identity.

    Make one for a tunnel, not for each connection in it.
    """

    __slots__ = ("account", "head", "identity", "namespace", "principal", "trust_domain")

    def __init__(self, identity: SpiffeId | None) -> None:
        self.identity = identity
        self.principal = str(identity).removeprefix(SCHEME) if identity is not None else ""
        self.trust_domain = str(identity.trust_domain) if identity is not None else ""
        workload = identity.workload if identity is not None else None
        self.namespace = workload[0] if workload is not None else ""
        self.account = Account(*workload) if workload is not None else None
        self.head = head_of(self.principal)

    def __str__(self) -> str:
        return self.principal or "a peer without identity"


ANONYMOUS: Final = Caller(None)


@lru_cache(maxsize=65536)
def caller(identity: SpiffeId | None) -> Caller:
    """The one Caller of an identity."""
    return ANONYMOUS if identity is None else Caller(identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request, as a proxy that sees requests knows it.

    `path` is what rules compare with: normalised, without query and fragment (`hbone.policy.paths`). `headers` have
    lower-case names, several values of one joined by commas. `claims` are those of a verified token, None without
    one. `remote_ip` is the client as the proxy trusts it to be.
    """

    method: str = ""
    host: str = ""
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    claims: Mapping[str, JsonValue] | None = None
    remote_ip: IpAddress | None = None


class Destination(NamedTuple):
    """The workload that is called: its namespace, and the keys of the policies that select it."""

    namespace: str
    policies: tuple[str, ...] = ()


class ConnectionFacts(NamedTuple):
    """All that a rule may look at.

    `destination_port` is the workload's own: in a tunnel that of the CONNECT, never 15008. `source_ip` is the TCP
    peer's. Addresses are None only where a question is asked about a connection that does not exist.
    """

    caller: Caller
    source_ip: IpAddress | None
    destination: Destination
    destination_ip: IpAddress | None
    destination_port: int
    request: Request | None = None
    sni: str = ""


class Transport(Enum):
    """How a connection arrives."""

    HBONE = "hbone"
    PLAINTEXT = "plaintext"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A workload as policy sees it.

    `ports` are those it is known to serve. `services` are the objects it is an endpoint of, `waypoints` those that
    requests to it pass, as "namespace/name". `transport` tells whether a node stands before it.
    """

    namespace: str
    name: str
    identity: SpiffeId
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    addresses: tuple[IpAddress, ...] = ()
    transport: Transport = Transport.HBONE
    ports: frozenset[int] = frozenset()
    services: tuple[str, ...] = ()
    waypoints: tuple[str, ...] = ()
    place: str | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshNames:
    """The names of this mesh that policies depend on."""

    root_namespace: str = "istio-system"
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """Its own, then the aliases."""
        return tuple(dict.fromkeys((self.trust_domain, *self.trust_domain_aliases)))
