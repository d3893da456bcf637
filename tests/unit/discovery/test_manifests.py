"""Manifests: what they mean."""

import pytest

from hbone.addr import Prefix
from hbone.discovery.manifests import Defaults, Manifests, parse_manifests
from hbone.discovery.model import (
    GatewayAddress,
    HealthPolicy,
    IpFamilies,
    LoadBalancerMode,
    LoadBalancing,
    Locality,
    NamespacedHostname,
    NetworkAddress,
    NetworkPrefix,
    Protocol,
    Scope,
    Service,
    Visibility,
    Workload,
    WorkloadType,
)
from hbone.identity.spiffe import InvalidSpiffeId
from tests.unit.discovery.builders import ip

CART = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop, labels: {app: cart, tier: a}}
spec: {address: 10.0.0.2, serviceAccount: cart, ports: {http: 8080}}
"""


def read(*texts: str, defaults: Defaults | None = None) -> Manifests:
    return parse_manifests({"mesh.yaml": "\n---\n".join(texts)}, defaults)


def workload(*texts: str, name: str = "cart-0") -> Workload:
    return next(w for w in read(*texts).state.workloads if w.name == name)


def service(*texts: str, name: str = "cart") -> Service:
    return next(s for s in read(*texts).state.services if s.name == name)


def entry(spec: str, name: str = "cart", metadata: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop{metadata}}}
spec: {spec}
"""


def kube(spec: str, name: str = "cart", metadata: str = "") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop{metadata}}}
spec: {spec}
"""


def namespace(labels: str = "", annotations: str = "") -> str:
    return f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{{labels}}}, annotations: {{{annotations}}}}}
"""


# workloads


def test_a_workload_entry_becomes_a_workload() -> None:
    found = read(
        """
apiVersion: networking.istio.io/v1alpha3
kind: WorkloadEntry
metadata:
  name: cart-0
  namespace: shop
  labels: {app: cart, version: v1}
spec:
  address: 10.0.0.2
  serviceAccount: basket
  labels: {version: v2}
  network: n7
  locality: eu/a/b
  weight: 5
  ports: {http: 8080, hbone: 16008}
""",
        defaults=Defaults(cluster_id="c1", trust_domain="td.example"),
    )
    assert found.state.workloads == (
        Workload(
            uid="c1/networking.istio.io/WorkloadEntry/shop/cart-0",
            name="cart-0",
            namespace="shop",
            addresses=(ip("10.0.0.2"),),
            network="n7",
            protocol=Protocol.HBONE,
            trust_domain="td.example",
            service_account="basket",
            canonical_name="cart",
            canonical_revision="v2",
            workload_type=WorkloadType.POD,
            workload_name="cart-0",
            cluster_id="c1",
            locality=Locality(region="eu", zone="a", subzone="b"),
            capacity=5,
            hbone_port=16008,
            labels={"app": "cart", "version": "v2"},
        ),
    )
    assert found.origins == {"c1/networking.istio.io/WorkloadEntry/shop/cart-0": "mesh.yaml:2"}


def test_what_a_workload_entry_leaves_open_has_defaults() -> None:
    text = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: a}, spec: {address: fd00::2}}"
    found = read(text, defaults=Defaults(network="n1")).state.workloads[0]
    assert (found.namespace, found.network, found.protocol) == ("default", "n1", Protocol.TCP)
    assert (found.capacity, found.hbone_port, found.service_account) == (1, 15008, "default")
    assert found.addresses == (ip("fd00::2"),)


def test_a_workload_entry_may_name_a_host() -> None:
    found = workload(CART.replace("10.0.0.2", "Db.Example"))
    assert (found.addresses, found.hostname) == ((), "db.example")


@pytest.mark.parametrize(
    ("label", "expected"),
    [("istio.io/dataplane-mode: ambient", Protocol.HBONE), ("istio.io/dataplane-mode: none", Protocol.TCP)],
)
def test_a_namespaces_label_holds_for_its_workloads_wherever_it_stands(label: str, expected: Protocol) -> None:
    assert workload(CART, namespace(label)).protocol is expected
    assert workload(namespace(label), CART).protocol is expected


def test_labels_of_namespaces_and_documents_of_other_kinds_are_handed_on() -> None:
    policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {anything: 1}}"
    found = read(CART, policy, namespace("a: b"))
    assert found.namespaces == {"shop": {"a": "b"}}
    assert [(d.file, d.line) for d in found.other] == [("mesh.yaml", 8)]


