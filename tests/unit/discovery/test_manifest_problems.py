"""Manifests: what bad ones get. One clear line for each mistake, with file, line, field and what to write."""
# ruff: noqa: E501 - a case and its message belong on one line

import re

import pytest

from hbone.discovery.manifests import parse_manifests
from hbone.errors import InvalidConfiguration

WORKLOAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop, labels: {app: cart}}
spec:
  address: 10.0.0.2
"""
ENTRY = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.example]
  ports: [{number: 80, name: http}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.3}]
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80}]}
"""


def problems(**files: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_manifests({f"{name}.yaml": text for name, text in files.items()})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "m.yaml:1: a document that is a list; write a mapping with apiVersion, kind and metadata"),
        ("hello", "m.yaml:1: a document that is text; "),
        ("metadata: {name: a}", "m.yaml:1: kind: is missing; write kind: WorkloadEntry"),
        ("kind: 5", "m.yaml:1: kind: 5 is a number; write text"),
        ("kind: WorkloadEntry", "m.yaml:1: apiVersion: is missing; write apiVersion: networking.istio.io/v1"),
        ("{kind: Deployment, apiVersion: apps/v1}", "m.yaml:1: kind: unknown kind 'Deployment'; use one of: WorkloadEntry, "),
        ("{kind: Servce, apiVersion: v1}", "m.yaml:1: kind: unknown kind 'Servce'; did you mean 'Service'?"),
        ("kind: workloadentry", "m.yaml:1: kind: unknown kind 'workloadentry'; did you mean 'WorkloadEntry'?"),
        (
            changed(WORKLOAD, "networking.istio.io/v1", "v1"),
            "m.yaml:1: apiVersion: 'v1' has no kind WorkloadEntry; write apiVersion: networking.istio.io/v1",
        ),
        (changed(WORKLOAD, "metadata:", "metadta:"), "m.yaml:3: metadta: is not a known field; did you mean 'metadata'?"),
        (changed(WORKLOAD, "name: cart-0", "nam: x"), "m.yaml:3: metadata.nam: is not a known field; did you mean 'name'?"),
        (changed(WORKLOAD, "cart-0", "Cart"), "m.yaml:3: metadata.name: 'Cart' is not a name; "),
        (changed(WORKLOAD, "shop", '"a/b"'), "m.yaml:3: metadata.namespace: 'a/b' is not a name; "),
        (changed(WORKLOAD, "app: cart", "app: 5"), 'm.yaml:3: metadata.labels.app: 5 is a number; write text: "5"'),
        (changed(WORKLOAD, "app: cart", "app: true"), 'm.yaml:3: metadata.labels.app: true is true or false; write text: "true"'),
        (changed(WORKLOAD, "app: cart", "5: x"), 'm.yaml:3: metadata.labels[5]: 5 is a number; write it in quotes: "5"'),
        (changed(WORKLOAD, "{app: cart}", "[a]"), "m.yaml:3: metadata.labels: ['a'] is a list; write a mapping of texts"),
        ("{apiVersion: v1, kind: Namespace}", "m.yaml:1: metadata: is missing; "),
        ("{apiVersion: v1, kind: Namespace, metadata: []}", "m.yaml:1: metadata: [] is a list; write a mapping"),
        (changed(WORKLOAD, "spec:", "spec: [1]\nfoo:"), "m.yaml:4: spec: [1] is a list; write a mapping"),
        (changed(WORKLOAD, "metadata: {name: cart-0, namespace: shop, labels: {app: cart}}", "metadata: {namespace: x}"), "m.yaml:3: metadata.name: is missing; "),
        # WorkloadEntry
        (WORKLOAD.partition("spec")[0], "m.yaml:1: spec: is missing; write spec: {address: 10.0.0.7"),
        (changed(WORKLOAD, "address: 10.0.0.2", "network: n"), "m.yaml:4: spec.address: is missing; write address: 10.0.0.7"),
        (changed(WORKLOAD, "10.0.0.2", "10.0.0.256"), "m.yaml:5: spec.address: '10.0.0.256' is not an IP address; write "),
        (changed(WORKLOAD, "10.0.0.2", "10.0.0.0/24"), "m.yaml:5: spec.address: '10.0.0.0/24' is not an IP address; "),
        (changed(WORKLOAD, "10.0.0.2", "a b"), "m.yaml:5: spec.address: 'a b' is neither an IP address nor a host name; "),
        (changed(WORKLOAD, "10.0.0.2", "unix:///x"), "m.yaml:5: spec.address: 'unix:///x' is a Unix socket; "),
        (changed(WORKLOAD, "10.0.0.2", "1.5"), 'm.yaml:5: spec.address: 1.5 is a number with a fraction; write text; '),
        (f"{WORKLOAD}  serviceAcount: x\n", "m.yaml:6: spec.serviceAcount: is not a known field; did you mean 'serviceAccount'?"),
        (f"{WORKLOAD}  serviceAccount: a//b\n", "m.yaml:6: spec.serviceAccount: 'a//b' cannot stand in a SPIFFE ID; "),
        (f"{WORKLOAD}  serviceAccount: a/b\n", "m.yaml:6: spec.serviceAccount: 'a/b' cannot stand in a SPIFFE ID; use "),
        (f"{WORKLOAD}  ports: {{http: 70000}}\n", "m.yaml:6: spec.ports.http: 70000 is not a port; write a number from 1 to 65535"),
        (f"{WORKLOAD}  ports: {{http: 0}}\n", "m.yaml:6: spec.ports.http: 0 is not a port; "),
        (f"{WORKLOAD}  ports: {{hbone: x}}\n", "m.yaml:6: spec.ports.hbone: 'x' is text; write a number from 1 to 65535"),
        (f"{WORKLOAD}  ports: [80]\n", "m.yaml:6: spec.ports: [80] is a list; write a mapping of names to ports, "),
        (f"{WORKLOAD}  weight: 0\n", "m.yaml:6: spec.weight: 0 is out of range; write a number from 1 to "),
        (f"{WORKLOAD}  weight: many\n", "m.yaml:6: spec.weight: 'many' is text; write a number from 1 to "),
        # ServiceEntry
        (ENTRY.partition("spec")[0], "m.yaml:1: spec: is missing; "),
        (changed(ENTRY, "hosts: [cart.example]", "hosts: []"), "m.yaml:5: spec.hosts: is empty; write hosts: [db.example.com]"),
        (changed(ENTRY, "hosts: [cart.example]", "addresses: []"), "m.yaml:4: spec.hosts: is missing; "),
        (changed(ENTRY, "[cart.example]", "cart.example"), "m.yaml:5: spec.hosts: 'cart.example' is text; write a list of texts"),
        (changed(ENTRY, "cart.example", "-a-"), "m.yaml:5: spec.hosts[0]: '-a-' is not a host name; "),
        (changed(ENTRY, "cart.example", "a.b, a.b"), "m.yaml:5: spec.hosts[1]: the host a.b is there twice; keep one"),
        (changed(ENTRY, "number: 80", "number: 0"), "m.yaml:6: spec.ports[0].number: 0 is not a port; "),
        (changed(ENTRY, "number: 80", "number: 70000"), "m.yaml:6: spec.ports[0].number: 70000 is not a port; "),
        (changed(ENTRY, "number: 80", 'number: "80"'), "m.yaml:6: spec.ports[0].number: '80' is text; write a number"),
        (changed(ENTRY, "number: 80, ", ""), "m.yaml:6: spec.ports[0].number: is missing; write number: 80"),
        (changed(ENTRY, "name: http}", "name: http}, {number: 80}"), "m.yaml:6: spec.ports[1].number: port 80 is there twice; "),
        (changed(ENTRY, "name: http}", "name: a}, {number: 81, name: a}"), "m.yaml:6: spec.ports[1].name: two ports are called a; "),
        (changed(ENTRY, "name: http", "protocol: UDP"), "m.yaml:6: spec.ports[0].protocol: 'UDP' is not carried; write one of: "),
        (changed(ENTRY, "  ports: [{number: 80, name: http}]\n", ""), "m.yaml:4: spec.ports: is missing; "),
        (changed(ENTRY, "STATIC", "STATC"), "m.yaml:7: spec.resolution: 'STATC' is not a choice here; did you mean 'STATIC'?"),
        (changed(ENTRY, "10.0.0.3", "db.example"), "m.yaml:8: spec.endpoints[0].address: db.example is a host name; use resolution: DNS"),
        (changed(ENTRY, "[{address: 10.0.0.3}]", "[]"), "m.yaml:8: spec.endpoints: service cart has no endpoints; "),
        (changed(ENTRY, "STATIC", "NONE"), "m.yaml:7: spec.resolution: NONE connects to the address that was asked for; "),
        (changed(ENTRY, "{address: 10.0.0.3}", "{address: 10.0.0.3}, {address: 10.0.0.3}"), "m.yaml:8: spec.endpoints[1].address: the endpoint 10.0.0.3 is there twice; "),
        (f"{ENTRY}  workloadSelector: {{labels: {{a: b}}}}\n", "m.yaml:9: spec.workloadSelector: is there together with endpoints; "),
        (f"{ENTRY}  addresses: [10.0.0.1/8]\n", "m.yaml:9: spec.addresses[0]: '10.0.0.1/8' is not an address range; write "),
        (f"{ENTRY}  addresses: [10.0.0.300]\n", "m.yaml:9: spec.addresses[0]: '10.0.0.300' is not an IP address; "),
        (f"{ENTRY}  addresses: [80]\n", "m.yaml:9: spec.addresses[0]: 80 is a number; write text"),
        (f"{ENTRY}  exportTo: [web]\n", "m.yaml:9: spec.exportTo: 'web' cannot be kept to; "),
        (f"{ENTRY}  location: HERE\n", "m.yaml:9: spec.location: 'HERE' is not a choice here; "),
        (f"{ENTRY}  subjectAltNames: ['spiffe://td//x']\n", "m.yaml:9: spec.subjectAltNames[0]: "),
        (
            changed(ENTRY, "cart.example", "'*.example'").replace("STATIC", "DNS"),
            "m.yaml:5: spec.hosts[0]: the wildcard *.example has no addresses in DNS; ",
        ),
        (
            changed(ENTRY, "endpoints: [{address: 10.0.0.3}]", "workloadSelector: {labels: {app: none}}"),
            "m.yaml:8: spec.workloadSelector: service cart has no endpoints: no WorkloadEntry in namespace shop has the labels app=none; ",
        ),
        # Service
        (SERVICE, "m.yaml:4: spec.selector: service cart has no endpoints: no WorkloadEntry in namespace shop has the labels app=cart; "),
        (changed(SERVICE, "selector: {app: cart}, ", ""), "m.yaml:4: spec.selector: service cart has no endpoints: it selects nothing; "),
        (SERVICE.partition("spec")[0], "m.yaml:1: spec: is missing; "),
        (f"{WORKLOAD}---\n{changed(SERVICE, '{port: 80}', '{port: 80, targetPort: 0}')}", "m.yaml:10: spec.ports[0].targetPort: 0 is not a port; "),
        (f"{WORKLOAD}---\n{changed(SERVICE, '{port: 80}', '{port: 80, targetPort: foo, x: 1}')}", "m.yaml:10: spec.ports[0].x: is not a known field; "),
        (f'{WORKLOAD}---\n{changed(SERVICE, "{port: 80}", "{port: 80, targetPort: #80#}".replace("#", chr(34)))}', "m.yaml:10: spec.ports[0].targetPort: '80' is text; write it without quotes: 80"),
        (f"{WORKLOAD}---\n{changed(SERVICE, '{port: 80}', '{}')}", "m.yaml:10: spec.ports[0].port: is missing; "),
        (f"{WORKLOAD}---\n{changed(SERVICE, 'selector', 'type: ExternalName, selector')}", "m.yaml:10: spec.type: an ExternalName is an alias in DNS; write a ServiceEntry"),
        (f"{WORKLOAD}---\n{changed(SERVICE, 'selector', 'clusterIP: x, selector')}", "m.yaml:10: spec.clusterIP: 'x' is not an IP address; "),
        (f"{WORKLOAD}---\n{changed(SERVICE, 'selector', 'ipFamilies: [v4], selector')}", "m.yaml:10: spec.ipFamilies[0]: 'v4' is not a choice here; "),
        (f"{WORKLOAD}---\n{changed(SERVICE, 'selector', 'publishNotReadyAddresses: 1, selector')}", "m.yaml:10: spec.publishNotReadyAddresses: 1 is a number; write true or false"),
        (f"{WORKLOAD}---\n{changed(SERVICE, 'selector', 'trafficDistribution: Near, selector')}", "m.yaml:10: spec.trafficDistribution: 'Near' is not a choice here; "),
        (
            f"{WORKLOAD}---\n{changed(SERVICE, 'namespace: shop', 'namespace: shop, annotations: {networking.istio.io/traffic-distribution: Near}')}",
            'm.yaml:9: metadata.annotations["networking.istio.io/traffic-distribution"]: \'Near\' is not a traffic distribution; ',
        ),
        # waypoints
        (
            changed(WORKLOAD, "app: cart", "istio.io/use-waypoint: wp"),
            'm.yaml:3: metadata.labels["istio.io/use-waypoint"]: there is no waypoint wp in namespace shop; add the Service',
        ),
        (
            f"{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{istio.io/use-waypoint: wp}}}}}}\n---\n{WORKLOAD}",
            'm.yaml:1: metadata.labels["istio.io/use-waypoint"]: there is no waypoint wp in namespace shop; ',
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_its_remedy(text: str, expected: str) -> None:
    found = problems(m=text)
    assert any(line.startswith(expected) for line in found), found
    assert all(re.fullmatch(r"m\.yaml:\d+: .+; .+", line) for line in found)


def test_all_mistakes_of_all_files_come_at_once_and_in_order() -> None:
    found = problems(
        b=f"{changed(WORKLOAD, '10.0.0.2', 'x y')}  weight: no\n",
        a="a: [\n",
        c=changed(ENTRY, "80", "0"),
    )
    assert [line.partition(" ")[0] for line in found] == ["a.yaml:2:", "b.yaml:5:", "b.yaml:6:", "c.yaml:6:"]


def test_one_mistake_is_one_line() -> None:
    """A document that cannot be read must not make others look wrong."""
    assert len(problems(m=f"{changed(WORKLOAD, '10.0.0.2', '10.0.0')}---\n{SERVICE}")) == 1
    assert len(problems(m=f"{changed(WORKLOAD, 'WorkloadEntry', 'WorkloadEntri')}---\n{SERVICE}")) == 1
    assert len(problems(a=WORKLOAD + "  x: [", b=SERVICE)) == 1


def test_two_objects_of_one_name_are_refused_with_the_place_of_the_first() -> None:
    (found,) = problems(a=WORKLOAD, b=changed(WORKLOAD, "10.0.0.2", "10.0.0.3"))
    assert found == (
        "b.yaml:3: metadata.name: WorkloadEntry shop/cart-0 is there twice, first at a.yaml:1; "
        "give it another name, or remove one"
    )


def test_two_workloads_at_one_address_are_refused_with_the_place_of_the_first() -> None:
    (found,) = problems(a=WORKLOAD, b=changed(WORKLOAD, "cart-0", "cart-1"))
    assert found.startswith(
        "b.yaml:5: spec.address: the address 10.0.0.2 belongs to WorkloadEntry shop/cart-0 already, at a.yaml:1; give"
    )


def test_the_same_address_on_two_networks_is_two() -> None:
    other = changed(WORKLOAD, "cart-0", "cart-1") + "  network: n2\n"
    assert len(parse_manifests({"a": WORKLOAD, "b": other}).state.workloads) == 2


def test_an_endpoint_that_would_bypass_a_workloads_identity_is_refused() -> None:
    meshed = WORKLOAD + "  serviceAccount: cart\n"
    (found,) = problems(a=meshed, b=changed(ENTRY, "10.0.0.3", "10.0.0.2"))
    assert "the address 10.0.0.2 belongs to WorkloadEntry shop/cart-0 already" in found


def test_two_services_of_one_host_and_namespace_are_refused() -> None:
    other = changed(ENTRY, "name: cart,", "name: other,")
    (found,) = problems(a=ENTRY, b=other)
    assert found.startswith(
        "b.yaml:5: spec.hosts[0]: the host cart.example belongs to ServiceEntry cart already, at a.yaml:1"
    )


def test_a_value_is_shortened_where_it_would_fill_the_screen() -> None:
    (found,) = problems(m=changed(WORKLOAD, "10.0.0.2", "x " * 5000))
    assert len(found) < 300
