"""What the policy commands share: manifests read whole, questions from options, explanations as text."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hbone.app.sources import read_directory
from hbone.cli.output import Style, styled
from hbone.discovery.manifests import Defaults
from hbone.discovery.subjects import parse_secured, world_of
from hbone.documents.document import parse_documents
from hbone.errors import HboneError, Unreachable, UsageError
from hbone.policy.model import JsonValue, MeshNames, Request, Subject
from hbone.policy.paths import path_of
from hbone.policy.traffic import Traffic, read_traffic
from hbone.policy.world import Question, World, nearest_key, parse_identity

if TYPE_CHECKING:
    from hbone.addr import IpAddress
    from hbone.admin.client import Place
    from hbone.identity.spiffe import SpiffeId
    from hbone.policy.explain import Explanation
    from hbone.policy.model import Authorization


def load_world(directory: Path, names: MeshNames, without: Path | None = None) -> World:
    """The mesh that a directory of manifests describes, `without` one file of it. Raises InvalidConfiguration."""
    files = read_directory(directory)
    if without is not None:
        same = without.resolve()
        files = {name: text for name, text in files.items() if Path(name).resolve() != same}
    return world_of(parse_secured(files, Defaults(trust_domain=names.trust_domain)), names)


def load_traffic(path: Path) -> Traffic:
    """An access log; "-" is standard input. Lines that are no UTF-8 are no access lines."""
    try:
        if str(path) == "-":
            traffic = read_traffic(sys.stdin)
        else:
            with path.open(encoding="utf-8", errors="replace") as lines:
                traffic = read_traffic(lines)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{path} cannot be read", why=why, fix="name an access log, or - for standard input"
        ) from error
    if traffic.others and not traffic.asked and not traffic.unused:
        name = "standard input" if str(path) == "-" else str(path)
        why = f"none of its {traffic.others} lines is the access line of a node"
        raise UsageError(f"{name} is no access log", why=why, fix="name the log of hbone's nodes, or of ztunnels")
    return traffic


def parse_target(text: str) -> tuple[str, int]:
    """NAMESPACE/WORKLOAD:PORT; raises UsageError."""
    from hbone.addr import InvalidAddress, parse_port

    key, colon, port = text.rpartition(":")
    try:
        if colon and key.count("/") == 1 and all(key.split("/")):
            return key, parse_port(port)
    except InvalidAddress:
        pass
    raise UsageError(
        f"{text!r} is no workload with a port", fix="write NAMESPACE/WORKLOAD:PORT, as in shop/cart-0:8080"
    )


def parse_pairs(texts: tuple[str, ...], option: str, example: str) -> list[tuple[str, str]]:
    """NAME=VALUE (or NAME: VALUE); raises UsageError."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        cut = min((at for at in (text.find("="), text.find(":")) if at > 0), default=0)
        if not cut:
            raise UsageError(f"{option} {text!r} has no value", fix=f"write {option} {example}")
        pairs.append((text[:cut].strip(), text[cut + 1 :].strip()))
    return pairs


def build_request(
    method: str | None, path: str | None, host: str | None, headers: tuple[str, ...], claims: tuple[str, ...]
) -> Request | None:
    """None where no option speaks of a request."""
    if method is None and path is None and host is None and not headers and not claims:
        return None
    found: dict[str, str] = {}
    for name, value in parse_pairs(headers, "--header", "x-version=2"):
        known = found.get(name.lower())
        found[name.lower()] = value if known is None else f"{known},{value}"
    return Request(
        method=method or "GET",
        host=host or "",
        path=path_of(path or "/"),
        headers=found,
        claims=_claims(claims) if claims else None,
    )


def _claims(texts: tuple[str, ...]) -> dict[str, JsonValue]:
    """`sub=ann`, nested `realm.role=admin`; one that is given twice is a list."""
    claims: dict[str, object] = {}
    for name, value in parse_pairs(texts, "--claim", "sub=ann"):
        *outer, last = name.split(".")
        inner = claims
        for step in outer:
            nested = inner.setdefault(step, {})
            if not isinstance(nested, dict):
                raise UsageError(f"--claim {name} is inside of a text", fix="give each claim one form")
            inner = cast("dict[str, object]", nested)
        known = inner.get(last)
        inner[last] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    return cast("dict[str, JsonValue]", claims)


def ask_question(
    world: World, source: str | None, ip: "IpAddress | None", target: str, *, plaintext: bool, request: Request | None
) -> Question:
    """From the options of `explain`. Raises UsageError."""
    key, port = parse_target(target)
    subject = world.named(key)
    identity = identity_of(source, world.names, plaintext=plaintext)
    named = parse_identity(source, world.names) if source is not None else None
    return Question(
        identity=identity,
        source_ip=ip or (world.address_of(named) if named is not None else None),
        subject=subject,
        port=port,
        request=request,
    )


