"""Security manifests: what is read, and each thing that is refused (reference: Istio's validation)."""

import json

import pytest

from hbone.addr import InvalidAddress
from hbone.policy.manifests import Mode, TargetRef
from hbone.policy.model import Account, Action, Field, Form, Pattern, Template
from hbone.policy.values import parse_prefix
from tests.unit.policy.builders import authorization, peer, policies, problems, request


def test_an_authorization_policy_is_read_with_every_field() -> None:
    (policy,) = policies(
        authorization(
            "full",
            """
            selector: {matchLabels: {app: cart}}
            action: DENY
            rules:
            - from:
              - source: {principals: ["*"], notPrincipals: [a/b], namespaces: [web*], notNamespaces: ["*x"]}
              - source: {ipBlocks: [10.0.0.1], notIpBlocks: [10.0.0.0/8], trustDomains: ["*.b"], notTrustDomains: [c]}
              - source: {serviceAccounts: [cart, web/frontend], notServiceAccounts: [web/other]}
              - source: {remoteIpBlocks: [1.2.3.4], notRemoteIpBlocks: ["::/0"], requestPrincipals: [i/s]}
              - source: {notRequestPrincipals: ["*"]}
              to:
              - operation: {ports: ["80"], notPorts: ["81"], methods: [GET], notMethods: [PUT]}
              - operation: {hosts: [h], notHosts: ["*"], paths: [/a, "/b/{*}"], notPaths: [/c*]}
              when:
              - {key: source.ip, values: [10.0.0.0/8]}
              - {key: "request.headers[X-Version]", values: ["1"], notValues: ["2"]}
              - {key: "request.auth.claims[realm][role]", values: [admin]}
            """,
        )
    ).authorization
    assert (policy.key, policy.action, policy.selection.labels) == ("shop/full", Action.DENY, {"app": "cart"})
    (rule,) = policy.rules
    assert (rule.number, rule.place) == (0, "p.yaml:8")
    assert [clause.name for clause in rule.clauses] == [
        "to",
        "from",
        "source.ip",
        "request.headers[X-Version]",
        "request.auth.claims[realm][role]",
    ]
    first, second, third, fourth, _ = rule.clauses[1].matches
    principals = first.constraints[0]
    assert (principals.field, principals.allowed) == (Field.PRINCIPALS, (Pattern(Form.PRESENT),))
    assert principals.refused == (Pattern(Form.EXACT, "a/b"),)
    assert {one.field for one in second.constraints} == {Field.SOURCE_IPS, Field.TRUST_DOMAINS}
    assert third.constraints[0].allowed == (Account("shop", "cart"), Account("web", "frontend"))
    assert {one.field for one in fourth.constraints} == {Field.REMOTE_IPS, Field.REQUEST_PRINCIPALS}
    paths = next(one for one in rule.clauses[0].matches[1].constraints if one.field is Field.PATHS)
    assert paths.allowed == (Pattern(Form.EXACT, "/a"), Template("/b/{*}"))
    assert rule.clauses[0].matches[0].constraints[0].allowed == (80,)
    assert rule.clauses[3].matches[0].constraints[0].key == ("x-version",)
    assert rule.clauses[4].matches[0].constraints[0].key == ("realm", "role")


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("request.headers[a]", "x", Field.HEADERS),
        ("source.ip", "10.0.0.1", Field.SOURCE_IPS),
        ("remote.ip", "10.0.0.1", Field.REMOTE_IPS),
        ("source.namespace", "web", Field.NAMESPACES),
        ("source.serviceAccount", "web/frontend", Field.SERVICE_ACCOUNTS),
        ("source.trustDomain", "a.b", Field.TRUST_DOMAINS),
        ("source.principal", "a/ns/b/sa/c", Field.PRINCIPALS),
        ("request.auth.principal", "i/s", Field.REQUEST_PRINCIPALS),
        ("request.auth.audiences", "a", Field.AUDIENCES),
        ("request.auth.presenter", "a", Field.PRESENTERS),
        ("request.auth.claims[a]", "b", Field.CLAIMS),
        ("destination.ip", "10.0.0.1", Field.DESTINATION_IPS),
        ("destination.port", "80", Field.DESTINATION_PORTS),
        ("connection.sni", "a.example", Field.SNI),
        ("experimental.envoy.filters.f[k]", "v", Field.FILTER_STATE),
    ],
)
def test_every_condition_is_known(key: str, value: str, field: Field) -> None:
    spec = {"rules": [{"when": [{"key": key, "values": [value]}]}]}
    (policy,) = policies(authorization("p", json.dumps(spec))).authorization
    assert policy.rules[0].clauses[0].matches[0].constraints[0].field is field


