"""Manifests read whole, with their policies, and what nodes are told of them."""

import pytest

from hbone.addr import parse_ip
from hbone.discovery.policies import decode_policy, policy_resource
from hbone.discovery.subjects import parse_secured, put_in_force, subjects_of
from hbone.errors import InvalidConfiguration
from hbone.policy.decide import PolicyEngine
from hbone.policy.model import ConnectionFacts, Destination, MeshNames, Transport, caller
from tests.unit.policy.builders import FRONTEND, WORKLOADS, authorization, peer

ONLY_WEB = authorization(
    "only-web", "{selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {namespaces: [web]}}]}]}"
)
STRICT = peer("strict", "{mtls: {mode: STRICT}}")
LEGACY = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: legacy-0, namespace: web}
spec: {address: 127.0.0.9}
"""


def joined(*manifests: str) -> dict[str, str | bytes]:
    return {"m.yaml": "\n---\n".join(manifests)}


def test_workloads_name_the_policies_that_select_them() -> None:
    told = put_in_force(parse_secured(joined(WORKLOADS, ONLY_WEB, STRICT)), MeshNames())
    named = {workload.name: workload.authorization_policies for workload in told.state.workloads}
    strict = "istio-system/istio_converted_static_strict"
    assert named == {"frontend-0": (), "cart-0": ("shop/only-web", strict), "db-0": (strict,)}
    assert [one.key for one in told.authorizations] == [strict, "shop/only-web"]
    assert [service.name for service in told.state.services] == ["cart"]


def test_what_nodes_are_told_over_the_wire_decides_the_same() -> None:
    told = put_in_force(parse_secured(joined(WORKLOADS, ONLY_WEB, STRICT)), MeshNames())
    resources = map(policy_resource, told.authorizations)
    engine = PolicyEngine(decode_policy(one.name, one.body) for one in resources)
    for workload in told.state.workloads:
        destination = Destination(workload.namespace, workload.authorization_policies)
        ip = workload.addresses[0]
        tunnelled = ConnectionFacts(caller(FRONTEND), parse_ip("127.0.0.2"), destination, ip, 8080)
        assert engine.allows(tunnelled)
        plain = tunnelled._replace(caller=caller(None))
        assert engine.allows(plain) is (workload.namespace == "web")


OUTSIDE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop, labels: {app: cart}}
spec:
  hosts: [ext.example]
  ports: [{number: 80, name: http, targetPort: 8080}]
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.8, labels: {app: other}}
"""


def test_an_inline_endpoint_is_selected_by_the_labels_of_its_service_entry() -> None:
    told = put_in_force(parse_secured(joined(OUTSIDE, ONLY_WEB)), MeshNames())
    assert [workload.authorization_policies for workload in told.state.workloads] == [("shop/only-web",)]
    other = ONLY_WEB.replace("app: cart", "app: other")
    told = put_in_force(parse_secured(joined(OUTSIDE, other)), MeshNames())
    assert [workload.authorization_policies for workload in told.state.workloads] == [()]


def test_a_workload_is_a_subject_with_its_own_ports() -> None:
    found = {one.name: one for one in subjects_of(parse_secured(joined(WORKLOADS, LEGACY)).manifests)}
    cart = found["cart-0"]
    assert (cart.ports, cart.services, cart.transport) == (frozenset({8080}), ("shop/cart",), Transport.HBONE)
    assert cart.place == "m.yaml:7"
    assert found["legacy-0"].transport is Transport.PLAINTEXT


def test_problems_of_policies_and_of_all_else_come_together() -> None:
    broken = authorization("p", "{action: ALOW}")
    with pytest.raises(InvalidConfiguration) as refused:
        parse_secured(joined(WORKLOADS.replace("address: 127.0.0.2", "adress: 127.0.0.2"), broken))
    assert [problem.field for problem in refused.value.problems] == ["spec.address", "spec.adress", "spec.action"]
    with pytest.raises(InvalidConfiguration, match="did you mean 'ALLOW'"):
        parse_secured(joined(WORKLOADS, broken))
    with pytest.raises(InvalidConfiguration, match="not valid YAML"):
        parse_secured({"m.yaml": "a: [", "p.yaml": ONLY_WEB})