def test_all_kinds_of_the_contract_are_recognised() -> None:
    texts = [
        f"{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}"
        for kind, version in [
            ("WorkloadGroup", "networking.istio.io/v1"),
            ("PeerAuthentication", "security.istio.io/v1beta1"),
            ("AuthorizationPolicy", "security.istio.io/v1"),
            ("RequestAuthentication", "security.istio.io/v1"),
            ("ServiceAccount", "v1"),
        ]
    ]
    assert len(read(*texts).other) == 4


def test_what_kubectl_prints_is_accepted() -> None:
    listed = """
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: networking.istio.io/v1
  kind: WorkloadEntry
  metadata:
    name: cart-0
    namespace: shop
    uid: 0f
    creationTimestamp: 2026-01-01T00:00:00Z
    generation: 1
    managedFields: [{}]
    ownerReferences: []
  spec: {address: 10.0.0.2}
  status: {conditions: []}
"""
    assert workload(listed).addresses == (ip("10.0.0.2"),)


def test_a_mesh_needs_a_trust_domain() -> None:
    with pytest.raises(InvalidSpiffeId):
        Defaults(trust_domain="a b")


def test_no_files_and_empty_files_are_an_empty_mesh() -> None:
    assert parse_manifests({}).state.workloads == ()
    assert parse_manifests({"a.yaml": "", "b.yaml": "---\n"}).state.services == ()


# ServiceEntry


def test_a_service_entry_becomes_a_service_for_each_host() -> None:
    text = entry(
        """
  hosts: [Cart.Example, basket.example]
  addresses: [10.2.0.9, 10.3.0.0/24, 10.4.0.1/32, "fd00::/64"]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, targetPort: 8081}]
  location: MESH_INTERNAL
  resolution: STATIC
  exportTo: ["."]
  subjectAltNames: ["spiffe://td/ns/a/sa/b", cart.example]
  workloadSelector: {labels: {app: cart}}
"""
    )
    found = read(CART, text)
    assert found.state.services[0] == Service(
        name="cart",
        namespace="shop",
        hostname="cart.example",
        vips=(NetworkAddress("", ip("10.2.0.9")), NetworkAddress("", ip("10.4.0.1"))),
        cidr_vips=(NetworkPrefix("", Prefix.parse("10.3.0.0/24")), NetworkPrefix("", Prefix.parse("fd00::/64"))),
        ports={80: 80, 81: 8081},
        subject_alt_names=("spiffe://td/ns/a/sa/b", "cart.example"),
        canonical=True,
        visibility=Visibility.NAMESPACE,
    )
    assert [s.hostname for s in found.state.services] == ["cart.example", "basket.example"]
    # a port of the endpoint of the same name beats the service's target port
    ports = {80: 8080, 81: 8081}
    assert found.state.workloads[0].services == {"shop/cart.example": ports, "shop/basket.example": ports}


def test_inline_endpoints_are_workloads_with_the_service_entrys_labels() -> None:
    text = entry(
        """
  hosts: [cart.example]
  ports: [{number: 80, name: http}]
  resolution: STATIC
  endpoints:
  - {address: 10.0.0.3, ports: {http: 9090}, labels: {app: ignored}, serviceAccount: cart}
  - {address: 10.0.0.4}
""",
        metadata=", labels: {app: cart, version: v3}",
    )
    first, second = read(text).state.workloads
    assert first.uid == "Kubernetes/networking.istio.io/ServiceEntry/shop/cart/10.0.0.3"
    assert (first.canonical_name, first.canonical_revision, first.labels) == (
        "cart",
        "v3",
        {"app": "cart", "version": "v3"},
    )
    assert (first.protocol, second.protocol) == (Protocol.HBONE, Protocol.TCP)
    assert (first.services, second.services) == ({"shop/cart.example": {80: 9090}}, {"shop/cart.example": {80: 80}})


def test_endpoints_outside_the_mesh_are_not_enrolled_by_their_namespace() -> None:
    text = "{hosts: [a.example], ports: [{number: 80}], resolution: STATIC, endpoints: [{address: 10.0.0.3}]%s}"
    ambient = namespace("istio.io/dataplane-mode: ambient")
    outside = read(ambient, entry(text % "")).state.workloads[0]
    inside = read(ambient, entry(text % ", location: MESH_INTERNAL")).state.workloads[0]
    assert (outside.protocol, inside.protocol) == (Protocol.TCP, Protocol.HBONE)


def test_without_endpoints_dns_knows_where_each_host_is() -> None:
    found = read(entry("{hosts: [a.example, b.example], ports: [{number: 443, protocol: TLS}], resolution: DNS}"))
    assert [(w.hostname, w.protocol, dict(w.services)) for w in found.state.workloads] == [
        ("a.example", Protocol.TCP, {"shop/a.example": {443: 443}}),
        ("b.example", Protocol.TCP, {"shop/b.example": {443: 443}}),
    ]


