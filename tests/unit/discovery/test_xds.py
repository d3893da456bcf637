"""Both sides of the delta-xDS conversation, without a network."""

from typing import Any

import pytest

from hbone.discovery.catalogue import Catalogue, Resource
from hbone.discovery.xds import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    Interest,
    NodeInfo,
    Reject,
    Subscriber,
    XdsViolation,
    parse_response,
)
from hbone.discovery.xds_server import MAX_NAMES, BatchLimits, Conversation
from hbone.proto.core_pb2 import Node
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.times import Instant

NOW = Instant(100.0)
T = ADDRESS_TYPE
NODE = NodeInfo(id="ztunnel~127.0.0.1~n.ns~ns.svc.cluster.local", metadata={"NODE_NAME": "n", "big": 1.0, "on": True})
SMALL = BatchLimits(resources=2, bytes=1 << 20, in_flight=1)


def resource(name: str, body: str = "", aliases: tuple[str, ...] = ()) -> Resource:
    return Resource(name=name, body=body.encode(), aliases=aliases)


def catalogue(*names: str, type_url: str = T) -> Catalogue:
    made = Catalogue(type_url)
    made.update([resource(name) for name in names])
    return made


def ask(names: tuple[str, ...] = (), *, unsubscribe: tuple[str, ...] = (), **more: Any) -> DeltaDiscoveryRequest:
    return DeltaDiscoveryRequest(
        type_url=T, resource_names_subscribe=names, resource_names_unsubscribe=unsubscribe, **more
    )


def said(conversation: Conversation) -> DeltaDiscoveryResponse | None:
    data = conversation.next_response(NOW)
    return None if data is None else parse_response(data)


def heard(conversation: Conversation) -> tuple[list[str], list[str]]:
    """Names of resources and removals of the next response, which is acknowledged."""
    response = said(conversation)
    assert response is not None
    conversation.receive(ask(response_nonce=response.nonce), NOW)
    return [one.name for one in response.resources], list(response.removed_resources)


def subscriber(interest: Interest = Interest.WILDCARD) -> Subscriber:
    return Subscriber(NODE, {T: interest})


def converse(client: Subscriber, server: Conversation) -> None:
    """Everything both have to say now."""
    while (response := said(server)) is not None:
        server.receive(client.answer(client.receive(response)), NOW)


# the catalogue


def test_a_resource_published_again_with_the_same_contents_is_no_change() -> None:
    published = catalogue("a")
    assert not published.update([resource("a")])
    assert published.update([resource("a", "new")])
    assert published.revision == 2


def test_versions_depend_on_the_contents_alone_so_that_a_restarted_server_agrees() -> None:
    one, other = catalogue("a", "b"), catalogue("b", "a")
    assert one.versions() == other.versions()
    other.update([resource("a", "", ("n/10.0.0.1",))])
    assert one.versions() != other.versions()


def test_the_log_holds_each_name_once_however_often_it_changed() -> None:
    published = catalogue("a", "b")
    for turn in range(5000):
        published.update([resource("a", str(turn))])
    assert [entry.name for entry in published.changes(0)] == ["b", "a"]
    assert len(published._log) < 2000  # pyright: ignore[reportPrivateUsage]  # the bound is the point


def test_removals_are_remembered_until_every_subscriber_was_told() -> None:
    published = catalogue("a", "b", "c")
    published.update([], ["a", "b", "nobody"])
    assert published.removals_remembered == 2
    assert [entry.name for entry in published.changes(3)] == ["a", "b"]
    published.forget_removed(4)
    assert [entry.name for entry in published.changes(0)] == ["c", "b"]
    assert published.removals_remembered == 1


def test_replacing_everything_gives_just_the_difference() -> None:
    published = catalogue("a", "b")
    at = published.revision
    assert published.replace({"b": resource("b"), "c": resource("c")})
    assert {(entry.name, entry.resource is None) for entry in published.changes(at)} == {("a", True), ("c", False)}
    assert not published.replace({"b": resource("b"), "c": resource("c")})
    assert len(published) == 2
    assert "c" in published


def test_an_alias_leads_to_all_that_share_it_and_ends_with_its_resource() -> None:
    published = Catalogue(T)
    published.update([resource("a", "", ("n/1", "n/2")), resource("b", "", ("n/1",))])
    assert [one.name for one in published.find("n/1")] == ["a", "b"]
    published.update([resource("a", "x", ("n/2",))], ["b"])
    assert published.find("n/1") == ()
    assert [one.name for one in published.find("n/2")] == ["a"]
    assert published.find("nothing") == ()


# wildcard


