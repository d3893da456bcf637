"""Policies in ztunnel's local file."""

import pytest

from hbone.discovery.localfile import parse_local_file
from hbone.errors import InvalidConfiguration
from hbone.policy.localform import parse_local_policies, plain_policy
from hbone.policy.model import Account, Action, Authorization, Field, Form, Pattern, Rule, Scope
from tests.unit.policy.builders import constraint, held, rule

FILE = """
policies:
- name: only-web
  namespace: shop
  scope: WorkloadSelector
  action: Allow
  dryRun: false
  rules:
  - - - principals: [!Exact cluster.local/ns/web/sa/web, {Prefix: a/}, {suffix: /b}, !Presence null, Presence]
        notNamespaces: [!Prefix test-]
        serviceAccounts: [{namespace: web, serviceAccount: web}]
        sourceIps: [10.0.0.0/8]
        notDestinationPorts: [9999]
        trustDomains: [!Exact cluster.local]
"""


def read(text: str) -> tuple[Authorization, ...]:
    return parse_local_policies(parse_local_file("x.yaml", text).policies)


def one(**changed: str) -> str:
    fields = {
        "name": "p",
        "namespace": "shop",
        "scope": "Namespace",
        "action": "Allow",
        "dryRun": "false",
        "rules": "[]",
        **changed,
    }
    return "policies:\n- {" + ", ".join(f"{key}: {value}" for key, value in fields.items() if value) + "}\n"


def test_every_field_of_ztunnels_example_is_read() -> None:
    (policy,) = read(FILE)
    assert (policy.key, policy.scope, policy.action, policy.dry_run) == (
        "shop/only-web",
        Scope.WORKLOAD_SELECTOR,
        Action.ALLOW,
        False,
    )
    (only,) = policy.rules
    assert only.place == "x.yaml:9"
    constraints = {c.field: c for c in only.clauses[0].matches[0].constraints}
    assert [value.form for value in constraints[Field.PRINCIPALS].allowed if isinstance(value, Pattern)] == [
        Form.EXACT,
        Form.PREFIX,
        Form.SUFFIX,
        Form.PRESENT,
    ]
    assert constraints[Field.NAMESPACES].refused == (Pattern(Form.PREFIX, "test-"),)
    assert constraints[Field.SERVICE_ACCOUNTS].allowed == (Account("web", "web"),)
    assert constraints[Field.DESTINATION_PORTS].refused == (9999,)
    assert Field.TRUST_DOMAINS in constraints


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": ""}, "name: is missing"),
        ({"scope": ""}, "scope: is missing"),
        ({"action": ""}, "action: is missing"),
        ({"rules": ""}, "rules: is missing"),
        ({"namespace": ""}, "namespace: is missing"),
        ({"namespace": "''"}, "write the namespace that the policy is for"),
        ({"scope": "Nampespace"}, "did you mean 'Namespace'?"),
        ({"action": "Custom"}, "is not a choice here"),
        ({"dryRun": "maybe"}, "true or false"),
        ({"extra": "1"}, "is not a known field"),
        ({"rules": "[{}]"}, "a rule: a list of clauses"),
        ({"rules": "[[{}]]"}, "a clause: a list of matches"),
        ({"rules": "[[[[]]]]"}, "a match: a mapping"),
        ({"rules": "[[[{principal: []}]]]"}, "did you mean 'principals'?"),
        ({"rules": "[[[{principals: [abc]}]]]"}, "write !Exact, !Prefix, !Suffix or !Presence"),
        ({"rules": "[[[{principals: [!Exact '']}]]]"}, "give it a text that is not empty"),
        ({"rules": "[[[{principals: [!Regex a]}]]]"}, "is not a text to compare with"),
        ({"rules": "[[[{principals: [{exact: 7}]}]]]"}, "Exact of 7"),
        ({"rules": "[[[{principals: [{}]}]]]"}, "is not a text to compare with"),
        ({"rules": "[[[{sourceIps: [10.0.0.0/33]}]]]"}, "neither an IP address nor a range"),
        ({"rules": "[[[{sourceIps: [7]}]]]"}, "an address range"),
        ({"rules": "[[[{destinationPorts: [65536]}]]]"}, "is not a port"),
        ({"rules": "[[[{destinationPorts: ['80']}]]]"}, "a number from 0 to 65535"),
        ({"rules": "[[[{destinationPorts: [true]}]]]"}, "a number from 0 to 65535"),
        ({"rules": "[[[{serviceAccounts: [web/web]}]]]"}, "{namespace: web, serviceAccount: web}"),
        ({"rules": "[[[{serviceAccounts: [{namespace: web}]}]]]"}, "is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_refuses_the_policy(changed: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        read(one(**changed))
    assert words in str(refused.value)
    assert str(refused.value).startswith("x.yaml:")


def test_a_policy_is_there_once() -> None:
    with pytest.raises(InvalidConfiguration, match="shop/p is there twice"):
        read(one() + one().removeprefix("policies:\n"))
    with pytest.raises(InvalidConfiguration, match="a mapping with name"):
        read("policies: [7]")


def test_words_may_be_tags_and_a_global_policy_needs_no_namespace() -> None:
    (policy,) = read(one(scope="!Global", action="!Deny", namespace="''"))
    assert (policy.scope, policy.action, policy.key) == (Scope.GLOBAL, Action.DENY, "/p")


def test_empty_levels_are_kept() -> None:
    (policy,) = read(one(rules="[[], [[]], [[{}]]]"))
    assert [[len(clause.matches) for clause in rule.clauses] for rule in policy.rules] == [[], [0], [1]]


def test_a_policy_is_shown_in_the_same_shape() -> None:
    policy = held(
        "p",
        rule(
            constraint(Field.PRINCIPALS, "*", "a/*", refused=("*b",)),
            constraint(Field.SOURCE_IPS, "10.0.0.0/8"),
            constraint(Field.DESTINATION_PORTS, 80),
        ),
        Rule(number=1, unknown="field 99"),
        action=Action.AUDIT,
    )
    assert plain_policy(policy) == {
        "name": "p",
        "namespace": "shop",
        "scope": "Namespace",
        "action": "Audit",
        "dryRun": False,
        "rules": [
            [
                [{"principals": [{"Presence": []}, {"Prefix": "a/"}], "notPrincipals": [{"Suffix": "b"}]}],
                [{"sourceIps": ["10.0.0.0/8"]}],
                [{"destinationPorts": [80]}],
            ],
            {"unknown": "field 99"},
        ],
    }


def test_what_was_not_understood_is_still_not_when_read_back() -> None:
    (policy,) = read(one(rules="[{unknown: field 99}]"))
    assert policy.rules[0].unknown == "field 99"
