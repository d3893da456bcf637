"""A mesh as policy sees it: the policies as written, the workloads, and questions about connections between them."""

from collections.abc import Iterable, Sequence
from dataclasses import field
from difflib import get_close_matches

from hbone.addr import IpAddress
from hbone.errors import UsageError
from hbone.identity.spiffe import SCHEME, SpiffeId
from hbone.policy.compile import Compiled, compile_policies
from hbone.policy.decide import PolicyEngine
from hbone.policy.manifests import Policies
from hbone.policy.match import Layer
from hbone.policy.model import ConnectionFacts, MeshNames, Request, Subject, caller
from hbone.values import dataclass


class UnknownWorkload(UsageError):
    """A name that no workload has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A connection that may not exist. `identity` is None for one that proves none; `source_ip` None if not known."""

    identity: SpiffeId | None
    source_ip: IpAddress | None
    subject: Subject
    port: int
    request: Request | None = None
    sni: str = ""


@dataclass(slots=True)
class _Side:
    compiled: Compiled
    engine: PolicyEngine


@dataclass(slots=True, kw_only=True)
class World:
    """Everything a question needs."""

    names: MeshNames
    policies: Policies
    subjects: tuple[Subject, ...]
    _sides: dict[Layer, _Side] = field(default_factory=dict[Layer, _Side])
    _by_key: dict[str, Subject] = field(default_factory=dict[str, Subject])
    _by_ip: dict[IpAddress, Subject] = field(default_factory=dict[IpAddress, Subject])
    _by_namespace: dict[str, list[Subject]] = field(default_factory=dict[str, list[Subject]])

    def __post_init__(self) -> None:
        for subject in self.subjects:
            self._by_key.setdefault(subject.key, subject)
            self._by_namespace.setdefault(subject.namespace, []).append(subject)
            for ip in subject.addresses:
                self._by_ip.setdefault(ip, subject)

    def compiled(self, layer: Layer = Layer.L4) -> Compiled:
        return self._side(layer).compiled

    def engine(self, layer: Layer = Layer.L4) -> PolicyEngine:
        return self._side(layer).engine

    def _side(self, layer: Layer) -> _Side:
        if layer not in self._sides:
            compiled = compile_policies(self.policies, self.names, layer)
            self._sides[layer] = _Side(compiled, PolicyEngine(compiled.authorizations))
        return self._sides[layer]

    def find(self, key: str) -> Subject | None:
        """The workload called "namespace/name"."""
        return self._by_key.get(key)

    def within_reach(self, namespace: str) -> Sequence[Subject]:
        """The workloads that a policy of `namespace` may be for; its selector says for which of them it is."""
        return self.subjects if namespace == self.names.root_namespace else self._by_namespace.get(namespace, ())

    def at(self, ip: IpAddress) -> Subject | None:
        return self._by_ip.get(ip)

    def named(self, key: str) -> Subject:
        """As `find`; raises UnknownWorkload, with the nearest name."""
        found = self._by_key.get(key)
        if found is None:
            near = nearest_key(key, self._by_key)
            known = ", ".join(list(self._by_key)[:5]) or "none"
            fix = f"did you mean {near}?" if near else f"the workloads are: {known}"
            raise UnknownWorkload(f"there is no workload {key}", fix=fix, workload=key)
        return found

    def address_of(self, identity: SpiffeId) -> IpAddress | None:
        """Where a workload of that identity runs."""
        return next((ip for s in self.subjects if s.identity == identity for ip in s.addresses), None)

    def facts(self, question: Question, layer: Layer = Layer.L4) -> ConnectionFacts:
        subject = question.subject
        return ConnectionFacts(
            caller(question.identity),
            question.source_ip,
            self.compiled(layer).destination(subject),
            next(iter(subject.addresses), None),
            question.port,
            question.request if layer is Layer.L7 else None,
            question.sni,
        )

    def allows(self, question: Question) -> bool:
        """The verdict of the node alone."""
        return self.engine().allows(self.facts(question))


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(key, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def parse_identity(text: str, names: MeshNames) -> SpiffeId:
    """`spiffe://…`, or NAMESPACE/ACCOUNT of the mesh's own trust domain. Raises InvalidSpiffeId or UsageError."""
    if text.startswith(SCHEME):
        return SpiffeId.parse(text)
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        raise UsageError(f"{text!r} is no identity", fix="write NAMESPACE/ACCOUNT, as in web/frontend, or spiffe://…")
    return SpiffeId.for_workload(names.trust_domain, *parts)
