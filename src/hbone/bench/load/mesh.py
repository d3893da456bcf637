"""`mesh FILE`: what a store holds of a mesh in ztunnel's local form, timed.

Prints {"stream_s": taking all of it as a control plane sends it, "lookup_s": finding one workload by its address,
"plan_s": deciding where a connection to one goes}.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TypeVar

from hbone.addr import SocketAddress
from hbone.discovery.localfile import parse_local_file
from hbone.discovery.model import Workload
from hbone.discovery.plan import plan_outbound
from hbone.discovery.resources import AddressDecoder, workload_resource
from hbone.discovery.select import Selector
from hbone.discovery.store import Source, Store, Update

AT_ONCE = 10_000  # of a stream's resources in one message
LOOKUPS = 50_000
STRIDE = 7_919  # a prime: neighbours in memory are not asked for one after the other
REPEATS = 5

T = TypeVar("T")


def streamed_s(store: Store, workloads: Sequence[Workload]) -> float:
    """Seconds to decode all workloads and put them in force, message by message."""
    messages = [(one.name, one.body) for one in map(workload_resource, workloads)]
    decoder, taken = AddressDecoder(), iter(messages)
    began = time.perf_counter()
    while part := list(islice(taken, AT_ONCE)):
        found = [decoder.decode(name, body) for name, body in part]
        store.apply(Update(workloads=tuple(one for one in found if isinstance(one, Workload))), Source.XDS)
    return time.perf_counter() - began


def each_s(ask: Callable[[T], object], questions: Sequence[T]) -> float:
    """Seconds for one question, the median of several passes over all."""
    passes_s: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for question in questions:
            ask(question)
        passes_s.append((time.perf_counter() - began) / len(questions))
    return median(passes_s)


def main(file: str) -> None:
    store, selector = Store(), Selector()
    workloads = parse_local_file(file, Path(file).read_bytes()).state.workloads
    stream_s = streamed_s(store, workloads)
    asked = [workloads[number * STRIDE % len(workloads)].addresses[0] for number in range(LOOKUPS)]
    source = workloads[0]
    targets = [SocketAddress(ip, 8080) for ip in asked[: LOOKUPS // 10]]
    found = {
        "stream_s": stream_s,
        "lookup_s": each_s(lambda ip: store.workload_at("", ip), asked),
        "plan_s": each_s(lambda to: plan_outbound(store, source, to, selector), targets),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
