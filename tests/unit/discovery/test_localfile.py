"""ztunnel's local file, read and written."""
# ruff: noqa: E501 - a case and its message belong on one line

import json

import pytest
import yaml

from hbone.addr import Prefix
from hbone.discovery.localdump import dump
from hbone.discovery.localfile import LocalFile, parse_local_file
from hbone.discovery.model import (
    ApplicationTunnel,
    GatewayAddress,
    Health,
    HealthPolicy,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    Locality,
    MeshState,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    NetworkPrefix,
    Protocol,
    Scope,
    Service,
    TunnelProtocol,
    Visibility,
    WeightedWaypoint,
    Workload,
    WorkloadType,
)
from hbone.documents.values import Tagged
from hbone.errors import InvalidConfiguration
from tests.unit.discovery.builders import ip

FULL = """\
workloads:
- uid: c1//Pod/shop/cart-0
  name: cart-0
  namespace: shop
  trustDomain: td.example
  serviceAccount: cart
  network: n1
  workloadIps: ["10.1.0.7", "fd00::7"]
  hostname: cart.example
  protocol: HBONE
  networkMode: HostNetwork
  node: node-a
  workloadName: cart
  workloadType: cronjob
  canonicalName: cart
  canonicalRevision: v3
  clusterId: c1
  locality: {region: eu-1, zone: eu-1b, subzone: ""}
  status: Unhealthy
  nativeTunnel: true
  capacity: 3
  authorizationPolicies: ["shop/only-web"]
  waypoint: {destination: "n1/10.9.0.5", hboneMtlsPort: 15009}
  networkGateway: {destination: "infra/eastwest.example"}
  applicationTunnel: {protocol: PROXY, port: 15088}
  services:
    "shop/cart.shop.svc.cluster.local": {80: 8080}
services:
- name: cart
  namespace: shop
  hostname: cart.shop.svc.cluster.local
  vips: ["n1/10.2.0.9", "/10.2.0.10"]
  cidrVips: [{network: n1, cidr: 10.3.0.0/24}]
  ports: {80: 8080, "81": 0}
  subjectAltNames: ["spiffe://td/ns/a/sa/b"]
  ipFamilies: Dual
  canonical: true
  visibility: Namespace
  waypoint: {destination: "infra/waypoint.example"}
  loadBalancer:
    mode: Failover
    routingPreferences: [Network, Region, Zone]
    healthPolicy: AllowAll
  weightedWaypoints:
  - {destination: {destination: "infra/waypoint.example", hboneMtlsPort: 15008}, weight: 10}
policies:
- name: only-web
  rules: [[[{principals: [!Exact a, {Prefix: b}]}]]]
"""

WORKLOAD = Workload(
    uid="c1//Pod/shop/cart-0",
    name="cart-0",
    namespace="shop",
    trust_domain="td.example",
    service_account="cart",
    network="n1",
    addresses=(ip("10.1.0.7"), ip("fd00::7")),
    hostname="cart.example",
    protocol=Protocol.HBONE,
    network_mode=NetworkMode.HOST_NETWORK,
    node="node-a",
    workload_name="cart",
    workload_type=WorkloadType.CRONJOB,
    canonical_name="cart",
    canonical_revision="v3",
    cluster_id="c1",
    locality=Locality(region="eu-1", zone="eu-1b"),
    health=Health.UNHEALTHY,
    native_tunnel=True,
    capacity=3,
    authorization_policies=("shop/only-web",),
    waypoint=GatewayAddress(destination=NetworkAddress("n1", ip("10.9.0.5")), port=15009),
    network_gateway=GatewayAddress(destination=NamespacedHostname("infra", "eastwest.example")),
    application_tunnel=ApplicationTunnel(protocol=TunnelProtocol.PROXY, port=15088),
    services={"shop/cart.shop.svc.cluster.local": {80: 8080}},
)
AT = GatewayAddress(destination=NamespacedHostname("infra", "waypoint.example"))
SERVICE = Service(
    name="cart",
    namespace="shop",
    hostname="cart.shop.svc.cluster.local",
    vips=(NetworkAddress("n1", ip("10.2.0.9")), NetworkAddress("", ip("10.2.0.10"))),
    cidr_vips=(NetworkPrefix("n1", Prefix.parse("10.3.0.0/24")),),
    ports={80: 8080, 81: 0},
    subject_alt_names=("spiffe://td/ns/a/sa/b",),
    ip_families=IpFamilies.DUAL,
    canonical=True,
    visibility=Visibility.NAMESPACE,
    waypoint=AT,
    load_balancing=LoadBalancing(
        mode=LoadBalancerMode.FAILOVER,
        routing_preferences=(Scope.NETWORK, Scope.REGION, Scope.ZONE),
        health_policy=HealthPolicy.ALLOW_ALL,
    ),
    weighted_waypoints=(WeightedWaypoint(destination=AT, weight=10),),
)
SMALL = "{uid: u, namespace: shop, name: a, workloadIps: [], services: {}%s}"


