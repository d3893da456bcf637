"""What nodes enforce of policies as written (reference: istiod's compilation for ztunnel)."""

from dataclasses import replace

import pytest

from hbone.addr import parse_ip
from hbone.policy.compile import compile_policies, expand_principal, l7_names, with_aliases
from hbone.policy.match import Layer
from hbone.policy.model import Action, Authorization, Constraint, Field, Form, MeshNames, Pattern, Request, Scope
from tests.unit.policy.builders import WORKLOADS, allows, authorization, held, policies, question, rule, world


def compiled(*manifests: str, names: MeshNames | None = None, layer: Layer = Layer.L4) -> tuple[Authorization, ...]:
    return compile_policies(policies(*manifests), names or MeshNames(), layer).authorizations


@pytest.mark.parametrize(
    ("namespace", "selector", "scope"),
    [
        ("shop", "", Scope.NAMESPACE),
        ("istio-system", "", Scope.GLOBAL),
        ("shop", "selector: {matchLabels: {app: cart}}, ", Scope.WORKLOAD_SELECTOR),
        ("istio-system", "selector: {matchLabels: {app: cart}}, ", Scope.WORKLOAD_SELECTOR),
        ("shop", "selector: {}, ", Scope.NAMESPACE),
        ("istio-system", "selector: {matchLabels: {}}, ", Scope.GLOBAL),
    ],
)
def test_the_scope_follows_selector_and_namespace(namespace: str, selector: str, scope: Scope) -> None:
    (one,) = compiled(authorization("p", f"{{{selector}rules: [{{}}]}}", namespace=namespace))
    assert one.scope is scope


def test_the_root_namespace_can_have_another_name() -> None:
    (one,) = compiled(authorization("p", "{}", namespace="mesh"), names=MeshNames(root_namespace="mesh"))
    assert one.scope is Scope.GLOBAL


def test_policies_for_waypoints_are_not_sent_to_nodes() -> None:
    targeted = authorization("p", "{targetRefs: [{kind: Service, name: cart}], rules: [{}]}")
    assert compiled(targeted) == ()
    assert [one.scope for one in compiled(targeted, layer=Layer.L7)] == [Scope.WORKLOAD_SELECTOR]


def test_a_rule_is_clauses_in_the_order_to_from_when() -> None:
    spec = """
    rules:
    - when: [{key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.0/16]}]
      from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]
      to: [{operation: {ports: ["80"]}}]
    """
    (one,) = compiled(authorization("p", spec))
    (rule,) = one.rules
    assert [clause.name for clause in rule.clauses] == ["to", "from", "source.ip"]
    assert [len(clause.matches) for clause in rule.clauses] == [1, 2, 1]
    (condition,) = rule.clauses[2].matches[0].constraints
    assert len(condition.allowed) == len(condition.refused) == 1


ALLOW_L7 = [
    "{to: [{operation: {methods: [GET]}}]}",
    '{to: [{operation: {methods: [GET], ports: ["80"]}}]}',
    "{from: [{source: {requestPrincipals: ['*']}}]}",
    "{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}",
    "{when: [{key: 'request.headers[a]', values: [b]}]}",
    "{when: [{key: connection.sni, values: [b]}]}",
    "{to: [{operation: {notPaths: [/a]}}]}",
]


@pytest.mark.parametrize("rule", ALLOW_L7)
def test_an_allow_rule_on_requests_is_left_out_whole(rule: str) -> None:
    (one,) = compiled(authorization("p", f"{{rules: [{rule}, {{}}]}}"))
    assert [rule.number for rule in one.rules] == [1]
    (nothing,) = compiled(authorization("p", f"{{rules: [{rule}]}}"))
    assert nothing.rules == ()
    assert not allows(world(authorization("p", f"{{rules: [{rule}]}}")))


DENY_L7 = [
    ("{to: [{operation: {methods: [GET]}}]}", False, False),
    ('{to: [{operation: {methods: [GET], ports: ["8080"]}}]}', True, False),
    ('{to: [{operation: {methods: [GET]}}, {operation: {ports: ["8080"]}}]}', True, False),
    ("{from: [{source: {namespaces: [web]}}], to: [{operation: {paths: [/a]}}]}", False, False),
    ("{from: [{source: {namespaces: [web], requestPrincipals: ['*']}}]}", True, True),
]


@pytest.mark.parametrize(("rule", "denies", "denies_all_ports"), DENY_L7)
def test_a_deny_rule_loses_what_it_asks_of_requests(rule: str, denies: bool, denies_all_ports: bool) -> None:
    mesh = world(authorization("p", f"{{action: DENY, rules: [{rule}]}}"))
    assert allows(mesh) is not denies
    assert allows(mesh, to="shop/cart-0:9090") is not denies_all_ports


