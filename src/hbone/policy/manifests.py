"""The policies as users write them: AuthorizationPolicy, PeerAuthentication, RequestAuthentication.

Rules are as written, with every field; what of them a node can enforce is for `hbone.policy.compile` to say.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum

from hbone.policy.model import Action, Rule, Subject
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    """What a waypoint's policy is attached to: a Service, ServiceEntry, Gateway or GatewayClass."""

    kind: str
    name: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Whom a policy is for. No labels and no targets: everybody within reach of its namespace.

    `empty_selector`: a selector without labels was written, which means nothing.
    """

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    targets: tuple[TargetRef, ...] = ()
    empty_selector: bool = False

    def takes_labels(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.labels.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    namespace: str
    name: str
    action: Action = Action.ALLOW
    selection: Selection = Selection()
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False
    place: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def selects(self, subject: Subject, root_namespace: str) -> bool:
        """Whether nodes enforce it for a workload; policies with targets are for waypoints alone."""
        if self.selection.targets or self.namespace not in {subject.namespace, root_namespace}:
            return False
        return self.selection.takes_labels(subject.labels)

    def targets(self, subject: Subject, root_namespace: str) -> bool:
        """Whether a waypoint enforces it for a workload."""
        for target in self.selection.targets:
            match target.kind:
                case "GatewayClass":
                    found = self.namespace == root_namespace and bool(subject.waypoints)
                case "Gateway":
                    found = f"{self.namespace}/{target.name}" in subject.waypoints
                case _:
                    found = f"{self.namespace}/{target.name}" in subject.services
            if found:
                return True
        return False


class Mode(Enum):
    """What a listener demands; UNSET asks the wider policy."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """`created` is the creationTimestamp as text, "" where there is none; `ports` are the workload's own."""

    namespace: str
    name: str
    selection: Selection = Selection()
    mode: Mode = Mode.UNSET
    ports: Mapping[int, Mode] = field(default_factory=dict[int, Mode])
    created: str = ""
    place: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenHeader:
    """A header that may carry a token, after `prefix`."""

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """Whose tokens are taken, and where they are looked for. `jwks` is the key set itself, as JSON text."""

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 5.0
    space_delimited_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication:
    """Validated and kept for a proxy that reads requests; nodes do nothing with it."""

    namespace: str
    name: str
    selection: Selection = Selection()
    rules: tuple[JwtRule, ...] = ()
    place: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All security policies of a set of manifests."""

    authorization: tuple[AuthorizationPolicy, ...] = ()
    peer: tuple[PeerAuthentication, ...] = ()
    request: tuple[RequestAuthentication, ...] = ()
