"""WorkloadGroups in manifests: what their machines will be, and what is wrong with them, with its place."""

from pathlib import Path

import pytest

from hbone.app.sources import load_manifests
from hbone.discovery.manifests import Defaults, Manifests, parse_manifests
from hbone.discovery.model import Protocol
from hbone.errors import InvalidConfiguration
from hbone.policy.model import MeshNames

GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: cart-vms, namespace: shop}
spec:
  metadata:
    labels: {app: cart, version: v2}
    annotations: {example.org/team: basket}
  template:
    serviceAccount: cart
    network: dc-2
    locality: eu/west/rack-7
    weight: 5
    ports: {http: 8080, hbone: 16008}
    labels: {class: vm}
  probe: {periodSeconds: 5, httpGet: {path: /ready, port: 8080}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart, class: vm}
  ports: [{name: http, port: 80, targetPort: http}]
"""


def read(*documents: str) -> Manifests:
    return parse_manifests({"mesh.yaml": "---".join(documents)}, Defaults())


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        read(text)
    return [f"{one.file}:{one.line} {one.field}: {one.what}; {one.fix}" for one in caught.value.problems]


def test_a_group_says_all_of_its_machines_but_name_and_address() -> None:
    found = read(GROUP)
    assert found.state.workloads == ()
    member = found.groups["shop/cart-vms"]
    assert (member.namespace, member.service_account, member.addresses) == ("shop", "cart", ())
    assert (member.network, member.capacity, member.hbone_port) == ("dc-2", 5, 16008)
    assert (member.locality.region, member.locality.zone, member.locality.subzone) == ("eu", "west", "rack-7")
    assert member.labels == {"app": "cart", "version": "v2", "class": "vm"}
    assert (member.workload_name, member.canonical_name, member.canonical_revision) == ("cart-vms", "cart", "v2")
    assert member.protocol is Protocol.HBONE


def test_a_service_that_selects_a_groups_labels_has_its_machines_and_needs_no_others() -> None:
    found = read(GROUP, SERVICE)
    assert found.groups["shop/cart-vms"].services == {"shop/cart.shop.svc.cluster.local": {80: 8080}}
    assert [service.hostname for service in found.state.services] == ["cart.shop.svc.cluster.local"]


def test_a_policy_that_selects_a_groups_labels_protects_its_machines(tmp_path: Path) -> None:
    policy = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart-only, namespace: shop}
spec:
  selector: {matchLabels: {class: vm}}
  rules: [{from: [{source: {namespaces: [web]}}]}]
"""
    (tmp_path / "mesh.yaml").write_text("---".join((GROUP, SERVICE, policy)))
    loaded = load_manifests(tmp_path, Defaults(), MeshNames())
    assert loaded.groups["shop/cart-vms"].authorization_policies == ("shop/cart-only",)


def test_a_group_that_says_nothing_has_the_default_account() -> None:
    member = read("{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {name: g}}").groups["default/g"]
    assert (member.service_account, member.protocol) == ("default", Protocol.HBONE)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (("network: dc-2", "address: 10.0.0.7"), "mesh.yaml:11 spec.template.address: a group has no address; leave"),
        (("weight: 5", "wieght: 5"), "mesh.yaml:13 spec.template.wieght: is not a known field; did you mean 'weight'?"),
        (("weight: 5", "weight: heavy"), "mesh.yaml:13 spec.template.weight: "),
        (("http: 8080", "http: 80800"), "mesh.yaml:14 spec.template.ports.http: 80800 is not a port"),
        (("Account: cart", "Account: 'a b'"), "mesh.yaml:10 spec.template.serviceAccount: 'a b' cannot stand in"),
        (("version: v2", "version: 2"), "mesh.yaml:7 spec.metadata.labels.version: 2 is a number"),
        (("template:", "tempalte:"), "mesh.yaml:9 spec.tempalte: is not a known field; did you mean 'template'?"),
        (("periodSeconds", "perSeconds"), "mesh.yaml:16 spec.probe.perSeconds: is not a known field"),
    ],
    ids=["address", "misspelt", "wrong type", "port", "account", "label", "section", "probe"],
)
def test_a_mistake_in_a_group_is_told_with_its_place(mistake: tuple[str, str], expected: str) -> None:
    (problem,) = problems(GROUP.replace(*mistake))
    assert problem.startswith(expected)


def test_a_group_that_is_there_twice_is_told_with_both_places() -> None:
    (problem,) = problems(f"{GROUP}---{GROUP}")
    assert "WorkloadGroup shop/cart-vms is there twice, first at mesh.yaml:2" in problem