def test_audit_keeps_what_a_node_can_see() -> None:
    (one,) = compiled(authorization("p", "{action: AUDIT, rules: [{}, {to: [{operation: {methods: [GET]}}]}]}"))
    assert (one.action, len(one.rules)) == (Action.AUDIT, 1)


def test_a_dry_run_is_sent_as_one() -> None:
    (one,) = compiled(authorization("p", "{rules: [{}]}", annotations='{istio.io/dry-run: "true"}'))
    assert one.dry_run


def test_the_fields_on_requests_are_named() -> None:
    spec = (
        "{rules: [{to: [{operation: {paths: [/a], ports: ['1']}}], when: [{key: 'request.headers[a]', values: [b]}]}]}"
    )
    (policy,) = policies(authorization("p", spec)).authorization
    assert l7_names(policy.rules[0]) == ("paths", "request.headers[")


DENIES = [
    # rule, and whether it denies: the front end's tunnel, the same caller in plaintext
    ("{from: [{source: {notPrincipals: ['*']}}]}", False, True),
    ("{from: [{source: {principals: ['*']}}]}", True, False),
    ("{from: [{source: {notNamespaces: [web]}}]}", False, True),
    ("{from: [{source: {notNamespaces: [a]}}]}", True, True),
    ("{from: [{source: {namespaces: ['*']}}]}", True, False),
    ("{from: [{source: {serviceAccounts: [web/frontend]}}]}", True, False),
    ("{from: [{source: {notServiceAccounts: [web/frontend]}}]}", False, True),
    ("{from: [{source: {trustDomains: [cluster.local]}}]}", True, False),
    ("{from: [{source: {trustDomains: [cluster.local], principals: [nobody/ns/a/sa/b]}}]}", False, False),
    ("{from: [{source: {notTrustDomains: [cluster.local]}}]}", False, True),
    ("{from: [{source: {ipBlocks: [127.0.0.2]}}]}", True, True),
    ("{from: [{source: {notIpBlocks: [127.0.0.0/8]}}]}", False, False),
    ("{to: [{operation: {ports: ['8080']}}]}", True, True),
    ("{to: [{operation: {notPorts: ['8080']}}]}", False, False),
    ("{when: [{key: source.principal, values: ['*/sa/frontend']}]}", True, False),
    ("{when: [{key: source.namespace, notValues: [web]}]}", False, True),
    ("{when: [{key: source.serviceAccount, values: [web/frontend]}]}", True, False),
    ("{when: [{key: source.trustDomain, values: ['cluster.*']}]}", True, False),
    ("{when: [{key: source.ip, values: [127.0.0.0/30]}]}", True, True),
    ("{when: [{key: destination.ip, values: [127.0.0.3]}]}", True, True),
    ("{when: [{key: destination.ip, notValues: [127.0.0.3]}]}", False, False),
    ("{when: [{key: destination.port, values: ['8080']}]}", True, True),
    # from AND to AND when; items of from and to OR, items of when AND
    ("{from: [{source: {namespaces: [web]}}], to: [{operation: {ports: ['9']}}]}", False, False),
    ("{from: [{source: {namespaces: [a]}}, {source: {namespaces: [web]}}]}", True, False),
    ("{to: [{operation: {ports: ['9']}}, {operation: {ports: ['8080']}}]}", True, True),
    (
        "{when: [{key: source.namespace, values: [web]}, {key: destination.port, values: ['9']}]}",
        False,
        False,
    ),
    # fields of one source AND, values of one field OR, none of the not… values
    ("{from: [{source: {namespaces: [web], ipBlocks: [10.0.0.0/8]}}]}", False, False),
    ("{from: [{source: {namespaces: [a, web]}}]}", True, False),
    ("{from: [{source: {namespaces: ['*'], notNamespaces: [b, web]}}]}", False, False),
]


@pytest.mark.parametrize(("rule", "tunnelled", "plaintext"), DENIES, ids=[rule for rule, _, _ in DENIES])
def test_every_field_that_a_node_sees_is_enforced(rule: str, tunnelled: bool, plaintext: bool) -> None:
    denying = world(authorization("p", f"{{action: DENY, rules: [{rule}]}}"))
    assert (not allows(denying), not allows(denying, None)) == (tunnelled, plaintext)
    allowing = world(authorization("p", f"{{rules: [{rule}]}}"))
    assert (allows(allowing), allows(allowing, None)) == (tunnelled, plaintext)