def test_a_condition_has_values_or_not_values_or_both() -> None:
    spec = {"rules": [{"when": [{"key": "source.namespace", "notValues": ["web"]}]}]}
    (policy,) = policies(authorization("p", json.dumps(spec))).authorization
    (one,) = policy.rules[0].clauses[0].matches[0].constraints
    assert (one.allowed, one.refused) == ((), (Pattern(Form.EXACT, "web"),))


@pytest.mark.parametrize("port", ["0", "1", "65535"])
def test_a_port_is_any_number_of_sixteen_bits(port: str) -> None:
    (policy,) = policies(authorization("p", one_rule(f"{{to: [{{operation: {{ports: ['{port}']}}}}]}}"))).authorization
    assert policy.rules[0].clauses[0].matches[0].constraints[0].allowed == (int(port),)


@pytest.mark.parametrize("api", ["security.istio.io/v1", "security.istio.io/v1beta1"])
@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"])
def test_both_versions_of_the_api_are_read(api: str, kind: str) -> None:
    assert problems(f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{}}") == []


def test_limits_are_reached() -> None:
    """What Istio's validation still takes."""
    items = ",".join(f"a{number}" for number in range(16))
    assert problems(authorization("p", one_rule(accounts(items)))) == []
    assert problems(authorization("p", one_rule(accounts("a" * 320)))) == []
    assert problems(authorization("p", one_rule("{}," * 512))) == []
    target = "{kind: Service, name: a},"
    assert problems(authorization("p", f"{{targetRefs: [{target * 16}]}}")) == []


def test_shapes_without_rules_keep_their_meaning() -> None:
    nothing, empty, everything = policies(
        authorization("nothing", "{}"), authorization("empty", "{rules: []}"), authorization("all", "{rules: [{}]}")
    ).authorization
    assert nothing.rules == empty.rules == ()
    assert [rule.clauses for rule in everything.rules] == [()]


def test_an_absent_spec_is_an_empty_one() -> None:
    head = "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: p}"
    (policy,) = policies(head).authorization
    assert (policy.namespace, policy.rules) == ("default", ())


@pytest.mark.parametrize("written", ["{}", "{matchLabels: {}}"])
def test_a_selector_without_labels_is_none(written: str) -> None:
    (policy,) = policies(authorization("p", f"{{selector: {written}, rules: [{{}}]}}")).authorization
    assert policy.selection.labels == {}
    assert policy.selection.empty_selector


TRUE, FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")  # Go's ParseBool


@pytest.mark.parametrize(("text", "on"), [*((word, True) for word in TRUE), *((word, False) for word in FALSE)])
def test_a_dry_run_is_annotated(text: str, on: bool) -> None:
    annotations = f'{{istio.io/dry-run: "{text}"}}'
    (policy,) = policies(authorization("p", "{rules: [{}]}", annotations=annotations)).authorization
    assert policy.dry_run is on


def test_targets_are_for_waypoints() -> None:
    spec = """
    targetRefs:
    - {group: "", kind: Service, name: cart}
    - {group: networking.istio.io, kind: ServiceEntry, name: ext}
    - {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}
    - {group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}
    """
    (policy,) = policies(authorization("p", spec)).authorization
    assert [str(target) for target in policy.selection.targets][:2] == ["Service cart", "ServiceEntry ext"]
    (old,) = policies(authorization("p", "{targetRef: {kind: Service, name: cart}}")).authorization
    assert old.selection.targets == (TargetRef(kind="Service", name="cart"),)


