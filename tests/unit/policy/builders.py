"""Short ways to write policies, workloads and connections for tests."""

from textwrap import dedent

from hbone.addr import parse_ip
from hbone.discovery.manifests import Defaults
from hbone.discovery.subjects import parse_secured, world_of
from hbone.documents.document import parse_documents
from hbone.errors import InvalidConfiguration
from hbone.identity.spiffe import SpiffeId
from hbone.policy.manifests import Policies
from hbone.policy.model import (
    Action,
    Authorization,
    Clause,
    ConnectionFacts,
    Constraint,
    Destination,
    Field,
    Match,
    MeshNames,
    Pattern,
    Request,
    Rule,
    Scope,
    Value,
    caller,
)
from hbone.policy.parse import parse_policies
from hbone.policy.values import parse_prefix
from hbone.policy.world import Question, World, parse_identity

WORKLOADS = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: frontend-0, namespace: web, labels: {app: frontend}}
spec: {address: 127.0.0.2, serviceAccount: frontend}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec: {address: 127.0.0.3, serviceAccount: cart}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {address: 127.0.0.4, serviceAccount: db}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}
"""


def authorization(name: str, spec: str, *, namespace: str = "shop", annotations: str = "{}") -> str:
    """An AuthorizationPolicy; `spec` is YAML, indented as you like."""
    head = f"metadata: {{name: {name}, namespace: {namespace}, annotations: {annotations}}}"
    return _manifest("AuthorizationPolicy", head, spec)


def peer(name: str, spec: str, *, namespace: str = "shop", created: str = "") -> str:
    age = f", creationTimestamp: '{created}'" if created else ""
    return _manifest("PeerAuthentication", f"metadata: {{name: {name}, namespace: {namespace}{age}}}", spec)


def request(name: str, spec: str) -> str:
    return _manifest("RequestAuthentication", f"metadata: {{name: {name}, namespace: shop}}", spec)


def _manifest(kind: str, metadata: str, spec: str) -> str:
    body = dedent(spec).strip("\n")
    inner = (
        f"spec: {body}" if body.startswith("{") else "spec:\n" + "\n".join(f"  {line}" for line in body.splitlines())
    )
    return f"apiVersion: security.istio.io/v1\nkind: {kind}\n{metadata}\n{inner}\n"


def policies(*manifests: str) -> Policies:
    """Raises InvalidConfiguration."""
    return parse_policies(parse_documents("p.yaml", "\n---\n".join(manifests)))


def problems(*manifests: str) -> list[str]:
    """What is wrong with them, as an operator reads it; empty when nothing is."""
    try:
        policies(*manifests)
    except InvalidConfiguration as error:
        return [str(problem) for problem in error.problems]
    return []


def world(*manifests: str, workloads: str = WORKLOADS, names: MeshNames | None = None) -> World:
    names = names or MeshNames()
    text = "\n---\n".join((*manifests, workloads))
    return world_of(parse_secured({"p.yaml": text}, Defaults(trust_domain=names.trust_domain)), names)


def question(
    mesh: World,
    source: str | None = "web/frontend",
    to: str = "shop/cart-0:8080",
    *,
    ip: str | None = "127.0.0.2",
    seen: Request | None = None,
) -> Question:
    """`source` None: in plaintext."""
    key, _, port = to.rpartition(":")
    return Question(
        identity=parse_identity(source, mesh.names) if source is not None else None,
        source_ip=parse_ip(ip) if ip is not None else None,
        subject=mesh.named(key),
        port=int(port),
        request=seen,
    )


def allows(
    mesh: World, source: str | None = "web/frontend", to: str = "shop/cart-0:8080", ip: str = "127.0.0.2"
) -> bool:
    return mesh.allows(question(mesh, source, to, ip=ip))


# as nodes hold them


def value(written: str | int) -> Value:
    return written if isinstance(written, int) else Pattern.parse(written)


def constraint(field: Field, *allowed: str | int, refused: tuple[str | int, ...] = ()) -> Constraint:
    """Texts are patterns as in manifests; for fields of addresses they are ranges."""
    ranges = field in {Field.SOURCE_IPS, Field.DESTINATION_IPS}

    def make(written: str | int) -> Value:
        return parse_prefix(str(written)) if ranges else value(written)

    return Constraint(field=field, allowed=tuple(map(make, allowed)), refused=tuple(map(make, refused)))


def rule(*constraints: Constraint, number: int = 0) -> Rule:
    """Each constraint a clause of its own."""
    return Rule(
        clauses=tuple(Clause((Match((one,)),)) for one in constraints), number=number, place=f"p.yaml:{number + 1}"
    )


def held(
    name: str, *rules: Rule, action: Action = Action.ALLOW, scope: Scope = Scope.NAMESPACE, dry_run: bool = False
) -> Authorization:
    """A policy of namespace shop."""
    return Authorization(namespace="shop", name=name, scope=scope, action=action, rules=rules, dry_run=dry_run)


def facts(
    source: str | None = "web/frontend",
    *,
    port: int = 8080,
    ip: str = "127.0.0.2",
    to_ip: str = "127.0.0.3",
    named: tuple[str, ...] = (),
    seen: Request | None = None,
    sni: str = "",
) -> ConnectionFacts:
    """A connection to a workload of namespace shop; `source` is "namespace/account", a SPIFFE ID, or None."""
    identity = None
    if source is not None:
        identity = parse_identity(source, MeshNames())
    return ConnectionFacts(
        caller(identity), parse_ip(ip), Destination("shop", named), parse_ip(to_ip), port, request=seen, sni=sni
    )


FRONTEND = SpiffeId.for_workload("cluster.local", "web", "frontend")
