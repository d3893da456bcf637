"""Which connections that were really asked for would get another verdict under other policies."""

from hbone.policy.explain import Explanation, explain
from hbone.policy.traffic import Seen, Traffic, question_of, subject_of
from hbone.policy.world import World
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One pair of ends, seen `count` times, with its verdict before and after."""

    seen: Seen
    workload: str
    count: int
    before: Explanation
    after: Explanation

    def to_json(self) -> dict[str, object]:
        return {
            "from": str(self.seen.identity) if self.seen.identity is not None else None,
            "from_ip": str(self.seen.source_ip),
            "to": self.workload,
            "port": self.seen.port,
            "count": self.count,
            "old": _side(self.before),
            "new": _side(self.after),
        }


def _side(said: Explanation) -> dict[str, object]:
    return {"verdict": said.verdict.value, "reason": said.reason, "policy": said.policy, "rule": said.rule}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`unchanged` counts connections, `unknown` those to workloads that the manifests do not have."""

    changed: tuple[Changed, ...]
    unchanged: int
    unknown: int

    def to_json(self) -> dict[str, object]:
        return {
            "changed": [one.to_json() for one in self.changed],
            "unchanged": self.unchanged,
            "unknown": self.unknown,
        }


def compare(old: World, new: World, traffic: Traffic) -> Difference:
    """The workloads are those of `new`, else of `old`: a policy change may come with a change of labels."""
    changed: list[Changed] = []
    unchanged = unknown = 0
    for seen, count in traffic.asked.items():
        then, now = subject_of(seen, old), subject_of(seen, new)
        then, now = then or now, now or then
        if then is None or now is None:
            unknown += count
            continue
        before, after = question_of(seen, then), question_of(seen, now)
        if old.allows(before) is new.allows(after):
            unchanged += count
        else:
            changed.append(
                Changed(
                    seen=seen, workload=now.key, count=count, before=explain(old, before), after=explain(new, after)
                )
            )
    changed.sort(key=lambda one: (one.after.verdict.value != "deny", -one.count, one.workload, one.seen.caller))
    return Difference(changed=tuple(changed), unchanged=unchanged, unknown=unknown)