def one_rule(text: str) -> str:
    return f"{{rules: [{text}]}}"


def accounts(text: str) -> str:
    return f"{{from: [{{source: {{serviceAccounts: [{text}]}}}}]}}"


REFUSED = [
    # selection
    ("{selector: {matchLabels: {app: c}}, targetRefs: [{kind: Service, name: c}]}", "stands beside targetRefs"),
    ("{targetRefs: [{kind: Service, name: c}], targetRef: {kind: Service, name: c}}", "stands beside targetRefs"),
    ("{targetRefs: [{kind: Pod, name: c}]}", "'Pod' cannot be a target"),
    ("{targetRefs: [{kind: Service, name: c, namespace: x}]}", "must not be set"),
    ("{targetRefs: [{kind: Service}]}", "is missing"),
    ("{targetRefs: [{kind: Gateway, name: g}]}", "has no Gateway"),
    ("{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: g}]}", "not a class of waypoints"),
    ("{selector: {matchLabels: {app: 'c*'}}}", "is no label"),
    ("{selector: {matchLabels: {'': c}}}", "is no label"),
    ("{selector: {matchExpressions: []}}", "is not a known field"),
    # action
    ("{action: DENY}", "a DENY without rules denies nothing"),
    (
        "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
        "CUSTOM asks an external authorizer, and there is none here",
    ),
    ("{action: ALOW}", "did you mean 'ALLOW'?"),
    ("{provider: {name: x}}", "is for the action CUSTOM alone"),
    ("{action: AUDIT, provider: {name: x}}", "is for the action CUSTOM alone"),
    ("{action: deny}", "did you mean 'DENY'?"),
    # rules
    (one_rule("{from: [{}]}"), "rules[0].from[0].source: is missing"),
    (one_rule("{from: [{source: {}}]}"), "the source has no field"),
    (one_rule("{from: [{source: {principals: []}}]}"), "the source has no field"),
    (one_rule("{to: [{operation: {}}]}"), "the operation has no field"),
    (one_rule("{to: [{source: {ports: ['1']}}]}"), "is not a known field"),
    (one_rule("{form: []}"), "did you mean 'from'?"),
    (one_rule("{from: [{source: {principal: [a]}}]}"), "did you mean 'principals'?"),
    (one_rule("null"), "is nothing"),
    # values
    (one_rule("{from: [{source: {principals: ['']}}]}"), "is empty"),
    (one_rule("{from: [{source: {principals: [spiffe://a/ns/b/sa/c]}}]}"), "write a/ns/b/sa/c"),
    (one_rule("{from: [{source: {ipBlocks: [10.0.0.300]}}]}"), "neither an IP address nor a range"),
    (one_rule("{from: [{source: {ipBlocks: ['fe80::1%eth0']}}]}"), "without %zone"),
    (one_rule("{to: [{operation: {ports: [80]}}]}"), 'write it in quotes: "80"'),
    (one_rule("{to: [{operation: {ports: ['65536']}}]}"), "is not a port"),
    (one_rule("{to: [{operation: {ports: [http]}}]}"), "is not a port"),
    (one_rule("{to: [{operation: {paths: ['/a/{*}.txt']}}]}"), "is not valid"),
    (one_rule("{to: [{operation: {paths: ['/a{b']}}]}"), "has a brace that is no template"),
    (one_rule("{to: [{operation: {methods: ['']}}]}"), "is empty"),
    (one_rule("{when: [{key: source.namespace, notValues: ['']}]}"), "is empty"),
    (one_rule("{when: [{key: destination.port, values: [http]}]}"), "is not a port"),
    (one_rule("{when: [{key: source.serviceAccount, values: ['a*']}]}"), "has a wildcard"),
    (one_rule("{from: [{source: {trustDomains: [a/b]}}]}"), "is not a trust domain"),
    (one_rule("{from: [{source: {trustDomains: ['a*b']}}]}"), "has a '*' inside"),
    (one_rule("{from: [{source: {trustDomains: ['*a*']}}]}"), "has a '*' inside"),
    # service accounts
    (one_rule("{from: [{source: {serviceAccounts: ['a*']}}]}"), "has a wildcard"),
    (one_rule("{from: [{source: {serviceAccounts: [a/b/c]}}]}"), "is not a service account"),
    (one_rule("{from: [{source: {serviceAccounts: [a/]}}]}"), "is not a service account"),
    (one_rule(accounts("a" * 321)), "of 321 characters"),
    (one_rule(accounts(",".join("abcdefghijklmnopq"))), "has 17 items"),
    (one_rule("{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}"), "cannot be combined with namespaces"),
    (one_rule("{from: [{source: {notServiceAccounts: [a], principals: [b]}}]}"), "cannot be combined with principals"),
    # conditions
    (one_rule("{when: [{key: source.ipp, values: [a]}]}"), "did you mean 'source.ip'?"),
    (one_rule("{when: [{key: zzz, values: [a]}]}"), "use one of: "),
    (one_rule("{when: [{key: source.ip}]}"), "a condition without values"),
    (one_rule("{when: [{values: [a]}]}"), "is missing"),
    (one_rule("{when: [{key: source.ip, values: [a]}]}"), "neither an IP address nor a range"),
    (one_rule("{when: [{key: 'request.headers[a', values: [a]}]}"), "has no name in brackets"),
    (one_rule("{when: [{key: 'request.headers[a][b]', values: [a]}]}"), "has no name in brackets"),
    (one_rule("{when: [{key: 'request.auth.claims[]', values: [a]}]}"), "has no name in brackets"),
    (one_rule("{when: [{key: 'request.auth.claims', values: [a]}]}"), "has no name in brackets"),
]