def read(text: str) -> LocalFile:
    return parse_local_file("local.yaml", text)


def workload(extra: str = "") -> Workload:
    return read(f"workloads: [{SMALL % extra}]").state.workloads[0]


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_every_field_of_the_format_is_read() -> None:
    found = read(FULL)
    assert found.state == MeshState(workloads=(WORKLOAD,), services=(SERVICE,))


def test_policies_are_handed_on_with_their_places() -> None:
    (policy,) = read(FULL).policies
    assert policy.value == {"name": "only-web", "rules": [[[{"principals": [Tagged("Exact", "a"), {"Prefix": "b"}]}]]]}
    assert str(policy.problem(("rules", 0), "x", "y")) == "local.yaml:48: policies[0].rules[0]: x; y"


def test_what_is_dumped_can_be_loaded_again_as_yaml_and_as_json() -> None:
    state = MeshState(
        workloads=(WORKLOAD, Workload(uid="u", name="", namespace="n", hbone_port=1)), services=(SERVICE,)
    )
    assert read(yaml.safe_dump(dump(state))).state == state
    assert read(json.dumps(dump(state))).state == state


JSON = """{
 "workloads": [
  {"uid": "u", "namespace": "shop", "workloadIps": ["10.0.0.1"]}
 ],
 "policies": [
  {"name": "a",
   "rules": []},
  {"name": "b"}]}
"""


def test_a_large_file_says_the_same_as_yaml_and_as_json() -> None:
    workloads = [
        {
            "uid": f"c//Pod/ns{number % 7}/w{number}",
            "name": f"w{number}",
            "namespace": f"ns{number % 7}",
            "workloadIps": [f"10.0.{number >> 8}.{number & 255}"],
            "protocol": "HBONE" if number % 3 else "TCP",
            "network": "",
            "services": {f"ns{number % 7}/svc{number % 50}.example": {"80": 8080}},
        }
        for number in range(500)
    ]
    as_yaml = yaml.safe_dump({"workloads": workloads}, sort_keys=False)
    assert parse_local_file("f", as_yaml) == parse_local_file("f", json.dumps({"workloads": workloads}))
    wrong = as_yaml.replace("10.0.1.9\n", "10.0.1.999\n")
    with pytest.raises(InvalidConfiguration) as caught:
        parse_local_file("f", wrong)
    assert [problem.line for problem in caught.value.problems] == [
        as_yaml[: as_yaml.index("10.0.1.9\n")].count("\n") + 1
    ]


def test_policies_of_a_json_file_know_their_lines() -> None:
    found = read(JSON)
    assert [policy.line for policy in found.policies] == [6, 8]
    assert str(found.policies[0].problem(("rules",), "x", "y")) == "local.yaml:7: policies[0].rules: x; y"


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('"10.0.0.1"', '"10.0.0"', "local.yaml:3: workloads[0].workloadIps[0]: '10.0.0' is not an IP address"),
        ('"uid"', '"uidd"', "local.yaml:3: workloads[0].uidd: is not a known field; did you mean 'uid'?"),
        ('"policies"', '"polices"', "local.yaml:5: polices: is not a known field; did you mean 'policies'?"),
        ('"b"}]}', '"b"}]}}', "local.yaml:8: not valid YAML"),
        ('"b"}]}', '"b"}]}\n---\n{}', "local.yaml:10: a second document"),
    ],
)
def test_a_mistake_in_json_is_told_with_its_line(right: str, wrong: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems(JSON.replace(right, wrong))), wrong


@pytest.mark.parametrize(
    "balancing",
    [
        LoadBalancing(mode=LoadBalancerMode.PASSTHROUGH),
        LoadBalancing(mode=LoadBalancerMode.STRICT, routing_preferences=(Scope.NODE,)),
        LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL),
    ],
)
def test_load_balancing_survives_a_dump(balancing: LoadBalancing) -> None:
    state = MeshState(services=(Service(name="", namespace="a", hostname="b", load_balancing=balancing),))
    assert read(yaml.safe_dump(dump(state))).state == state