REQUEST = Request(
    method="GET",
    host="cart.shop",
    path="/items/7",
    headers={"x-version": "2"},
    claims={"iss": "issuer", "sub": "ann", "aud": ["shop"], "azp": "app", "role": "admin"},
    remote_ip=parse_ip("203.0.113.9"),
)
ASKS = [
    # rule, and whether it fits the request
    ("{to: [{operation: {methods: [GET]}}]}", True),
    ("{to: [{operation: {notMethods: [GET]}}]}", False),
    ("{to: [{operation: {notMethods: [PUT]}}]}", True),
    ("{to: [{operation: {hosts: [CART.shop]}}]}", True),
    ("{to: [{operation: {notHosts: [cart.shop]}}]}", False),
    ("{to: [{operation: {paths: ['/items/*']}}]}", True),
    ("{to: [{operation: {paths: ['/items/{*}']}}]}", True),
    ("{to: [{operation: {notPaths: ['/items/{**}']}}]}", False),
    ("{to: [{operation: {ports: ['8080'], methods: [PUT]}}]}", False),
    ("{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}", True),
    ("{from: [{source: {notRemoteIpBlocks: [203.0.113.9]}}]}", False),
    ("{from: [{source: {requestPrincipals: [issuer/ann]}}]}", True),
    ("{from: [{source: {notRequestPrincipals: ['*']}}]}", False),
    ("{from: [{source: {requestPrincipals: ['*'], namespaces: [web]}}]}", True),
    ("{when: [{key: 'request.headers[X-Version]', values: ['2']}]}", True),
    ("{when: [{key: 'request.headers[x-version]', notValues: ['2']}]}", False),
    ("{when: [{key: 'request.headers[x-none]', notValues: ['2']}]}", True),
    ("{when: [{key: remote.ip, values: [203.0.113.9]}]}", True),
    ("{when: [{key: request.auth.principal, values: ['issuer/*']}]}", True),
    ("{when: [{key: request.auth.audiences, values: [shop]}]}", True),
    ("{when: [{key: request.auth.audiences, values: [bank]}]}", False),
    ("{when: [{key: request.auth.presenter, values: [app]}]}", True),
    ("{when: [{key: 'request.auth.claims[role]', values: [admin]}]}", True),
    ("{when: [{key: 'request.auth.claims[role]', notValues: [admin]}]}", False),
    ("{when: [{key: connection.sni, values: [cart.example]}]}", True),
    ("{when: [{key: connection.sni, values: [other.example]}]}", False),
]


@pytest.mark.parametrize(("rule", "fits"), ASKS, ids=[rule for rule, _ in ASKS])
def test_every_field_of_requests_is_enforced_by_a_proxy_that_reads_them(rule: str, fits: bool) -> None:
    for action, passes in (("ALLOW", fits), ("DENY", not fits)):
        mesh = world(authorization("p", f"{{action: {action}, rules: [{rule}]}}"))
        asked = replace(question(mesh, seen=REQUEST), sni="cart.example")
        assert mesh.engine(Layer.L7).allows(mesh.facts(asked, Layer.L7)) is passes


# trust domains


