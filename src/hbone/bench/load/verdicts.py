"""`verdicts COUNT SECONDS`: the policy engine with COUNT policies in force, timed for about SECONDS.

Prints {"verdict_s": one verdict, "again_s": 10,000 open connections judged again after a change, the building of
what the change outdated included}.
"""

import json
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from statistics import median

from hbone.bench.meshes import CLIENT, NAMESPACE, policy_list
from hbone.bench.pki import TRUST_DOMAIN
from hbone.discovery.localfile import parse_local_file
from hbone.identity.spiffe import SpiffeId
from hbone.policy.decide import PolicyEngine
from hbone.policy.localform import parse_local_policies
from hbone.policy.model import Action, Authorization, ConnectionFacts, Destination, Scope, caller

PORT = 8080
OPEN = 10_000
CALLERS = 50


def policies(count: int) -> tuple[Authorization, ...]:
    """Read as a node reads them."""
    local = parse_local_file("policies", json.dumps({"policies": policy_list(count)}))
    return parse_local_policies(local.policies)


def connections(count: int) -> list[ConnectionFacts]:
    """The client that is let through, one in five in plaintext, and others that nothing names."""
    there, at = Destination(NAMESPACE), IPv4Address("127.64.0.1")
    client = caller(SpiffeId.for_workload(TRUST_DOMAIN, NAMESPACE, CLIENT))
    others = [caller(SpiffeId.for_workload(TRUST_DOMAIN, f"ns{one}", f"other{one}")) for one in range(CALLERS)]
    found: list[ConnectionFacts] = []
    for number in range(count):
        who = (client, client, others[number % CALLERS], others[number % CALLERS // 2], caller(None))[number % 5]
        source = IPv4Address("10.0.0.0") + number
        found.append(ConnectionFacts(who, source, there, at, PORT))
    return found


def verdict_s(engine: PolicyEngine, facts: Sequence[ConnectionFacts], seconds: float) -> float:
    """Seconds for one verdict, the median of passes over all of `facts`."""
    passes_s: list[float] = []
    deadline = time.perf_counter() + seconds
    while not passes_s or time.perf_counter() < deadline:
        began = time.perf_counter()
        for one in facts:
            engine.judge(one)
        passes_s.append((time.perf_counter() - began) / len(facts))
    return median(passes_s)


def again_s(engine: PolicyEngine, facts: Sequence[ConnectionFacts]) -> float:
    """Seconds to judge open connections again after one policy was added."""
    added = Authorization(namespace=NAMESPACE, name="added", scope=Scope.NAMESPACE, action=Action.DENY, rules=())
    began = time.perf_counter()
    engine.apply([added])
    for _ in engine.recheck(enumerate(facts)):
        pass
    return time.perf_counter() - began


def main(count: int, seconds: float) -> None:
    engine, facts = PolicyEngine(policies(count)), connections(1_000)
    found = {"verdict_s": verdict_s(engine, facts, seconds), "again_s": again_s(engine, connections(OPEN))}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