def test_a_dump_leaves_defaults_out() -> None:
    found = dump(read(f"workloads: [{SMALL % ''}]").state)["workloads"]
    assert found == [{"uid": "u", "name": "a", "namespace": "shop", "workloadIps": [], "services": {}}]


def test_an_empty_file_is_an_empty_mesh() -> None:
    for text in ("", "workloads:\n", "{}", "services: []"):
        assert read(text).state == MeshState()


def test_an_identity_is_never_left_empty() -> None:
    found = workload()
    assert (found.trust_domain, found.service_account, found.cluster_id) == ("cluster.local", "default", "Kubernetes")


def test_words_may_be_tags() -> None:
    assert workload(", protocol: !HBONE ").protocol is Protocol.HBONE


def test_a_tag_with_a_value_is_no_word() -> None:
    (found,) = problems(f"workloads:\n- {SMALL % ', protocol: !HBONE {a: 1}'}")
    assert found.startswith("local.yaml:2: workloads[0].protocol: !HBONE {'a': 1} is a tagged value")


def test_our_own_keys_are_read_too() -> None:
    found = workload(", hbonePort: 16008, labels: {app: a}")
    assert (found.hbone_port, found.labels) == (16008, {"app": "a"})


@pytest.mark.parametrize(
    "endpoints", ["[{workloadUid: u, port: {80: 8080}}]", "{u: {workloadUid: u, port: {80: 8080}, status: Healthy}}"]
)
def test_a_services_own_endpoints_are_joined_with_the_workloads(endpoints: str) -> None:
    text = f"workloads: [{SMALL % ''}]\nservices: [{{namespace: shop, hostname: a.example, endpoints: {endpoints}}}]"
    assert read(text).state.workloads[0].services == {"shop/a.example": {80: 8080}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "local.yaml:1: a document that is a list; write a mapping with workloads, services and policies"),
        ("a: 1\n---\nb: 1", "local.yaml:3: a second document in one file; "),
        ("workload: []", "local.yaml:1: workload: is not a known field; did you mean 'workloads'?"),
        ("workloads: {}", "local.yaml:1: workloads: {} is a mapping; write a list of mappings"),
        ("workloads: [a]", "local.yaml:1: workloads[0]: 'a' is text; write a mapping"),
        ("workloads: [{namespace: a}]", "local.yaml:1: workloads[0].uid: is missing; "),
        ("workloads: [{uid: a}]", "local.yaml:1: workloads[0].namespace: is missing; "),
        (f"workloads:\n- {SMALL % ''}\n- {SMALL % ''}", "local.yaml:3: workloads[1].uid: 'u' is there twice; "),
        (SMALL % ", workload_ips: []", "workloads[0].workload_ips: is not a known field; did you mean 'workloadIps'?"),
        (SMALL % ", protocol: hbone", "workloads[0].protocol: 'hbone' is not a choice here; did you mean 'HBONE'?"),
        (SMALL % ", protocol: 5", "workloads[0].protocol: 5 is a number; write one of: TCP, HBONE"),
        (SMALL % ", capacity: -1", "workloads[0].capacity: -1 is out of range; "),
        (SMALL % ", nativeTunnel: 'yes'", "workloads[0].nativeTunnel: 'yes' is text; write true or false"),
        (SMALL % ", serviceAccount: a//b", "workloads[0].serviceAccount: no identity: "),
        (SMALL % ", waypoint: {destination: a}", "workloads[0].waypoint.destination: 'a' has no '/'; "),
        (SMALL % ", waypoint: {destination: a/b c}", "workloads[0].waypoint.destination: 'b c' is not a host name; "),
        (SMALL % ", waypoint: {}", "workloads[0].waypoint.destination: is missing; "),
        (SMALL % ", waypoint: a/b", "workloads[0].waypoint: 'a/b' is text; write a mapping"),
        (SMALL % ", waypoint: {destination: a/b, hboneMtlsPort: 0}", "workloads[0].waypoint.hboneMtlsPort: 0 is out of"),
        (SMALL % ", applicationTunnel: {protocol: X}", "workloads[0].applicationTunnel.protocol: 'X' is not a choice here"),
        (SMALL % ", locality: {regio: a}", "workloads[0].locality.regio: is not a known field; did you mean 'region'?"),
        ((SMALL % "").replace("[]", "[1.2.3]"), "workloads[0].workloadIps[0]: '1.2.3' is not an IP address; "),
        ((SMALL % "").replace("services: {}", "services: {a: {}}"), "workloads[0].services.a: 'a' names no service; "),
        ((SMALL % "").replace("services: {}", "services: []"), "workloads[0].services: [] is a list; write a mapping"),
        ((SMALL % "").replace("services: {}", "services: {a/b: 80}"), 'workloads[0].services["a/b"]: 80 is a number; write a mapping of ports'),
        ((SMALL % "").replace("services: {}", "services: {a/b: {0: 80}}"), 'workloads[0].services["a/b"][0]: 0 is not a port; '),
        ((SMALL % "").replace("services: {}", "services: {a/b: {80: 0}}"), 'workloads[0].services["a/b"][80]: 0 is not a port; '),
        ((SMALL % "").replace("services: {}", "services: {a/b: {x: 80}}"), "workloads[0].services[\"a/b\"].x: 'x' is text; "),
        (SMALL % ", locality: []", "workloads[0].locality: [] is a list; write a mapping"),
        ("services: [{hostname: a}]", "local.yaml:1: services[0].namespace: is missing; "),
        ("services: [{namespace: a}]", "local.yaml:1: services[0].hostname: is missing; "),
        ("services: [{namespace: a, hostname: b}, {namespace: a, hostname: b}]", "local.yaml:1: services[1].hostname: the service a/b is there twice; "),
        ("services: [{namespace: a, hostname: b, vips: [10.0.0.1]}]", "local.yaml:1: services[0].vips[0]: '10.0.0.1' has no network; write network/address, or /10.0.0.1 for no network"),
        ("services: [{namespace: a, hostname: b, vips: [a/b]}]", "local.yaml:1: services[0].vips[0]: 'b' is not an IP address; "),
        ("services: [{namespace: a, hostname: b, cidrVips: [{cidr: x}]}]", "local.yaml:1: services[0].cidrVips[0].cidr: 'x' is not an address range; "),
        ("services: [{namespace: a, hostname: b, cidrVips: [{}]}]", "local.yaml:1: services[0].cidrVips[0].cidr: is missing; "),
        ("services: [{namespace: a, hostname: b, ports: {80: 70000}}]", "local.yaml:1: services[0].ports[80]: 70000 is not a port; "),
        ("services: [{namespace: a, hostname: b, loadBalancer: {routingPreferences: [Moon]}}]", "local.yaml:1: services[0].loadBalancer.routingPreferences[0]: 'Moon' is not a choice here; "),
        ("services: [{namespace: a, hostname: b, weightedWaypoints: [{weight: 1}]}]", "local.yaml:1: services[0].weightedWaypoints[0].destination: is missing; "),
        ("services: [{namespace: a, hostname: b, subjectAltNames: ['spiffe://']}]", "local.yaml:1: services[0].subjectAltNames[0]: "),
        ("services: [{namespace: a, hostname: b, endpoints: [{workloadUid: x}]}]", "local.yaml:1: services[0].endpoints[0].workloadUid: there is no workload 'x'; "),
        ("policies: 5", "local.yaml:1: policies: 5 is a number; write a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_its_remedy(text: str, expected: str) -> None:
    if text.startswith("{uid"):
        text, expected = f"workloads:\n- {text}", f"local.yaml:2: {expected}"
    found = problems(text)
    assert any(line.startswith(expected) for line in found), found


def test_two_workloads_at_one_address_are_refused_unless_they_share_a_host() -> None:
    one = "{uid: %s, namespace: shop, workloadIps: [10.0.0.1]%s}"
    (found,) = problems(f"workloads:\n- {one % ('a', '')}\n- {one % ('b', '')}")
    assert found.startswith("local.yaml:3: workloads[1].workloadIps: the address /10.0.0.1 belongs to a already; ")
    hostly = ", networkMode: HostNetwork"
    assert len(read(f"workloads:\n- {one % ('a', hostly)}\n- {one % ('b', hostly)}").state.workloads) == 2


def test_all_mistakes_come_at_once_in_order() -> None:
    text = "services:\n- {hostname: a}\nworkloads:\n- {uid: 5}\nfoo: 1\n"
    assert [line.split(":")[1] for line in problems(text)] == ["2", "4", "4", "5"]