@pytest.mark.parametrize(
    ("written", "known", "expanded"),
    [
        ("cluster.local/ns/a/sa/b", ("cluster.local",), ["cluster.local/ns/a/sa/b"]),
        ("cluster.local/ns/a/sa/b", ("new", "old"), ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("old/ns/a/sa/b", ("new", "old"), ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("other/ns/a/sa/b", ("new", "old"), ["other/ns/a/sa/b"]),
        ("*", ("new", "old"), ["*"]),
        ("*/ns/a/sa/b", ("new", "old"), ["*/ns/a/sa/b"]),
        ("old/ns/a/*", ("new", "old"), ["old/ns/a/*"]),
        ("old/ns/a/sa/*", ("new", "old"), ["new/ns/a/sa/*", "old/ns/a/sa/*"]),
        ("*.old/ns/a/sa/b", ("new", "x.old"), ["new/ns/a/sa/b", "*.old/ns/a/sa/b"]),
        ("o*/ns/a/sa/b", ("new", "old"), ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("x*/ns/a/sa/b", ("new", "old"), ["x*/ns/a/sa/b"]),
    ],
)
def test_a_principal_is_widened_to_the_aliases(written: str, known: tuple[str, ...], expanded: list[str]) -> None:
    assert expand_principal(written, known) == expanded


@pytest.mark.parametrize("text", ["cluster.local/ns/a/sa/b*", "cluster.local/ns/a/*", "*.new/ns/a/sa/b", "a*", "*"])
def test_an_exact_principal_stays_exact_whatever_its_letters(text: str) -> None:
    """Manifests cannot say it, other control planes can: a '*' in an exact name is that letter, which nobody has."""
    exact = Constraint(field=Field.PRINCIPALS, allowed=(Pattern(Form.EXACT, text),))
    (widened,) = with_aliases(held("p", rule(exact)), MeshNames(trust_domain="x.new")).rules
    assert widened.clauses[0].matches[0].constraints == (exact,)


def test_aliases_reach_every_place_where_a_principal_stands() -> None:
    names = MeshNames(trust_domain="new", trust_domain_aliases=("old",))
    spec = """
    rules:
    - from:
      - source: {principals: [cluster.local/ns/a/sa/b], notPrincipals: [old/ns/c/sa/d]}
      - source: {trustDomains: [old], notTrustDomains: [x]}
      when: [{key: source.principal, values: [new/ns/a/sa/b]}]
    """
    (one,) = compiled(authorization("p", spec), names=names)
    first, second = one.rules[0].clauses[0].matches
    assert [str(value) for value in first.constraints[0].allowed] == ["new/ns/a/sa/b", "old/ns/a/sa/b"]
    assert [str(value) for value in first.constraints[0].refused] == ["new/ns/c/sa/d", "old/ns/c/sa/d"]
    assert [str(value) for value in second.constraints[0].allowed] == ["new", "old"]
    assert second.constraints[0].refused == (Pattern(Form.EXACT, "x"),)
    condition = one.rules[0].clauses[1].matches[0].constraints[0]
    assert (condition.field, len(condition.allowed)) == (Field.PRINCIPALS, 2)


# whom they are for


def keys(mesh_text: tuple[str, ...], workload: str = "shop/cart-0") -> tuple[str, ...]:
    mesh = world(*mesh_text)
    return mesh.compiled().keys_for(mesh.named(workload))


def test_a_workload_names_the_policies_that_select_it_sorted() -> None:
    cart = "{selector: {matchLabels: {app: cart}}, rules: [{}]}"
    manifests = (
        authorization("z", cart),
        authorization("a", cart),
        authorization("everywhere", cart, namespace="istio-system"),
        authorization("elsewhere", cart, namespace="web"),
        authorization("other", "{selector: {matchLabels: {app: cart, tier: x}}, rules: [{}]}"),
        authorization("wide", "{rules: [{}]}"),
    )
    assert keys(manifests) == ("istio-system/everywhere", "shop/a", "shop/z")
    assert keys(manifests, "shop/db-0") == ()


def test_policies_reach_namespace_mesh_and_selected_workloads() -> None:
    deny = "{action: DENY, rules: [{}]}"
    assert not allows(world(authorization("p", deny)))
    assert not allows(world(authorization("p", deny, namespace="istio-system")))
    assert allows(world(authorization("p", deny, namespace="web")))
    selected = "{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{}]}"
    assert not allows(world(authorization("p", selected, namespace="istio-system")))
    assert allows(world(authorization("p", selected)), to="shop/db-0:8080")


WAYPOINT = """
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec: {ports: [{port: 15008}], selector: {app: waypoint}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: waypoint-0, namespace: shop, labels: {app: waypoint}}
spec: {address: 127.0.0.5, serviceAccount: waypoint}
"""


@pytest.mark.parametrize(
    ("target", "namespace", "applies"),
    [
        ("{kind: Service, name: cart}", "shop", True),
        ("{kind: Service, name: other}", "shop", False),
        ("{kind: Service, name: cart}", "web", False),
        ("{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}", "shop", True),
        ("{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}", "istio-system", True),
        ("{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}", "shop", False),
    ],
)
def test_a_proxy_that_reads_requests_enforces_what_targets_the_workload(
    target: str, namespace: str, applies: bool
) -> None:
    service = "metadata: {name: cart, namespace: shop}"
    labelled = "metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}"
    text = authorization("p", f"{{targetRefs: [{target}], action: DENY, rules: [{{}}]}}", namespace=namespace)
    mesh = world(text, WAYPOINT, workloads=WORKLOADS.replace(service, labelled))
    cart = mesh.named("shop/cart-0")
    assert cart.waypoints == ("shop/waypoint",)
    assert (f"{namespace}/p" in mesh.compiled(Layer.L7).keys_for(cart)) is applies
    assert mesh.allows(question(mesh))


def test_a_rule_on_what_no_proxy_of_ours_sees_fails_closed() -> None:
    spec = "{rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: [c]}]}]}"
    (one,) = compiled(authorization("p", spec), layer=Layer.L7)
    assert one.rules[0].unknown == "Envoy's filter state is not known here"