@pytest.mark.parametrize("names", [(), ("*",)])
def test_a_wildcard_subscriber_gets_everything_and_then_only_what_changed(names: tuple[str, ...]) -> None:
    published = catalogue("a", "b")
    server = Conversation({T: published})
    server.receive(ask(names), NOW)
    assert heard(server) == (["a", "b"], [])
    assert said(server) is None
    published.update([resource("b", "new"), resource("c")], ["a"])
    assert heard(server) == (["b", "c"], ["a"])
    assert said(server) is None


def test_an_empty_mesh_is_answered_so_that_a_node_becomes_ready() -> None:
    server = Conversation({T: Catalogue(T)})
    server.receive(ask(), NOW)
    client = subscriber()
    assert not client.synced
    converse(client, server)
    assert client.synced


def test_a_subscriber_that_resumes_gets_only_what_it_lacks() -> None:
    published = catalogue("a", "b", "c")
    held = published.versions()
    published.update([resource("b", "new"), resource("d")], ["c"])
    server = Conversation({T: published})
    server.receive(ask(initial_resource_versions={**held, "ghost": "1"}), NOW)
    resources, removed = heard(server)
    assert (resources, sorted(removed)) == (["b", "d"], ["c", "ghost"])


def test_a_name_that_comes_back_before_its_removal_was_sent_is_not_removed() -> None:
    published = catalogue("a")
    server = Conversation({T: published})
    server.receive(ask(initial_resource_versions={"back": "1"}), NOW)
    published.update([resource("back", "new")])
    assert heard(server) == (["a", "back"], [])


def test_removals_from_before_the_subscription_are_not_told() -> None:
    published = catalogue("a", "b")
    published.update([], ["a"])
    server = Conversation({T: published})
    server.receive(ask(), NOW)
    assert heard(server) == (["b"], [])


def test_a_large_state_comes_in_parts_and_only_the_last_one_makes_the_client_ready() -> None:
    published = catalogue("a", "b", "c", "d", "e")
    client, server = subscriber(), Conversation({T: published}, SMALL)
    for request in client.start_stream():
        server.receive(request, NOW)
    sizes: list[int] = []
    while (response := said(server)) is not None:
        assert not client.synced
        sizes.append(len(response.resources))
        server.receive(client.answer(client.receive(response)), NOW)
    assert sizes == [2, 2, 1]
    assert client.synced
    assert dict(client.held(T)) == published.versions()


def test_parts_are_limited_in_bytes_but_one_large_resource_goes_through() -> None:
    published = Catalogue(T)
    published.update([resource("big", "x" * 5000), resource("a"), resource("b")])
    server = Conversation({T: published}, BatchLimits(resources=100, bytes=100, in_flight=1))
    server.receive(ask(), NOW)
    assert heard(server) == (["big"], [])
    assert heard(server) == (["a", "b"], [])


def test_a_client_that_does_not_know_parts_gets_its_first_state_whole() -> None:
    published = catalogue(*(str(n) for n in range(3000)))
    for node, parts in ((Node(id="ztunnel"), 1), (NODE.message(), 3)):
        server = Conversation({T: published})
        server.receive(ask(node=node), NOW)
        counted = 0
        while said(server) is not None:
            counted += 1
        assert counted == parts


def test_the_series_of_parts_ends_even_if_the_rest_vanishes() -> None:
    published = catalogue("a", "b", "c")
    client, server = subscriber(), Conversation({T: published}, SMALL)
    server.receive(ask(), NOW)
    first = said(server)
    assert first is not None
    published.update([], ["c"])
    published.forget_removed(published.revision)
    server.receive(client.answer(client.receive(first)), NOW)
    converse(client, server)
    assert client.synced


def test_a_subscriber_that_does_not_answer_is_sent_no_more_and_then_the_newest_once() -> None:
    published = catalogue("a")
    server = Conversation({T: published}, BatchLimits(in_flight=2))
    server.receive(ask(), NOW)
    first = said(server)
    published.update([resource("a", "1")])
    assert said(server) is not None
    for turn in range(10):
        published.update([resource("a", f"later {turn}"), resource(f"gone {turn}")])
        published.update([], [f"gone {turn}"])
        assert said(server) is None
    (view,) = server.views(Instant(NOW + 7.0))
    assert (view.unanswered, view.waiting_s) == (2, 7.0)
    assert view.behind == 30
    assert first is not None
    server.receive(ask(response_nonce=first.nonce), NOW)
    response = said(server)
    assert response is not None
    assert [one.resource.value for one in response.resources] == [b"later 9"]


# by name


