"""Security manifests → policies as written. Every mistake is a Problem with its file and line; one refuses them all.

What is not known is never taken for something near it: an unknown field, action, mode or condition is refused, with
the nearest name that is known. CUSTOM is refused because nothing here could ask an external authorizer.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from hbone.documents.fields import Section, shown
from hbone.documents.objects import Meta, kind_of, read_meta
from hbone.documents.values import Document, Object
from hbone.errors import InvalidConfiguration, Problem
from hbone.policy.manifests import (
    AuthorizationPolicy,
    Mode,
    PeerAuthentication,
    Policies,
    RequestAuthentication,
    Selection,
    TargetRef,
)
from hbone.policy.model import Action
from hbone.policy.requestauth import read_request_authentication
from hbone.policy.rules import read_rules

SECURITY_KINDS: Final = ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")
DRY_RUN: Final = "istio.io/dry-run"
MAX_TARGETS: Final = 16

_ACTIONS: Final[Mapping[str, Action | None]] = {
    "ALLOW": Action.ALLOW,
    "DENY": Action.DENY,
    "AUDIT": Action.AUDIT,
    "CUSTOM": None,
}
_MODES: Final = {mode.value: mode for mode in Mode}
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_TARGET_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Service": ("", "core"),
    "ServiceEntry": ("networking.istio.io",),
    "Gateway": ("gateway.networking.k8s.io",),
    "GatewayClass": ("gateway.networking.k8s.io",),
}
WAYPOINT_CLASS: Final = "istio-waypoint"


def parse_policies(documents: Iterable[Document]) -> Policies:
    """Raises InvalidConfiguration with every problem of every document."""
    problems: list[Problem] = []
    policies = read_policies(documents, problems)
    if problems:
        raise InvalidConfiguration(dict.fromkeys(problems))
    return policies


def read_policies(documents: Iterable[Document], problems: list[Problem]) -> Policies:
    """As `parse_policies`, but adds what is wrong to `problems`; documents of other kinds are passed over."""
    reading = _Reading(problems)
    for document in documents:
        reading.take(document)
    return Policies(
        authorization=tuple(reading.authorization), peer=tuple(reading.peer), request=tuple(reading.request)
    )


class _Reading:
    def __init__(self, problems: list[Problem]) -> None:
        self.authorization: list[AuthorizationPolicy] = []
        self.peer: list[PeerAuthentication] = []
        self.request: list[RequestAuthentication] = []
        self._problems = problems
        self._seen: dict[tuple[str, str, str], Meta] = {}
        self._read: Mapping[str, Callable[[Meta, Section], None]] = {
            "AuthorizationPolicy": lambda meta, spec: self.authorization.append(_authorization(meta, spec)),
            "PeerAuthentication": lambda meta, spec: self.peer.append(_peer(meta, spec)),
            "RequestAuthentication": lambda meta, spec: self.request.append(_request(meta, spec)),
        }

    def take(self, document: Document) -> None:
        kind = kind_of(document, self._problems)
        if kind is None or kind not in self._read:
            return
        meta = read_meta(document, kind, self._problems)
        if meta is None:
            return
        first = self._seen.setdefault((kind, meta.namespace, meta.name), meta)
        if first is not meta:
            what = f"{kind} {meta.namespace}/{meta.name} is there twice, first at {first.place}"
            meta.root.problem(("metadata", "name"), what, "give it another name, or remove one")
            return
        # An absent spec is an empty one: for an AuthorizationPolicy that means "allow nothing".
        spec = meta.root.section("spec") if "spec" in meta.root else _no_spec(document, self._problems)
        if spec is not None:
            self._read[kind](meta, spec)


def _no_spec(document: Document, problems: list[Problem]) -> Section:
    return Section(document, Object(document.line), ("spec",), problems)


# whom it is for


def _selection(spec: Section) -> Selection:
    selector = spec.section("selector")
    labels: dict[str, str] = {}
    if selector is not None:
        labels = selector.labels("matchLabels")
        selector.finish()
        for key, value in labels.items():
            if not key or "*" in key or "*" in value:
                path = ("matchLabels", key)
                selector.problem(path, f"{shown(f'{key}={value}')} is no label", "write a label as it is, without '*'")
    return Selection(labels=labels, empty_selector=selector is not None and not labels)


def _targeted(spec: Section) -> Selection:
    """With targetRefs."""
    selection = _selection(spec)
    sections = spec.sections("targetRefs")
    if len(sections) > MAX_TARGETS:
        spec.problem("targetRefs", f"has {len(sections)} items", f"use {MAX_TARGETS} at most")
    single = spec.section("targetRef")
    targets = [t for s in (*sections, *([single] if single is not None else [])) if (t := _target(s)) is not None]
    if selection.labels and targets:
        spec.problem("selector", "stands beside targetRefs", "keep one: labels are for nodes, targets for waypoints")
    if single is not None and sections:
        spec.problem("targetRef", "stands beside targetRefs", "keep targetRefs")
    return Selection(labels=selection.labels, targets=tuple(targets), empty_selector=selection.empty_selector)


def _target(section: Section) -> TargetRef | None:
    kind = section.required_text("kind", "Service")
    name = section.required_text("name", "cart")
    group = section.text("group")
    if section.text("namespace"):
        section.problem("namespace", "must not be set", "targets are in the policy's own namespace: remove it")
    section.finish()
    if kind is None or name is None:
        return None
    if kind not in _TARGET_KINDS:
        section.problem("kind", f"{shown(kind)} cannot be a target", f"use one of: {', '.join(_TARGET_KINDS)}")
        return None
    groups = _TARGET_KINDS[kind]
    if group not in groups:
        section.problem("group", f"{shown(group)} has no {kind}", f"write group: {groups[0] or chr(34) * 2}")
    if kind == "GatewayClass" and name != WAYPOINT_CLASS:
        section.problem("name", f"{shown(name)} is not a class of waypoints", f"write {WAYPOINT_CLASS}")
    return TargetRef(kind=kind, name=name, group=group)


# one by one


def _authorization(meta: Meta, spec: Section) -> AuthorizationPolicy:
    selection = _targeted(spec)
    rules = read_rules(spec, meta.namespace)
    action = spec.choice("action", _ACTIONS, Action.ALLOW)
    if action is None:
        spec.ignore("provider")
        spec.problem(
            "action", "CUSTOM asks an external authorizer, and there is none here", "write ALLOW or DENY rules instead"
        )
    elif "provider" in spec:
        spec.problem("provider", "is for the action CUSTOM alone", "remove it")
    if action is Action.DENY and not rules:
        spec.problem("rules", "a DENY without rules denies nothing", "write rules: [{}] to deny everything")
    spec.ignore("provider")
    spec.finish()
    return AuthorizationPolicy(
        namespace=meta.namespace,
        name=meta.name,
        action=action or Action.DENY,
        selection=selection,
        rules=rules,
        dry_run=_dry_run(meta),
        place=meta.place,
    )


def _dry_run(meta: Meta) -> bool:
    text = meta.annotations.get(DRY_RUN)
    if text is None:
        return False
    if text not in _BOOLEANS:
        path = ("metadata", "annotations", DRY_RUN)
        meta.root.problem(path, f"{shown(text)} is neither true nor false", 'write "true", or remove the annotation')
    return _BOOLEANS.get(text, False)


def _peer(meta: Meta, spec: Section) -> PeerAuthentication:
    selection = _selection(spec)
    mode = _mode(spec.section("mtls"))
    ports = _port_modes(spec)
    if "portLevelMtls" in spec and not selection.labels:
        spec.problem("portLevelMtls", "needs a selector", "write selector: {matchLabels: {app: …}}")
    spec.finish()
    return PeerAuthentication(
        namespace=meta.namespace,
        name=meta.name,
        selection=selection,
        mode=mode,
        ports=ports,
        created=_created(meta),
        place=meta.place,
    )


def _mode(section: Section | None) -> Mode:
    if section is None:
        return Mode.UNSET
    mode = section.choice("mode", _MODES, Mode.UNSET)
    section.finish()
    return mode


def _port_modes(spec: Section) -> dict[int, Mode]:
    section = spec.section("portLevelMtls")
    if section is None:
        return {}
    if not section.value:
        spec.problem("portLevelMtls", "is empty", "write {8080: {mode: DISABLE}}, or remove it")
    found: dict[int, Mode] = {}
    for key in section.value:
        port = section.number((key,), key)
        # the key may be a number: `section` alone takes texts
        value = section.value[key]
        if not isinstance(value, Object):
            section.wrong_type(key, value, "{mode: STRICT}")
        elif port is not None:
            inner = Section(section.document, value, (*section.path, key), section.problems)
            found[port] = _mode(inner)
    return found


def _created(meta: Meta) -> str:
    """When it was made, to the second, so that texts compare as times do; "" where nobody says. No zone is UTC."""
    metadata = meta.root.section("metadata")
    text = metadata.text("creationTimestamp") if metadata is not None else ""
    if metadata is None or not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        in_utc = moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        what = f"{shown(text)} is no point in time"
        metadata.problem("creationTimestamp", what, "write it as 2026-01-31T12:00:00Z, or remove it")
        return ""
    return in_utc.isoformat(timespec="seconds").replace("+00:00", "Z")


def _request(meta: Meta, spec: Section) -> RequestAuthentication:
    selection = _targeted(spec)
    rules = read_request_authentication(spec)
    spec.finish()
    return RequestAuthentication(
        namespace=meta.namespace, name=meta.name, selection=selection, rules=rules, place=meta.place
    )