def identity_of(source: str | None, names: MeshNames, *, plaintext: bool) -> "SpiffeId | None":
    """Whom the caller proves to be; None in plaintext. Raises UsageError."""
    if source is None:
        if plaintext:
            return None
        raise UsageError("nobody calls", fix="name the caller with --from NS/SA, or give --plaintext")
    try:
        identity = parse_identity(source, names)
    except UsageError:
        raise
    except HboneError as error:
        raise UsageError(f"--from {source!r} is no identity", why=error.what, fix=error.fix) from error
    return None if plaintext else identity


# words


def explanation_lines(said: "Explanation", subject: str, caller: str, port: int) -> Iterator[str]:
    """For people: the verdict, what decided, and every other policy."""
    good = said.allowed
    verdict = styled(said.verdict.value.upper(), Style.GOOD if good else Style.BAD, sys.stdout)
    yield f"{verdict}  {caller} → {subject}:{port}"
    yield f"       {said.reason}"
    if said.place:
        yield f"       {said.place}"
    yield f"       mTLS of the port: {said.mtls.value}"
    for remark in said.notes:
        yield f"note   {remark}"
    mine = [note for note in said.policies if note.applies]
    others = [note for note in said.policies if not note.applies]
    for title, notes in (("policies that apply", mine), ("policies that do not", others)):
        if notes:
            yield ""
            yield styled(f"{title}:", Style.STRONG, sys.stdout)
        for note in notes:
            mark = "→" if note.decides else " "
            where = f"  {note.place}" if note.place else ""
            yield f"{mark} {note.kind} {note.policy} ({note.action}){where}"
            for part in note.why.split("; "):
                yield f"    {part}"


# a running node


def node_policies(places: "tuple[Place, ...]") -> "tuple[Authorization, ...]":
    """The policies that a node holds. Raises Unreachable, also when it does not show any."""
    import orjson

    from hbone.admin.client import ask
    from hbone.policy.localform import parse_local_policies

    try:
        answer = ask(places, "/policies")
    except Unreachable as error:
        if "has no /policies" not in error.what:
            raise
        raise Unreachable(
            "this node does not show its policies",
            why=error.what,
            fix="explain them from their manifests: --manifests DIR",
        ) from error
    items = cast("list[object]", answer) if isinstance(answer, list) else []
    documents = [d for item in items for d in parse_documents("/policies", orjson.dumps(item))]
    return parse_local_policies(documents)


def node_workloads(places: "tuple[Place, ...]") -> "list[tuple[Subject, tuple[str, ...]]]":
    """The workloads that a node knows, each with the policies that it names."""
    import orjson

    from hbone.admin.client import ask
    from hbone.discovery.localfile import parse_local_file
    from hbone.discovery.subjects import subject_of

    dump = ask(places, "/config_dump")
    held = cast("dict[str, object]", dump) if isinstance(dump, dict) else {}
    text = orjson.dumps({"workloads": held.get("workloads", [])}, option=orjson.OPT_NON_STR_KEYS)
    state = parse_local_file("/config_dump", text).state
    return [(subject_of(workload, {}), workload.authorization_policies) for workload in state.workloads]


def explain_node(node: str, identity: "SpiffeId | None", ip: "IpAddress | None", target: str) -> "Explanation":
    """By what a running node holds. Raises Unreachable, and UsageError for a workload that it does not know."""
    from hbone.admin.client import parse_place
    from hbone.policy.decide import PolicyEngine
    from hbone.policy.held import explain_held
    from hbone.policy.model import ConnectionFacts, Destination, caller

    places = (parse_place(node),)
    policies, workloads = node_policies(places), node_workloads(places)
    key, port = parse_target(target)
    found = next(((subject, keys) for subject, keys in workloads if subject.key == key), None)
    if found is None:
        known = [subject.key for subject, _ in workloads]
        near = nearest_key(key, known)
        raise UsageError(f"the node knows no workload {key}", fix=f"did you mean {near}?" if near else "check the name")
    subject, keys = found
    facts = ConnectionFacts(
        caller(identity),
        ip or next((a for one, _ in workloads if one.identity == identity for a in one.addresses), None),
        Destination(subject.namespace, keys),
        next(iter(subject.addresses), None),
        port,
    )
    engine = PolicyEngine(policies)
    return explain_held(engine.policies, facts, engine.judge(facts))
