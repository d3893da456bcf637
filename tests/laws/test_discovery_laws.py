"""Laws of discovery: the store is what a list would be, turns are fair, no text makes a parser fail otherwise."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hbone.addr import IpAddress, Prefix, parse_ip
from hbone.discovery.localdump import dump
from hbone.discovery.localfile import parse_local_file
from hbone.discovery.manifests import parse_manifests
from hbone.discovery.model import (
    Health,
    MeshState,
    NetworkAddress,
    NetworkMode,
    NetworkPrefix,
    Protocol,
    Service,
    Visibility,
    Workload,
)
from hbone.discovery.outcomes import Passthrough, Refuse
from hbone.discovery.plan import OutboundContext, plan_outbound
from hbone.discovery.select import Candidate, RoundRobin, Selector
from hbone.discovery.store import Source, Store, Update
from hbone.errors import InvalidConfiguration
from tests.unit.discovery.builders import CLIENT, sock

IPS = st.sampled_from([parse_ip(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1")])
NETWORKS = st.sampled_from(["", "n1"])
HOSTS = st.sampled_from(["a.example", "b.example", "C.example"])
NAMESPACES = st.sampled_from(["x", "y"])
PREFIXES = st.sampled_from([Prefix.parse(text) for text in ("10.0.0.0/24", "10.0.0.0/16", "fd00::/64")])
PORTS = st.dictionaries(st.integers(1, 3), st.integers(1, 9), max_size=2)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    keys = st.tuples(NAMESPACES, HOSTS).map("/".join)
    return Workload(
        uid=draw(st.sampled_from(["u1", "u2", "u3//Pod/", "u4//Pod/"])),
        name=draw(st.sampled_from(["p", "q"])),
        namespace=draw(NAMESPACES),
        addresses=tuple(draw(st.lists(IPS, max_size=2, unique=True))),
        hostname=draw(st.just("") | HOSTS),
        network=draw(NETWORKS),
        protocol=draw(st.sampled_from(Protocol)),
        health=draw(st.sampled_from(Health)),
        network_mode=draw(st.sampled_from(NetworkMode)),
        services=draw(st.dictionaries(keys, PORTS, max_size=2)),
    )


@st.composite
def services(draw: st.DrawFn) -> Service:
    return Service(
        name="s",
        namespace=draw(NAMESPACES),
        hostname=draw(HOSTS),
        vips=tuple(draw(st.lists(st.builds(NetworkAddress, NETWORKS, IPS), max_size=2, unique=True))),
        cidr_vips=tuple(draw(st.lists(st.builds(NetworkPrefix, NETWORKS, PREFIXES), max_size=2, unique=True))),
        ports=draw(PORTS),
        canonical=draw(st.booleans()),
        visibility=draw(st.sampled_from(Visibility)),
    )


REMOVED = st.lists(
    st.sampled_from(["u1", "u2", "u3//Pod/", "u4//Pod/", "x/a.example", "y/b.example", "x/C.example"]), max_size=3
)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    return Update(
        workloads=tuple(draw(st.lists(workloads(), max_size=3))),
        services=tuple(draw(st.lists(services(), max_size=3))),
        removed=tuple(draw(REMOVED)),
    )


UPDATES = updates()


class Naive:
    """The same mesh as plain dicts, searched from end to end."""

    def __init__(self) -> None:
        self.layers: dict[Source, dict[str, Any]] = {}

    def apply(self, update: Update, source: Source) -> None:
        layer = self.layers.setdefault(source, {})
        for name in update.removed:
            layer.pop(name, None)
        layer.update({w.uid: w for w in update.workloads})
        layer.update({s.key: s for s in update.services})

    def values(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for source in sorted(self.layers):
            merged.update(self.layers[source])
        return merged

    def workloads(self) -> list[Workload]:
        return [v for v in self.values().values() if isinstance(v, Workload)]

    def services(self) -> list[Service]:
        return [v for v in self.values().values() if isinstance(v, Service)]

    def owners(self, network: str, ip: IpAddress) -> list[Workload]:
        return [
            w
            for w in self.workloads()
            if w.network == network and ip in w.addresses and w.network_mode is NetworkMode.STANDARD
        ]


@given(st.lists(st.tuples(UPDATES, st.sampled_from([Source.XDS, Source.MANIFESTS])), max_size=6))
def test_the_store_answers_as_a_search_through_everything_would(history: list[tuple[Update, Source]]) -> None:
    mesh, naive = Store(), Naive()
    for update, source in history:
        before = {w.uid: w for w in naive.workloads()}
        change = mesh.apply(update, source)
        naive.apply(update, source)
        after = {w.uid: w for w in naive.workloads()}
        expected = {uid for uid in before.keys() | after.keys() if before.get(uid) != after.get(uid)}
        assert {one.uid for c in change.workloads if (one := c.after or c.before)} == expected
        now = {c.after.uid: c.after for c in change.workloads if c.after}
        assert now == {uid: after[uid] for uid in expected if uid in after}
    _same(mesh, naive)


def _same(mesh: Store, naive: Naive) -> None:
    assert {w.uid: w for w in mesh.workloads()} == {w.uid: w for w in naive.workloads()}
    assert {s.key: s for s in mesh.services()} == {s.key: s for s in naive.services()}
    for service in naive.services():
        listed = {w.uid: w for w in naive.workloads() if service.key in w.services}
        found = mesh.endpoints(service)
        assert {e.workload.uid: e.workload for e in found} == listed
        assert all(e.ports == e.workload.services[service.key] for e in found)
        assert mesh.service(service.namespace, service.hostname) == service
    for network in ("", "n1", "n2"):
        for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "fd00::1", "fd00::2"):
            _same_at(mesh, naive, network, parse_ip(text))
    for namespace in ("x", "y"):
        for name in ("p", "q"):
            called = {w.uid for w in naive.workloads() if (w.namespace, w.name) == (namespace, name)}
            assert {w.uid for w in mesh.workloads_called(namespace, name)} == called


def _same_at(mesh: Store, naive: Naive, network: str, ip: IpAddress) -> None:
    owners = naive.owners(network, ip)
    found = mesh.workload_at(network, ip)
    assert (found is None) == (not owners)
    if found is not None:
        assert found in owners
        stronger = [w for w in owners if w.uid in naive.layers.get(Source.MANIFESTS, {})]
        ranked = stronger or owners
        assert found in ranked
        assert "//Pod/" in found.uid or not any("//Pod/" in w.uid for w in ranked)
    for namespace in ("x", "other", None):
        visible = [s for s in naive.services() if s.visible_from(namespace)]
        exact = [s for s in visible if NetworkAddress(network, ip) in s.vips]
        ranged = [s for s in visible if any(v.network == network and ip in v.prefix for v in s.cidr_vips)]
        service = mesh.at(network, ip, namespace).service
        if exact:
            assert service in exact
            own = [s for s in exact if s.namespace == namespace]
            assert service in (own or [s for s in exact if s.canonical] or exact)
        elif owners:
            assert service is None
        else:
            assert service in ranged if ranged else service is None


@given(UPDATES, UPDATES)
def test_replacing_everything_is_as_good_as_starting_anew(first: Update, second: Update) -> None:
    mesh, fresh = Store(), Store()
    state = MeshState(workloads=second.workloads, services=second.services)
    mesh.replace_all(Source.MANIFESTS, MeshState(workloads=first.workloads, services=first.services))
    mesh.replace_all(Source.MANIFESTS, state)
    fresh.replace_all(Source.MANIFESTS, state)
    assert (mesh.workloads(), mesh.services()) == (fresh.workloads(), fresh.services())
    assert not mesh.replace_all(Source.MANIFESTS, state)


@given(UPDATES)
def test_taking_everything_away_leaves_nothing_behind(update: Update) -> None:
    mesh = Store()
    mesh.apply(update)
    mesh.replace_all(Source.XDS, MeshState())
    kept = {"_version", "_workload_layers", "_service_layers"}
    for name in vars(mesh).keys() - kept:
        index: object = getattr(mesh, name)
        contents: list[object] = list(vars(index).values()) if hasattr(index, "__dict__") else [index]
        assert not any(contents), name


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_over_whole_rounds_turns_are_exactly_in_proportion_to_capacity(capacities: list[int], start: float) -> None:
    members = tuple(
        Candidate(replace(CLIENT, uid=str(number), capacity=capacity), 1)
        for number, capacity in enumerate(capacities)
        if capacity
    )
    robin = RoundRobin(members, start)
    equal = len({c.workload.capacity for c in members}) <= 1
    share = {c.workload.uid: 1 if equal else c.workload.capacity for c in members}
    taken = Counter(candidate.workload.uid for _ in range(3 * sum(share.values())) if (candidate := robin.next(())))
    assert taken == {uid: 3 * turns for uid, turns in share.items()}


@given(UPDATES, IPS, st.integers(1, 3))
def test_nothing_goes_in_clear_to_a_workload_that_speaks_hbone(update: Update, ip: IpAddress, port: int) -> None:
    mesh = Store()
    mesh.apply(update)
    for network in ("", "n1"):
        source = replace(CLIENT, network=network)
        found = plan_outbound(mesh, source, replace(sock("10.0.0.1:1"), ip=ip, port=port), Selector())
        if isinstance(found, Passthrough):
            owner = mesh.workload_at(network, found.upstream.ip)
            meant = found.destination or owner
            assert meant is None or meant.protocol is Protocol.TCP


@given(UPDATES, IPS, st.integers(1, 3))
def test_trying_again_ends_and_never_repeats_an_upstream(update: Update, ip: IpAddress, port: int) -> None:
    mesh, selector, context = Store(), Selector(), OutboundContext()
    mesh.apply(update)
    seen: list[str] = []
    for _ in range(10):
        found = plan_outbound(mesh, CLIENT, replace(sock("10.0.0.1:1"), ip=ip, port=port), selector, context)
        later = context.without(found)
        if isinstance(found, Refuse) or later is context:
            break
        seen.extend(later.tried - context.tried)
        context = later
    else:
        raise AssertionError(f"still trying after {seen}")
    assert len(seen) == len(set(seen))


# parsers

KEYS = st.sampled_from(
    """apiVersion kind metadata spec name namespace labels annotations address hosts ports number targetPort resolution
    endpoints workloadSelector selector serviceAccount network weight locality items workloads services policies uid
    workloadIps protocol vips hostname waypoint destination loadBalancer port clusterIP addresses subjectAltNames
    networkMode applicationTunnel routingPreferences weightedWaypoints cidrVips istio.io/use-waypoint""".split()  # noqa: SIM905
)
WORDS = st.sampled_from(
    """v1 networking.istio.io/v1 security.istio.io/v1 WorkloadEntry ServiceEntry Service Namespace List STATIC DNS NONE
    cart shop a/b 10.0.0.1 10.0.0.0/8 HBONE Failover ambient http""".split()  # noqa: SIM905
)


class Tag:
    """A value with a local tag."""

    def __init__(self, tag: str, value: object) -> None:
        self.tag = tag
        self.value = value


class Dumper(yaml.SafeDumper):
    """Writes `Tag` as `!tag value`."""


def _tagged(dumper: Any, tag: Tag) -> Any:
    node = dumper.represent_data(tag.value)
    node.tag = f"!{tag.tag}"
    return node


Dumper.add_representer(Tag, _tagged)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70000) | st.floats(allow_nan=False) | WORDS | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5)
        | st.builds(Tag, st.sampled_from(["Exact", "HBONE"]), inner)
    ),
    max_leaves=25,
)
OBJECTS = st.fixed_dictionaries(
    {"apiVersion": WORDS, "kind": WORDS, "metadata": st.fixed_dictionaries({"name": WORDS}) | VALUES, "spec": VALUES}
)


def _manifests(text: str | bytes) -> None:
    try:
        parse_manifests({"a.yaml": text})
    except InvalidConfiguration as error:
        _well_formed(error)


def _local(text: str | bytes) -> None:
    try:
        parse_local_file("a.yaml", text)
    except InvalidConfiguration as error:
        _well_formed(error)


def _well_formed(error: InvalidConfiguration) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.file == "a.yaml"
        assert problem.what
        assert problem.fix
        assert len(str(problem)) < 2000


@given(st.lists(OBJECTS | VALUES, max_size=3))
def test_no_document_makes_the_parsers_raise_anything_but_invalid_configuration(documents: list[object]) -> None:
    text = yaml.dump_all(documents, Dumper=Dumper)
    _manifests(text)
    _local(text)


@given(st.fixed_dictionaries({}, optional={key: st.lists(VALUES, max_size=3) for key in ("workloads", "services")}))
def test_no_local_file_makes_its_parser_raise_anything_but_invalid_configuration(content: dict[str, object]) -> None:
    _local(yaml.dump(content, Dumper=Dumper))


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_no_text_makes_the_parsers_raise_anything_but_invalid_configuration(text: str | bytes) -> None:
    _manifests(text)
    _local(text)


@given(st.text(alphabet="{}[]:,-&*!?|>'\" \n\tab1<", max_size=40))
def test_no_yaml_syntax_makes_the_parsers_raise_anything_but_invalid_configuration(text: str) -> None:
    _manifests(text)
    _local(text)


@settings(max_examples=50)
@given(
    st.lists(workloads(), max_size=3, unique_by=lambda w: w.uid),
    st.lists(services(), max_size=3, unique_by=lambda s: s.key),
)
def test_what_is_dumped_is_what_is_loaded(some: list[Workload], others: list[Service]) -> None:
    hosted = tuple(replace(w, network_mode=NetworkMode.HOST_NETWORK) for w in some)
    state = MeshState(workloads=hosted, services=tuple(others))
    assert parse_local_file("a.yaml", yaml.safe_dump(dump(state))).state == state


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)


def _outcome(text: str) -> object:
    """What a local file says; or what is wrong with it, without the lines."""
    try:
        found = parse_local_file("a.yaml", text)
    except InvalidConfiguration as error:
        return {(problem.field, problem.what) for problem in error.problems}
    return found.state, [policy.value for policy in found.policies]


@given(
    st.fixed_dictionaries({}, optional={key: st.lists(JSON_VALUES, max_size=3) for key in ("workloads", "policies")})
)
def test_json_says_the_same_whichever_way_it_is_read(content: dict[str, object]) -> None:
    text = json.dumps(content, ensure_ascii=False)
    assume(text.isprintable())  # YAML has no other characters, and so no opinion about them
    assert _outcome(text) == _outcome(f"# no JSON any more\n{text}")


@settings(max_examples=50)
@given(st.lists(workloads(), max_size=3, unique_by=lambda w: w.uid))
def test_what_is_dumped_as_json_is_what_is_loaded(some: list[Workload]) -> None:
    state = MeshState(workloads=tuple(replace(w, network_mode=NetworkMode.HOST_NETWORK) for w in some))
    assert parse_local_file("a.yaml", json.dumps(dump(state))).state == state
