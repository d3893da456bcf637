"""Policies in force on one node: gathered from its sources, asked for each connection, and for the open ones again.

Whatever changes (a policy, or which policies hold for a workload), the connections that are open are judged again,
in slices, and those no longer allowed are cut.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from hbone.discovery.directory import Directory
from hbone.discovery.store import Source
from hbone.errors import HboneError
from hbone.net.tasks import Tasks
from hbone.policy.compile import with_aliases
from hbone.policy.decide import Missing, PolicyEngine
from hbone.policy.localform import plain_policy
from hbone.policy.model import Authorization, ConnectionFacts, Destination, MeshNames, Scope, caller, closed
from hbone.policy.verdict import Decision, Observed
from hbone.proxy.judge import Authorize, Facts
from hbone.proxy.registry import Connection, Registry
from hbone.telemetry.log import Occasional
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import POLICY_AUDITED, POLICY_DRY_RUN
from hbone.telemetry.views import PolicyView
from hbone.times import Clock

if TYPE_CHECKING:
    from hbone.discovery.xds import Reject
    from hbone.discovery.xds import Update as ResourceUpdate

log = logging.getLogger("hbone.policy")

CHUNK: Final = 50  # connections judged between two looks at the clock: 1 ms where each takes 20 µs
PASSING_KEPT: Final = 4096
SLICE_S: Final = 0.002  # of judging and cutting between two breaths of the loop


class NodePolicies:
    """`authorize` is the data plane's `Authorize`; `allow`, where given, is asked first (`hbone expose --allow`)."""

    def __init__(self, directory: Directory, allow: Authorize | None, clock: Clock) -> None:
        self.engine = PolicyEngine(missing=Missing.DENY)
        self._watching = Occasional(log, clock)
        self._directory = directory
        self._allow = allow
        self._sources: dict[Source, tuple[Authorization, ...]] = {}
        self._again: asyncio.Event | None = None
        self._version = -1, -1
        self._passing: dict[int, Facts] = {}  # by identity, which no others can have while these are kept

    def authorize(self, facts: Facts) -> HboneError | None:
        """None: it may pass; else why not.

        What may pass may do so until mesh or policies change, and nothing is to be counted: connections of one tunnel
        to one target come with the same facts, and share the answer (3 % of what a connection costs).
        """
        if self._allow is not None:
            denial = self._allow(facts)
            if denial is not None:
                return denial
        version = self._directory.version, self.engine.version
        if version != self._version:
            self._version = version
            self._passing.clear()
        elif id(facts) in self._passing:
            return None
        decision = self.engine.judge(_facts(facts, self._directory))
        if decision.observed is not None:
            self._note(facts, decision, decision.observed)
        elif decision.allowed and facts.identity is not None:  # in clear each connection has facts of its own
            if len(self._passing) >= PASSING_KEPT:
                self._passing.clear()
            self._passing[id(facts)] = facts
        return None if decision.allowed else decision.denial()

    def _note(self, facts: Facts, decision: Decision, observed: Observed) -> None:
        """What policies that only watch have to say, in the log; each is counted whether or not it has its line."""
        connection = {
            "src.addr": str(facts.source),
            "src.identity": str(facts.identity) if facts.identity is not None else "",
            "dst.addr": str(facts.destination),
        }
        if observed.would_by is not None:
            would = {"policy": observed.would_by, "would": observed.would.value, "verdict": decision.verdict.value}
            self._watching.info("a dry-run policy would decide otherwise", **would, **connection)
        for hit in observed.audit:
            self._watching.info("an AUDIT policy fits", policy=hit.policy, rule=hit.rule, **connection)

    def replace(self, source: Source, policies: Iterable[Authorization]) -> None:
        """`policies` are all that `source` says from now on; a stronger source's policy of the same name holds."""
        self._sources[source] = tuple(policies)
        merged: dict[str, Authorization] = {}
        for one in sorted(self._sources):
            merged.update({policy.key: policy for policy in self._sources[one]})
        if self.engine.replace(merged.values()):
            log.info("policies in force", extra={"policies": len(merged), "version": self.engine.version})
            self.judge_again()

    # --- open connections -------------------------------------------------------------------------------------

    def judge_again(self) -> None:
        """Soon, all open connections."""
        if self._again is not None:
            self._again.set()

    def start(self, tasks: Tasks, registry: Registry) -> None:
        """Judge open connections again from now on, whenever asked."""
        again = self._again = asyncio.Event()
        tasks.keep(lambda: self._judging(again, registry), name="judge open connections")

    async def _judging(self, again: asyncio.Event, registry: Registry) -> None:
        while True:
            await again.wait()
            again.clear()
            try:
                await self._sweep(registry)
            except BaseException:
                again.set()  # those that were not judged are, next time
                raise

    async def _sweep(self, registry: Registry) -> None:
        cut = 0
        now = asyncio.get_running_loop().time
        until = now() + SLICE_S
        for denied in self.engine.recheck(self._judged(registry), chunk=CHUNK):
            for connection, decision in denied:
                connection.cut(_changed(decision.denial()))
                cut += 1
                if now() >= until:
                    await asyncio.sleep(0)
                    until = now() + SLICE_S
            if now() >= until:
                await asyncio.sleep(0)
                until = now() + SLICE_S
        if cut:
            log.info("connections closed after a policy change", extra={"connections": cut})

    def _judged(self, registry: Registry) -> Iterator[tuple[Connection, ConnectionFacts]]:
        """Those that were open when asked first, each with its facts of the moment when it is its turn."""
        for connection in registry:
            facts = connection.facts
            if facts is not None:
                yield connection, _facts(facts, self._directory)