def test_on_demand_begins_with_nothing_and_answers_each_name() -> None:
    published = Catalogue(T)
    published.update([resource("uid-a", "a", ("net/10.0.0.1",)), resource("uid-b", "b")])
    client, server = subscriber(Interest.ON_DEMAND), Conversation({T: published})
    for request in client.start_stream():
        server.receive(request, NOW)
    converse(client, server)
    assert dict(client.held(T)) == {}
    demand = client.demand(T, ["net/10.0.0.1", "uid-b", "uid-c"])
    assert demand is not None
    server.receive(demand, NOW)
    response = said(server)
    assert response is not None
    batch = client.receive(response)
    assert batch.names >= {"net/10.0.0.1", "uid-a", "uid-b", "uid-c"}
    assert batch.removed == ("uid-c",)
    server.receive(client.answer(batch), NOW)
    assert set(client.held(T)) == {"uid-a", "uid-b"}


def test_a_name_is_watched_until_it_is_released() -> None:
    published = Catalogue(T)
    published.update([resource("uid-a", "a", ("net/10.0.0.1",))])
    server = Conversation({T: published})
    server.receive(ask(("net/10.0.0.1", "later")), NOW)
    assert heard(server) == (["uid-a"], ["later"])
    published.update([resource("uid-a", "new", ("net/10.0.0.1",)), resource("later"), resource("other")])
    assert heard(server) == (["uid-a", "later"], [])
    published.update([resource("uid-a", "moved", ("net/10.0.0.2",))])
    assert heard(server) == (["uid-a"], [])
    server.receive(ask(unsubscribe=("later",)), NOW)
    published.update([resource("later", "new")], ["uid-a"])
    assert said(server) is None  # the address moved away before: not asked for any more


def test_a_removed_resource_is_told_to_whoever_asked_for_it_by_address() -> None:
    published = Catalogue(T)
    published.update([resource("uid-a", "a", ("net/10.0.0.1",))])
    server = Conversation({T: published}, SMALL)
    server.receive(ask(("net/10.0.0.1",)), NOW)
    assert heard(server) == (["uid-a"], [])
    published.update([], ["uid-a"])
    assert heard(server) == ([], ["uid-a"])
    assert said(server) is None


def test_an_alias_of_many_resources_is_answered_in_parts() -> None:
    published = Catalogue(T)
    published.update([resource(f"uid-{n}", "", ("net/10.0.0.1",)) for n in range(5)])
    server = Conversation({T: published}, SMALL)
    server.receive(ask(("net/10.0.0.1",)), NOW)
    found: list[str] = []
    while (response := said(server)) is not None:
        found += [one.name for one in response.resources]
        server.receive(ask(response_nonce=response.nonce), NOW)
    assert found == [f"uid-{n}" for n in range(5)]


def test_an_on_demand_client_resumes_what_it_holds_and_what_it_waits_for() -> None:
    published = Catalogue(T)
    published.update([resource("a"), resource("b")])
    client, server = subscriber(Interest.ON_DEMAND), Conversation({T: published})
    client.demand(T, ["a", "b", "c"])
    for request in client.start_stream():
        server.receive(request, NOW)
    converse(client, server)
    published.update([resource("a", "new"), resource("c")], ["b"])
    again = Conversation({T: published})
    for request in client.start_stream():
        again.receive(request, NOW)
    converse(client, again)
    assert dict(client.held(T)) == published.versions()


def test_what_a_names_only_client_holds_counts_as_asked_for_and_is_not_sent_again() -> None:
    published = catalogue("a", "b")
    server = Conversation({T: published})
    server.receive(ask(("*",), unsubscribe=("*",), initial_resource_versions=published.versions()), NOW)
    assert heard(server) == ([], [])
    published.update([resource("a", "new")], ["b"])
    assert heard(server) == (["a"], ["b"])


def test_everything_can_be_asked_for_later_and_given_up_again() -> None:
    published = catalogue("a", "b")
    server = Conversation({T: published})
    server.receive(ask(("a",)), NOW)
    assert heard(server) == (["a"], [])
    server.receive(ask(("*",)), NOW)
    assert heard(server) == (["a", "b"], [])
    server.receive(ask(unsubscribe=("*",)), NOW)
    published.update([resource("a", "new"), resource("b", "new")])
    assert heard(server) == (["a"], [])


def test_demanding_twice_asks_once_and_releasing_the_unknown_asks_nothing() -> None:
    client = subscriber(Interest.ON_DEMAND)
    assert client.demand(T, ["a", "a"]) is not None
    assert client.demand(T, ["a"]) is None
    assert client.release(T, ["b"]) is None
    released = client.release(T, ["a", "b"])
    assert released is not None
    assert list(released.resource_names_unsubscribe) == ["a"]