def test_dns_endpoints_are_host_names() -> None:
    text = "{hosts: [a.example], ports: [{number: 443}], resolution: DNS, endpoints: [{address: real.example}]}"
    assert [w.hostname for w in read(entry(text)).state.workloads] == ["real.example"]


def test_resolution_none_connects_to_where_the_program_wanted_to_go() -> None:
    found = service(entry("{hosts: ['*.example'], ports: [{number: 443}], resolution: NONE}"))
    assert found.hostname == "*.example"
    assert found.load_balancing == LoadBalancing(
        mode=LoadBalancerMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL
    )


def test_one_endpoint_of_two_service_entries_is_one_workload() -> None:
    text = "{hosts: [%s.example], ports: [{number: 80}], resolution: STATIC, endpoints: [{address: 10.0.0.3}]}"
    found = read(entry(text % "a", "a"), entry(text % "b", "b"))
    assert [dict(w.services) for w in found.state.workloads] == [
        {"shop/a.example": {80: 80}, "shop/b.example": {80: 80}}
    ]


def test_one_service_of_a_host_is_canonical_and_a_kubernetes_one_if_there_is_any() -> None:
    text = "{hosts: [%s], ports: [{number: 80}], resolution: NONE}"
    host = "cart.shop.svc.cluster.local"
    a = entry(text % host, "a").replace("namespace: shop", "namespace: x")
    b = entry(text % host, "b").replace("namespace: shop", "namespace: y")
    found = read(a, b).state.services
    assert [s.canonical for s in found] == [True, False]
    found = read(a, b, CART, kube("{selector: {app: cart}, ports: [{port: 80}]}")).state.services
    assert [s.canonical for s in found] == [False, False, True]


# Service


def test_a_service_selects_workload_entries_of_its_namespace() -> None:
    elsewhere = CART.replace("shop", "web").replace("10.0.0.2", "10.0.0.3")
    text = kube("{selector: {app: cart, tier: a}, clusterIP: 10.2.0.1, ports: [{port: 80, targetPort: http}]}")
    found = read(CART, elsewhere, text)
    assert [dict(w.services) for w in found.state.workloads] == [{"shop/cart.shop.svc.cluster.local": {80: 8080}}, {}]
    (made,) = found.state.services
    assert (made.hostname, made.vips) == ("cart.shop.svc.cluster.local", (NetworkAddress("", ip("10.2.0.1")),))
    assert (dict(made.ports), made.canonical) == ({80: 0}, True)


@pytest.mark.parametrize(
    ("port", "of_service", "of_workload"),
    [
        ("{port: 80}", {80: 80}, {80: 80}),
        ("{port: 80, targetPort: 8081}", {80: 8081}, {80: 8081}),
        ("{port: 80, targetPort: http}", {80: 0}, {80: 8080}),
        ("{port: 80, targetPort: grpc}", {80: 0}, {}),  # the workload has no such port
        ("{port: 80, name: http}", {80: 80}, {80: 80}),
        ("{port: 53, protocol: UDP}", {}, {}),
    ],
)
def test_ports_of_a_service_lead_to_ports_of_the_workload(
    port: str, of_service: dict[int, int], of_workload: dict[int, int]
) -> None:
    text = kube(f"{{selector: {{app: cart}}, ports: [{port}]}}")
    assert service(CART, text).ports == of_service
    assert workload(CART, text).services == {"shop/cart.shop.svc.cluster.local": of_workload}


SAME_ZONE = (Scope.NETWORK, Scope.REGION, Scope.ZONE)
SAME_NODE = (*SAME_ZONE, Scope.SUBZONE, Scope.NODE)
ANNOTATION = "networking.istio.io/traffic-distribution"