def describe_policies(metrics: Metrics, engine: PolicyEngine) -> None:
    """What policies that only watch would have done, by policy."""

    def dry_run() -> list[tuple[tuple[str, ...], float]]:
        found = [(key, count) for key, count in engine.dry_run.items() if count.would_deny or count.would_allow]
        return [
            sample
            for key, count in found
            for sample in (((key, "deny"), float(count.would_deny)), ((key, "allow"), float(count.would_allow)))
        ]

    metrics.counter(POLICY_DRY_RUN).read_from(dry_run)
    metrics.counter(POLICY_AUDITED).read_from(lambda: [((key,), count) for key, count in engine.audited.items()])


def policy_views(policies: Iterable[Authorization]) -> list[PolicyView]:
    """Policies as the operator sees them."""
    views: list[PolicyView] = []
    for policy in policies:
        plain: dict[str, Any] = plain_policy(policy)
        plain["rules"] = tuple(plain["rules"])
        views.append(PolicyView(**plain))
    return views


def _changed(denial: HboneError) -> HboneError:
    denial.what = "connection closed due to policy change"
    return denial


def _facts(facts: Facts, directory: Directory) -> ConnectionFacts:
    """As policy sees it; the policies that hold for the workload are those it has now."""
    workload = facts.workload
    if workload is not None:
        workload = directory.workload(workload.uid) or workload
        destination = Destination(workload.namespace, workload.authorization_policies)
    else:
        destination = Destination("")
    return ConnectionFacts(
        caller(facts.identity), facts.source.ip, destination, facts.destination.ip, facts.destination.port
    )


class PolicySink:
    """`hbone.control.subscribe.Sink` for policies of a control plane, whose word counts as that of `source`.

    `names`: what the mesh is called by the node's own settings, for a control plane that does not know the aliases.
    """

    def __init__(self, policies: NodePolicies, source: Source = Source.XDS, names: MeshNames | None = None) -> None:
        self._policies = policies
        self._source = source
        self._names = names
        self._held: dict[str, Authorization] = {}

    async def take(self, updates: "Sequence[ResourceUpdate]", removed: Sequence[str]) -> "Sequence[Reject]":
        """A policy that cannot be understood is refused, and until it can be, what it protects stays closed."""
        from hbone.discovery.policies import decode_policy
        from hbone.discovery.resources import InvalidResource
        from hbone.discovery.xds import Reject

        rejects: list[Reject] = []
        for name in removed:
            self._held.pop(name, None)
        for update in updates:
            try:
                policy = decode_policy(update.name, update.body)
                self._held[update.name] = policy if self._names is None else with_aliases(policy, self._names)
            except InvalidResource as error:
                rejects.append(Reject(update.name, error.what))
                if update.name not in self._held:
                    namespace, _, name = update.name.partition("/")
                    self._held[update.name] = closed(namespace, name, Scope.NAMESPACE, error.what)
        self._policies.replace(self._source, self._held.values())
        return rejects
