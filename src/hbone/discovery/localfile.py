"""ztunnel's local XDS file, YAML or JSON → the state of the mesh; see `hbone.discovery.localdump` for the way back.

Three lists, `workloads`, `services` and `policies`; the policies are handed on unread. Unknown keys are refused.
Trust domain, service account and cluster, which ztunnel leaves empty in such files, get the usual defaults: an
identity without them could belong to nobody. Beyond ztunnel's keys a workload may have `hbonePort` and `labels`.

JSON, which very large files are written in, is read twice as a rule only when something is wrong with it: first
quickly, without lines; then, for the operator, with the line of each mistake.
"""

from hbone.discovery.localfields import LocalReading
from hbone.discovery.model import MeshState
from hbone.documents.document import decoded, read_documents
from hbone.documents.fields import Section
from hbone.documents.large import read_large
from hbone.documents.quickjson import Doubtful, QuickDocument, QuickJson
from hbone.documents.shapes import Shapes
from hbone.documents.values import Array, Document, Object, Value
from hbone.errors import InvalidConfiguration, Problem
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """What a file says; each policy is a document of its own, with its place in the file."""

    state: MeshState
    policies: tuple[Document, ...]


def parse_local_file(file: str, text: str | bytes) -> LocalFile:
    """Raises InvalidConfiguration with every problem."""
    plain = decoded(file, text)
    return _read_quickly(file, plain) or _read_carefully(file, plain)


def _read_carefully(file: str, text: str) -> LocalFile:
    problems: list[Problem] = []
    documents = read_large(file, text, problems, Shapes())
    problems.extend(
        extra.problem((), "a second document in one file", "keep everything in one, without ---")
        for extra in documents[1:]
    )
    result = LocalFile(state=MeshState(), policies=())
    if documents:
        root = Section.root(documents[0], problems, "a mapping with workloads, services and policies")
        if root is not None:
            result = _read_sections(root)
    if problems:
        raise InvalidConfiguration(sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0))
    return result


def _read_sections(root: Section) -> LocalFile:
    reading = LocalReading()
    for section in root.each("workloads"):
        reading.add_workload(section)
    for section in root.each("services"):
        reading.add_service(section)
    document = root.document
    policies = tuple(
        Document(document.file, document.line_of(path), value, path) for path, value in root.values("policies")
    )
    root.finish()
    return LocalFile(state=reading.state(), policies=policies)


def _read_quickly(file: str, text: str) -> LocalFile | None:
    """None for what is no JSON, or has any mistake."""
    reading, services = LocalReading(), list[Value]()
    policies: tuple[Document, ...] = ()
    document = QuickDocument(file, 0, None)
    try:
        json = QuickJson(text)
        for key in json.members():
            match key:
                case "workloads":
                    for value in json.items():
                        reading.add_workload(_section(document, value))
                case "services":
                    services += json.items()
                case "policies":
                    policies = _with_lines(file, *json.span())
                case _:
                    return None
        json.end()
        for value in services:
            reading.add_service(_section(document, value))
    except (ValueError, RecursionError):
        return None
    return LocalFile(state=reading.state(), policies=policies)


def _section(document: QuickDocument, value: Value) -> Section:
    if not isinstance(value, Object):
        raise Doubtful("no mapping")
    return Section(document, value, (), [])


def _with_lines(file: str, text: str, before: int) -> tuple[Document, ...]:
    """The items of a list that begins after `before` lines; an explanation will name the line of a policy."""
    problems: list[Problem] = []
    (document,) = read_documents(file, "\n" * before + text, problems)
    if problems or not isinstance(document.value, Array):
        raise Doubtful("no list of policies")
    found = document.value
    return tuple(Document(file, found.line_of(number), one, ("policies", number)) for number, one in enumerate(found))