def test_a_subscriber_cannot_make_the_server_hold_names_without_end() -> None:
    server = Conversation({T: Catalogue(T)})
    with pytest.raises(XdsViolation, match="too many names"):
        server.receive(ask(tuple(str(n) for n in range(MAX_NAMES + 1))), NOW)


# answers


def test_a_nack_says_which_and_why_and_is_kept_for_the_operator() -> None:
    published = catalogue("a", "b")
    client, server = subscriber(), Conversation({T: published})
    server.receive(ask(), NOW)
    response = said(server)
    assert response is not None
    answer = client.answer(client.receive(response), [Reject("b", "has port 70000")])
    assert answer.error_detail.message == "b: has port 70000"
    server.receive(answer, NOW)
    (view,) = server.views(NOW)
    assert view.nack is not None
    assert (view.nacks, view.nack.message, view.acknowledged) == (1, "b: has port 70000", 0)
    assert said(server) is None  # not sent again before it changes
    assert not client.views()[0].synced
    assert dict(client.held(T)) == {"a": published.versions()["a"]}
    assert client.views()[0].rejected == (Reject("b", "has port 70000"),)
    published.update([resource("b", "good")])
    converse(client, server)
    assert client.synced
    assert client.views()[0].rejected == ()
    assert server.views(NOW)[0].acknowledged == published.revision


def test_a_rejected_change_keeps_the_former_version_so_that_a_removal_still_arrives() -> None:
    published = catalogue("a")
    client, server = subscriber(), Conversation({T: published})
    server.receive(ask(), NOW)
    converse(client, server)
    published.update([resource("a", "bad")])
    response = said(server)
    assert response is not None
    client.answer(client.receive(response), [Reject("a", "bad")])
    published.update([], ["a"])
    again = Conversation({T: published})
    for request in client.start_stream():
        again.receive(request, NOW)
    assert heard(again) == ([], ["a"])


def test_a_resource_of_another_type_is_rejected() -> None:
    response = DeltaDiscoveryResponse(type_url=T, nonce="1")
    response.resources.add(name="odd").resource.type_url = AUTHORIZATION_TYPE
    response.resources.add(name="empty")
    client = subscriber()
    answer = client.answer(client.receive(response))
    assert "odd: is a type.googleapis.com/istio.security" in answer.error_detail.message
    assert "empty: is a resource without type" in answer.error_detail.message


def test_a_type_that_was_not_asked_for_is_acknowledged_and_left() -> None:
    response = DeltaDiscoveryResponse(type_url="type.googleapis.com/x.Y", nonce="7", removed_resources=["a"])
    response.resources.add(name="odd")
    client = subscriber()
    batch = client.receive(response)
    assert (batch.updates, batch.removed) == ((), ())
    answer = client.answer(batch)
    assert answer.response_nonce == "7"
    assert not answer.HasField("error_detail")


def test_an_answer_to_a_nonce_that_is_not_waited_for_changes_nothing() -> None:
    server = Conversation({T: catalogue("a")})
    server.receive(ask(), NOW)
    assert said(server) is not None
    stale = ask(response_nonce="99")
    stale.error_detail.message = "old"
    server.receive(stale, NOW)
    (view,) = server.views(NOW)
    assert (view.unanswered, view.nacks) == (1, 0)


def test_an_unknown_type_is_noted_a_bounded_number_of_times_and_disturbs_no_other() -> None:
    server = Conversation({T: catalogue("a")})
    for n in range(100):
        server.receive(DeltaDiscoveryRequest(type_url=f"type.googleapis.com/unknown.{n}"), NOW)
    assert len(server.unknown_types) == 16
    server.receive(ask(), NOW)
    assert heard(server) == (["a"], [])
    assert server.cursor(T) == 1
    assert server.cursor("unknown") is None


def test_types_are_sent_in_the_order_of_the_catalogues() -> None:
    policies = catalogue("p", type_url=AUTHORIZATION_TYPE)
    server = Conversation({AUTHORIZATION_TYPE: policies, T: catalogue("a")})
    client = Subscriber(NODE, {T: Interest.WILDCARD, AUTHORIZATION_TYPE: Interest.WILDCARD})
    for request in client.start_stream():
        server.receive(request, NOW)
    order: list[str] = []
    while (response := said(server)) is not None:
        order.append(response.type_url)
        server.receive(client.answer(client.receive(response)), NOW)
    assert order == [AUTHORIZATION_TYPE, T]
    assert client.synced
    assert server.node is not None
    assert server.node.metadata["NODE_NAME"] == "n"


def test_garbage_instead_of_a_response_is_a_violation() -> None:
    with pytest.raises(XdsViolation, match="not protobuf"):
        parse_response(b"\xff\xff\xff")
