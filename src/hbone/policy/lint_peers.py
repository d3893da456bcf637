"""What is valid in a PeerAuthentication, and still most likely not what anybody means."""

from collections.abc import Callable, Iterator
from typing import Final

from hbone.policy.finding import Finding, Level, Says
from hbone.policy.manifests import Mode, PeerAuthentication
from hbone.policy.model import Subject, Transport
from hbone.policy.peerauth import Effective
from hbone.policy.world import World


def _peer(peer: PeerAuthentication, kind: tuple[Level, str], says: Says) -> Finding:
    return Finding(level=kind[0], check=kind[1], policy=peer.key, place=peer.place, what=says[0], fix=says[1])


def _ignored_peers(world: World) -> Iterator[Finding]:
    peers = world.compiled().peers
    for newer, older in peers.ignored():
        text = (f"is ignored as a whole: {older.key} is older", "keep one for each namespace")
        yield _peer(newer, (Level.WARNING, "ignored"), text)
    for peer in peers.objects:
        if peer.selection.labels and peer.namespace == peers.root_namespace:
            text = (
                "selects nobody: in the root namespace a selector has no effect",
                "write it in the namespace it is for",
            )
            yield _peer(peer, (Level.ERROR, "selects-nobody"), text)
        elif peer.selection.empty_selector:
            text = ("has a selector without labels: it is taken as none", "remove the selector, or give it labels")
            yield _peer(peer, (Level.WARNING, "empty-selector"), text)


def _peer_ports(world: World) -> Iterator[Finding]:
    """Ports that no selected workload serves: most often a Service's port was written."""
    for peer in world.compiled().peers.objects:
        chosen = [s for s in world.subjects if s.namespace == peer.namespace and peer.selection.takes_labels(s.labels)]
        known = {port for subject in chosen for port in subject.ports}
        for port in sorted(peer.ports) if known else ():
            if port not in known:
                serves = ", ".join(map(str, sorted(known)))
                text = (
                    f"sets port {port}, which no selected workload serves",
                    f"write the workload's own port: {serves}",
                )
                yield _peer(peer, (Level.WARNING, "unknown-port"), text)


def _plaintext_clients(world: World) -> Iterator[Finding]:
    """Workloads that speak no HBONE cannot reach what is STRICT."""
    clients = [subject.key for subject in world.subjects if subject.transport is Transport.PLAINTEXT]
    if not clients:
        return
    peers = world.compiled().peers
    strict: dict[str, list[str]] = {}
    for subject in world.subjects:
        for by, what in _strict_parts(subject, peers.of_workload(subject)):
            strict.setdefault(by.key, []).append(what)
    for peer in peers.objects:
        if peer.key in strict:
            what = f"keeps out {_some(clients)}, which can only speak plaintext, from {_some(strict[peer.key])}"
            fix = "give these clients a serviceAccount and a node, or the port a PERMISSIVE exception"
            yield _peer(peer, (Level.WARNING, "plaintext-client"), (what, fix))


def _strict_parts(subject: Subject, effective: Effective) -> Iterator[tuple[PeerAuthentication, str]]:
    """What of a workload takes tunnels only, with who says so: all of it, or some ports."""
    if subject.transport is not Transport.HBONE:
        return
    if effective.mode is Mode.STRICT and effective.by is not None:
        yield effective.by, subject.key
        return
    for port in effective.exceptions:
        by = effective.decided_by(port)
        if by is not None:
            yield by, f"{subject.key}:{port}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


CHECKS: Final[tuple[Callable[[World], Iterator[Finding]], ...]] = (_ignored_peers, _peer_ports, _plaintext_clients)