@pytest.mark.parametrize(("spec", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_mistake_in_an_authorization_policy_is_refused_with_its_place(spec: str, words: str) -> None:
    found = problems(authorization("p", spec))
    assert any(words in problem for problem in found), found
    assert all(problem.startswith("p.yaml:") for problem in found)


def test_limits_are_kept() -> None:
    assert any("has 513 items" in one for one in problems(authorization("p", one_rule("{}," * 513))))
    source = "{source: {namespaces: [a]}},"
    assert any("has 513 items" in one for one in problems(authorization("p", one_rule(f"{{from: [{source * 513}]}}"))))
    target = "{kind: Service, name: a},"
    assert any("has 17 items" in one for one in problems(authorization("p", f"{{targetRefs: [{target * 17}]}}")))


def test_all_mistakes_come_at_once() -> None:
    text = authorization("p", "{action: ALOW, rules: [{form: []}]}") + "---\n" + peer("q", "{mtls: {mode: STRIKT}}")
    assert len(problems(text)) == 3


def test_a_name_can_be_there_once() -> None:
    (found,) = problems(authorization("p", "{}"), authorization("p", "{}"))
    assert "AuthorizationPolicy shop/p is there twice, first at p.yaml:1" in found
    assert not problems(authorization("p", "{}"), peer("p", "{}"))


def test_an_annotation_that_is_neither_true_nor_false_is_refused() -> None:
    (found,) = problems(authorization("p", "{}", annotations='{istio.io/dry-run: "yes"}'))
    assert "'yes' is neither true nor false" in found


def test_a_peer_authentication_is_read() -> None:
    spec = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, '9': {}}}"
    (one,) = policies(peer("p", spec, created="2026-01-01T00:00:00Z")).peer
    assert (one.mode, one.ports) == (Mode.STRICT, {8080: Mode.DISABLE, 9: Mode.UNSET})
    assert one.created == "2026-01-01T00:00:00Z"
    (bare,) = policies(peer("p", "{}")).peer
    assert (bare.mode, bare.created) == (Mode.UNSET, "")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{portLevelMtls: {80: {mode: STRICT}}}", "needs a selector"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", "is empty"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "is not a port"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: STRICT}}", "write {mode: STRICT}"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRIKT}}}", "did you mean 'STRICT'?"),
        ("{mtls: {mode: MUTUAL}}", "write one of: UNSET, DISABLE, PERMISSIVE, STRICT"),
        ("{mtls: STRICT}", "write a mapping"),
        ("{targetRefs: []}", "is not a known field"),
        ("{selector: {matchLabels: {a: 'b*'}}}", "is no label"),
        ("{selector: {matchLabels: {'a*': b}}}", "is no label"),
        ("{selector: {matchLabels: {'': b}}}", "is no label"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {mode: STRICT}}}", "is not a port"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", "write a number from 1 to 65535"),
        ("{selector: {matchExpressions: []}}", "is not a known field"),
    ],
)
def test_a_mistake_in_a_peer_authentication_is_refused(spec: str, words: str) -> None:
    found = problems(peer("p", spec))
    assert any(words in problem for problem in found), found