@pytest.mark.parametrize(
    ("spec", "metadata", "of_namespace", "mode", "preferences"),
    [
        ("", "", "", LoadBalancerMode.STANDARD, ()),
        ("internalTrafficPolicy: Local", "", "", LoadBalancerMode.STRICT, (Scope.NODE,)),
        ("trafficDistribution: PreferClose", "", "", LoadBalancerMode.FAILOVER, SAME_ZONE),
        ("trafficDistribution: PreferSameNode", "", "", LoadBalancerMode.FAILOVER, SAME_NODE),
        ("", f", annotations: {{{ANNOTATION}: PREFERSAMEZONE}}", "", LoadBalancerMode.FAILOVER, SAME_ZONE),
        ("", "", f"{ANNOTATION}: PreferSameNode", LoadBalancerMode.FAILOVER, SAME_NODE),
        ("", f", annotations: {{{ANNOTATION}: Any}}", "", LoadBalancerMode.STANDARD, ()),
    ],
)
def test_distribution_of_traffic_is_set_by_service_annotation_or_namespace(
    spec: str, metadata: str, of_namespace: str, mode: LoadBalancerMode, preferences: tuple[Scope, ...]
) -> None:
    text = kube(f"{{selector: {{app: cart}}, ports: [{{port: 80}}], {spec}}}", metadata=metadata)
    found = service(CART, namespace(annotations=of_namespace), text).load_balancing
    assert (found.mode, found.routing_preferences) == (mode, preferences)


def test_a_service_that_publishes_what_is_not_ready_takes_unhealthy_endpoints() -> None:
    text = kube("{selector: {app: cart}, ports: [{port: 80}], publishNotReadyAddresses: true}")
    assert service(CART, text).load_balancing.health_policy is HealthPolicy.ALLOW_ALL


@pytest.mark.parametrize(
    ("spec", "vips", "families"),
    [
        ("clusterIP: None", [], IpFamilies.AUTOMATIC),
        ("clusterIP: 10.2.0.1, clusterIPs: [10.2.0.1, 'fd00::1']", ["10.2.0.1", "fd00::1"], IpFamilies.AUTOMATIC),
        ("ipFamilies: [IPv4]", [], IpFamilies.IPV4),
        ("ipFamilies: [IPv6]", [], IpFamilies.IPV6),
        ("ipFamilies: [IPv4, IPv6]", [], IpFamilies.DUAL),
    ],
)
def test_addresses_and_families_of_a_service(spec: str, vips: list[str], families: IpFamilies) -> None:
    found = service(CART, kube(f"{{selector: {{app: cart}}, ports: [{{port: 80}}], {spec}}}"))
    assert ([str(vip.ip) for vip in found.vips], found.ip_families) == (vips, families)


def test_a_service_may_be_exported_to_its_namespace_alone() -> None:
    metadata = ", annotations: {networking.istio.io/exportTo: .}"
    found = service(CART, kube("{selector: {app: cart}, ports: [{port: 80}]}", metadata=metadata))
    assert found.visibility is Visibility.NAMESPACE


# waypoints

WAYPOINT = (
    kube("{selector: {app: wp}, ports: [{port: 15008}]}", "wp", ", labels: {istio.io/waypoint-for: %s}"),
    CART.replace("cart-0", "wp-0").replace("app: cart", "app: wp").replace("10.0.0.2", "10.0.0.9"),
)
AT = GatewayAddress(destination=NamespacedHostname("shop", "wp.shop.svc.cluster.local"))
USE = "istio.io/use-waypoint: wp"
PLAIN_CART = kube("{selector: {app: cart}, ports: [{port: 80}]}")


def guarded(waypoint_for: str = "service", *texts: str) -> tuple[str, ...]:
    return (WAYPOINT[0] % waypoint_for, WAYPOINT[1], *texts)


def test_a_label_puts_a_waypoint_before_a_service_or_a_workload() -> None:
    labelled = kube("{selector: {app: cart}, ports: [{port: 80}]}", metadata=f", labels: {{{USE}}}")
    assert service(*guarded("service", CART, labelled)).waypoint == AT
    assert workload(*guarded("service", CART, labelled)).waypoint is None
    own = CART.replace("tier: a", USE)
    assert workload(*guarded("service", own)).waypoint == AT


@pytest.mark.parametrize(
    ("waypoint_for", "of_service", "of_workload"),
    [("service", AT, None), ("workload", None, AT), ("all", AT, AT), ("none", None, None)],
)
def test_a_namespaces_waypoint_stands_before_what_it_is_for(
    waypoint_for: str, of_service: GatewayAddress | None, of_workload: GatewayAddress | None
) -> None:
    texts = guarded(waypoint_for, namespace(USE), CART, PLAIN_CART)
    assert (service(*texts).waypoint, workload(*texts).waypoint) == (of_service, of_workload)


def test_a_waypoint_has_no_waypoint() -> None:
    texts = guarded("all", namespace(USE))
    assert service(*texts, name="wp").waypoint is None
    assert workload(*texts, name="wp-0").waypoint is None
    marked = WAYPOINT[1].replace("tier: a", "gateway.networking.k8s.io/gateway-name: wp")
    assert workload(WAYPOINT[0] % "all", marked, namespace(USE), name="wp-0").waypoint is None
