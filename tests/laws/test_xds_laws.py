"""Whatever changes and breaks in between: a subscriber ends with exactly what the server publishes."""

from hypothesis import given
from hypothesis import strategies as st

from hbone.discovery.catalogue import Catalogue, Resource
from hbone.discovery.xds import ADDRESS_TYPE, Interest, NodeInfo, Reject, Subscriber, parse_response
from hbone.discovery.xds_server import BatchLimits, Conversation
from hbone.times import Instant

NAMES = [f"w{n}" for n in range(8)]
NOW = Instant(0.0)

puts = st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(0, 3))
removals = st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just(0))
sends = st.tuples(st.just("send"), st.just(""), st.integers(0, 4))
answers = st.tuples(st.just("answer"), st.just(""), st.integers(0, 2))
breaks = st.tuples(st.sampled_from(["drop", "restart", "forget"]), st.just(""), st.just(0))
steps = st.lists(st.one_of(puts, removals, sends, answers, breaks), max_size=60)


class Mesh:
    """One server and one subscriber, with responses and answers under way between them."""

    def __init__(self, limits: BatchLimits, interest: Interest) -> None:
        self.limits = limits
        self.catalogue = Catalogue(ADDRESS_TYPE)
        self.client = Subscriber(NodeInfo(id="n", metadata={}), {ADDRESS_TYPE: interest})
        self.applied: dict[str, bytes] = {}
        self.answers: list[bytes] = []
        if interest is Interest.ON_DEMAND:
            self.client.demand(ADDRESS_TYPE, NAMES)
        self.drop()

    def drop(self) -> None:
        self.answers.clear()
        self.server = Conversation({ADDRESS_TYPE: self.catalogue}, self.limits)
        for request in self.client.start_stream():
            self.server.receive(request, NOW)

    def restart(self) -> None:
        """Another server process, which published the same in another order."""
        fresh = Catalogue(ADDRESS_TYPE)
        live = [(entry.name, entry.resource) for entry in self.catalogue.changes(0)]
        bodies = {name: self.bodies[name] for name, resource in live if resource is not None}
        fresh.update([Resource(name=name, body=bodies[name]) for name in sorted(bodies)])
        self.catalogue = fresh
        self.drop()

    bodies: dict[str, bytes]

    def send(self) -> bool:
        data = self.server.next_response(NOW)
        if data is None:
            return False
        batch = self.client.receive(parse_response(data))
        for name in batch.removed:
            self.applied.pop(name, None)
        rejects = [Reject(update.name, "bad") for update in batch.updates if update.body.startswith(b"bad")]
        bad = {reject.name for reject in rejects}
        self.applied.update({update.name: update.body for update in batch.updates if update.name not in bad})
        answer = self.client.answer(batch, rejects)
        self.answers.append(answer.SerializeToString())
        return True

    def answer(self) -> None:
        from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest

        if self.answers:
            self.server.receive(DeltaDiscoveryRequest.FromString(self.answers.pop(0)), NOW)

    def settle(self) -> None:
        while self.send() or self.answers:
            self.answer()


@given(steps, st.integers(1, 3), st.integers(1, 3), st.sampled_from(Interest))
def test_a_subscriber_ends_with_exactly_the_servers_state(
    script: list[tuple[str, str, int]], resources: int, in_flight: int, interest: Interest
) -> None:
    mesh = Mesh(BatchLimits(resources=resources, in_flight=in_flight), interest)
    mesh.bodies = {}
    for action, name, number in script:
        match action:
            case "put":
                mesh.bodies[name] = b"" if number == 0 else f"{number}".encode()
                mesh.catalogue.update([Resource(name=name, body=mesh.bodies[name])])
            case "remove":
                mesh.catalogue.update([], [name])
                mesh.bodies.pop(name, None)
            case "send":
                for _ in range(number):
                    mesh.send()
            case "answer":
                for _ in range(number):
                    mesh.answer()
            case "drop":
                mesh.drop()
            case "restart":
                mesh.restart()
            case _:
                mesh.catalogue.forget_removed(mesh.server.cursor(ADDRESS_TYPE) or 0)
    mesh.settle()
    assert mesh.applied == mesh.bodies
    assert dict(mesh.client.held(ADDRESS_TYPE)) == mesh.catalogue.versions()
    assert mesh.client.synced


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([b"good", b"bad", b"good2", b""])), max_size=30))
def test_a_rejected_version_never_hides_a_later_good_one_or_a_removal(changes: list[tuple[str, bytes]]) -> None:
    mesh = Mesh(BatchLimits(resources=2, in_flight=1), Interest.WILDCARD)
    wanted: dict[str, bytes] = {}
    for name, body in changes:
        if body:
            mesh.catalogue.update([Resource(name=name, body=body)])
        else:
            mesh.catalogue.update([], [name])
        if body.startswith(b"good"):
            wanted[name] = body
        elif not body:
            wanted.pop(name, None)
        mesh.settle()
    assert mesh.applied == wanted
