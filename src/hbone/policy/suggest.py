"""The least ALLOW policies that permit what passed: nothing that did not, as far as rules can say it, and least of all
what a policy denied.

One policy for each group of workloads that a selector can tell apart; in it one rule for each set of ports, naming
every caller that used exactly these. Callers without identity are named by address, and then only without identity.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from hbone.identity.spiffe import SCHEME
from hbone.policy.model import Subject
from hbone.policy.traffic import Seen, Traffic, subject_of
from hbone.policy.world import World
from hbone.values import dataclass

_TELLING: Final = ("app.kubernetes.io/name", "app", "k8s-app", "service.istio.io/canonical-name")
_MAX_VALUES: Final = 512
PREFIX: Final = "allow-seen-to-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A manifest, JSON-shaped, and what is to be known about it."""

    manifest: Mapping[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Group:
    """Workloads that one selector takes. No labels: all of the namespace."""

    namespace: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class _Caller:
    """A principal, or else an address."""

    principal: str
    address: str


def suggest(traffic: Traffic, world: World) -> tuple[Suggestion, ...]:
    """By namespace and name. `world` has the workloads' labels; without them a policy is for a whole namespace."""
    used: dict[_Group, dict[_Caller, set[int]]] = {}
    for seen in traffic.seen:
        group = _group(seen, world)
        if isinstance(group, _Group):
            used.setdefault(group, {}).setdefault(_caller(seen), set()).add(seen.port)
    groups = sorted(used, key=lambda group: (group.namespace, group.labels))
    names: dict[tuple[str, str], int] = {}
    return tuple(_suggestion(group, _unique(group, names), used[group], world) for group in groups)


def left_out(traffic: Traffic, world: World) -> Mapping[str, int]:
    """How many connections that passed no policy is suggested for, by reason."""
    counts: Counter[str] = Counter()
    for seen, count in traffic.seen.items():
        group = _group(seen, world)
        if not isinstance(group, _Group):
            counts[group] += count
    return counts


def _unique(group: _Group, names: dict[tuple[str, str], int]) -> str:
    """A name that no other group of the namespace has."""
    key = group.namespace, _name(group)
    names[key] = count = names.get(key, 0) + 1
    return key[1] if count == 1 else f"{key[1]}-{count}"


def _group(seen: Seen, world: World) -> _Group | str:
    """The group of the workload that was called, or why no policy can be for it alone."""
    subject = subject_of(seen, world)
    namespace = subject.namespace if subject is not None else seen.workload.partition("/")[0]
    if not namespace:
        return "to a workload that the log does not name"
    labels = _telling_labels(subject) if subject is not None else ()
    if not labels and namespace == world.names.root_namespace:
        return f"to workloads of {namespace} without labels, where a policy would be for the whole mesh"
    return _Group(namespace, labels)


def _telling_labels(subject: Subject) -> tuple[tuple[str, str], ...]:
    for key in _TELLING:
        if key in subject.labels:
            return ((key, subject.labels[key]),)
    return tuple(sorted(subject.labels.items()))


def _caller(seen: Seen) -> _Caller:
    if seen.identity is not None:
        return _Caller(str(seen.identity).removeprefix(SCHEME), "")
    return _Caller("", str(seen.source_ip))


def _suggestion(group: _Group, name: str, used: Mapping[_Caller, set[int]], world: World) -> Suggestion:
    callers: dict[tuple[int, ...], list[_Caller]] = {}
    for caller in sorted(used):
        callers.setdefault(tuple(sorted(used[caller])), []).append(caller)
    spec: dict[str, object] = {}
    if group.labels:
        spec["selector"] = {"matchLabels": dict(group.labels)}
    spec |= {"action": "ALLOW", "rules": [_rule(ports, callers[ports]) for ports in sorted(callers)]}
    manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": group.namespace},
        "spec": spec,
    }
    return Suggestion(manifest=manifest, notes=tuple(_notes(group, used, world)))


def _rule(ports: Iterable[int], callers: Iterable[_Caller]) -> dict[str, object]:
    principals = [one.principal for one in callers if one.principal]
    addresses = [one.address for one in callers if not one.principal]
    parts = [principals[start : start + _MAX_VALUES] for start in range(0, len(principals), _MAX_VALUES)]
    sources: list[dict[str, object]] = [{"source": {"principals": part}} for part in parts]
    if addresses:
        sources.append({"source": {"ipBlocks": addresses, "notPrincipals": ["*"]}})
    return {"from": sources, "to": [{"operation": {"ports": [str(port) for port in ports]}}]}


def _name(group: _Group) -> str:
    told = "-".join(value for _, value in group.labels)
    text = "".join(char if char.isalnum() and char.isascii() else "-" for char in (told or group.namespace).lower())
    return (PREFIX + text.strip("-"))[:240].rstrip("-")


def _notes(group: _Group, used: Mapping[_Caller, set[int]], world: World) -> Iterable[str]:
    if not group.labels:
        yield "for all workloads of the namespace: their labels are not known, so it allows more than was seen"
    else:
        wanted = dict(group.labels)
        reached = world.within_reach(group.namespace)
        others = [subject.key for subject in reached if wanted.items() <= subject.labels.items()]
        if len(others) > 1:
            yield f"selects {len(others)} workloads: {', '.join(others[:5])}"
    plain = [caller.address for caller in used if not caller.principal]
    if plain:
        yield f"{len(plain)} callers come in plaintext and can be told by address alone: {', '.join(sorted(plain)[:5])}"