def test_a_request_authentication_is_read_and_kept() -> None:
    spec = """
    selector: {matchLabels: {app: cart}}
    jwtRules:
    - issuer: https://issuer.example
      audiences: [shop]
      jwksUri: https://issuer.example/keys
      fromHeaders: [{name: x-token, prefix: "Bearer "}]
      fromParams: [token]
      fromCookies: [token]
      outputPayloadToHeader: x-payload
      forwardOriginalToken: true
      outputClaimToHeaders: [{header: x-user, claim: sub}]
      timeout: 500ms
      spaceDelimitedClaims: [roles]
    - {issuer: local, jwks: '{"keys": []}'}
    """
    (one,) = policies(request("p", spec)).request
    first, second = one.rules
    assert (first.issuer, first.audiences, first.timeout_s) == ("https://issuer.example", ("shop",), 0.5)
    assert (first.from_headers[0].prefix, first.output_claim_to_headers) == ("Bearer ", (("x-user", "sub"),))
    assert (second.jwks, second.timeout_s) == ('{"keys": []}', 5.0)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{}", "neither issuer nor jwksUri"),
        ("{issuer: a, jwks: nonsense}", "is not a JSON Web Key Set"),
        ("{issuer: a, jwks: '{\"a\": 1}'}", "is not a JSON Web Key Set"),
        ("{issuer: a, jwksUri: ftp://x}", "is not a URL"),
        ("{issuer: a, jwksUri: https://x, jwks: '{\"keys\": []}'}", "stands beside jwksUri"),
        ("{issuer: a, fromHeaders: [{prefix: x}]}", "is missing"),
        ("{issuer: a, timeout: soon}", "is not a duration"),
        ("{issuer: a, audiences: ['']}", "is empty"),
        ("{issuer: a, audience: [x]}", "did you mean 'audiences'?"),
    ],
)
def test_a_mistake_in_a_request_authentication_is_refused(rule: str, words: str) -> None:
    found = problems(request("p", f"{{jwtRules: [{rule}]}}"))
    assert any(words in problem for problem in found), found


def test_a_range_with_host_bits_is_the_range() -> None:
    assert parse_prefix("10.1.2.3/8") == parse_prefix("10.0.0.0/8")


@pytest.mark.parametrize(
    "text", ["10.0.0.1/0.0.0.0", "10.0.0.0/255.0.0.0", "10.0.0.0/0.0.0.255", "10.0.0.0/", "::/ffff::"]
)
def test_a_range_by_mask_is_refused_and_never_read_as_another(text: str) -> None:
    """Istio takes prefix lengths alone; `/0.0.0.0` would be everything."""
    with pytest.raises(InvalidAddress, match="neither an IP address nor a range"):
        parse_prefix(text)
