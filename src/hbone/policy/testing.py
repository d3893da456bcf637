"""A table of expected verdicts, to be kept beside the policies and run before every change.

mesh: {rootNamespace: istio-system, trustDomain: cluster.local, trustDomainAliases: []}
cases:
- name: the shop's front end reaches the cart
  from: {identity: web/frontend}
  to: {workload: shop/cart-0, port: 8080}
  expect: allow
"""

from collections.abc import Mapping
from typing import Final, cast

from hbone.addr import IpAddress, parse_ip
from hbone.documents.fields import Section, shown
from hbone.documents.values import Array, Document, Object, Tagged, Value
from hbone.errors import HboneError, InvalidConfiguration, Problem
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId, parse_trust_domain
from hbone.policy.explain import Explanation, explain
from hbone.policy.model import JsonValue, MeshNames, Request, Transport
from hbone.policy.paths import path_of
from hbone.policy.verdict import Verdict
from hbone.policy.world import Question, World, nearest_key, parse_identity
from hbone.values import dataclass

_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}
_TRANSPORTS: Final = {transport.value: transport for transport in Transport}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table. `workload` is "namespace/name", `place` file:line."""

    name: str
    identity: str
    ip: IpAddress | None
    workload: str
    port: int
    transport: Transport
    request: Request | None
    expect: Verdict
    place: str
    section: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTable:
    """`names` is None where the table leaves the mesh's names to its caller."""

    __test__ = False  # for pytest: a name, not a test

    names: MeshNames | None
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A case that was run."""

    case: Case
    explanation: Explanation

    @property
    def passed(self) -> bool:
        return self.explanation.verdict is self.case.expect

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.case.name,
            "case_place": self.case.place,
            "passed": self.passed,
            "expect": self.case.expect.value,
            **self.explanation.to_json(),
        }


def parse_tests(documents: tuple[Document, ...]) -> TestTable:
    """Raises InvalidConfiguration with every problem."""
    problems: list[Problem] = []
    names: MeshNames | None = None
    cases: list[Case] = []
    for document in documents:
        root = Section.root(document, problems, "a mapping with cases")
        if root is None:
            continue
        mesh = root.section("mesh")
        names = _mesh(mesh) if mesh is not None else names
        if root.raw("cases") is None:
            root.missing("cases", "write cases: [{name: …, from: {…}, to: {…}, expect: allow}]")
        cases += [case for section in root.sections("cases") if (case := _case(section)) is not None]
        root.finish()
    if problems:
        raise InvalidConfiguration(dict.fromkeys(problems))
    return TestTable(names=names, cases=tuple(cases))


def _mesh(section: Section) -> MeshNames:
    default = MeshNames()
    aliases = section.texts("trustDomainAliases")
    names = MeshNames(
        root_namespace=section.text("rootNamespace", default.root_namespace),
        trust_domain=section.text("trustDomain", default.trust_domain),
        trust_domain_aliases=tuple(text for _, text in aliases),
    )
    section.finish()
    for path, text in ((("trustDomain",), names.trust_domain), *aliases):
        try:
            parse_trust_domain(text)
        except InvalidSpiffeId as error:
            section.problem(path, error.what, error.fix)
    return names


def _case(section: Section) -> Case | None:
    before = len(section.problems)
    name = section.required_text("name", "the front end reaches the cart")
    source, target = section.section("from"), section.section("to")
    identity, ip = _source(source) if source is not None else ("", None)
    workload, port = _target(section, target)
    transport = section.choice("transport", _TRANSPORTS, Transport.HBONE if identity else Transport.PLAINTEXT)
    if transport is Transport.HBONE and not identity:
        section.problem(
            "transport", "hbone proves an identity, and there is none", "write from: {identity: web/frontend}"
        )
    if section.raw("expect") is None:
        section.missing("expect", "write expect: allow, or deny")
    expect = section.choice("expect", _VERDICTS, Verdict.DENY)
    request = section.section("request")
    seen = _request(request) if request is not None else None
    section.finish()
    if len(section.problems) > before:
        return None
    document = section.document
    return Case(
        name=name or "",
        identity=identity,
        ip=ip,
        workload=workload,
        port=port,
        transport=transport,
        request=seen,
        expect=expect,
        place=f"{document.file}:{document.line_of(section.path)}",
        section=section,
    )


def _source(section: Section) -> tuple[str, IpAddress | None]:
    identity, text = section.text("identity"), section.text("ip")
    section.finish()
    return identity, section.parsed(("ip",), text, parse_ip) if text else None


def _target(case: Section, section: Section | None) -> tuple[str, int]:
    if section is None:
        if "to" not in case:
            case.missing("to", "write to: {workload: shop/cart-0, port: 8080}")
        return "", 0
    workload = section.required_text("workload", "shop/cart-0")
    if section.raw("port") is None:
        section.missing("port", "write the workload's own port, as in port: 8080")
    port = section.integer("port", 1, 1, 65535)
    section.finish()
    return workload or "", port


def _request(section: Section) -> Request:
    claims = section.section("claims")
    request = Request(
        method=section.text("method", "GET"),
        host=section.text("host"),
        path=path_of(section.text("path", "/")),
        headers={name.lower(): value for name, value in section.labels("headers").items()},
        claims=cast("Mapping[str, JsonValue]", plain(claims.value)) if claims is not None else None,
        remote_ip=section.parsed(("remoteIp",), text, parse_ip) if (text := section.text("remoteIp")) else None,
    )
    section.finish()
    return request


def plain(value: Value) -> JsonValue:
    """A document's value without lines and tags."""
    match value:
        case Object():
            return {str(key): plain(item) for key, item in value.items()}
        case Array():
            return [plain(item) for item in value]
        case Tagged():
            return plain(value.value)
        case _:
            return value


def run_tests(world: World, table: TestTable) -> tuple[Outcome, ...]:
    """Raises InvalidConfiguration when a case names a workload or identity that cannot be."""
    problems: list[Problem] = []
    asked = [(case, question) for case in table.cases if (question := _question(world, case, problems)) is not None]
    if problems:
        raise InvalidConfiguration(problems)
    return tuple(Outcome(case=case, explanation=explain(world, question)) for case, question in asked)


def _question(world: World, case: Case, problems: list[Problem]) -> Question | None:
    section = case.section
    document, path = section.document, section.path
    subject = world.find(case.workload)
    if subject is None:
        near = nearest_key(case.workload, [one.key for one in world.subjects])
        fix = f"did you mean {near}?" if near else "add the WorkloadEntry, or correct the name"
        problems.append(
            document.problem((*path, "to", "workload"), f"there is no workload {shown(case.workload)}", fix)
        )
        return None
    identity: SpiffeId | None = None
    try:
        identity = parse_identity(case.identity, world.names) if case.identity else None
    except HboneError as error:
        problems.append(document.problem((*path, "from", "identity"), error.what, error.fix))
        return None
    ip = case.ip or (world.address_of(identity) if identity is not None else None)
    return Question(
        identity=identity if case.transport is Transport.HBONE else None,
        source_ip=ip,
        subject=subject,
        port=case.port,
        request=case.request,
    )
