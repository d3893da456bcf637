"""PeerAuthentication merged, and what becomes of it for nodes (reference: Istio's ComposePeerAuthentication)."""

import pytest

from hbone.policy.manifests import Mode
from hbone.policy.model import Action, Scope
from tests.unit.policy.builders import WORKLOADS, allows, peer, problems, question, world

LETTERS = {"S": "STRICT", "P": "PERMISSIVE", "D": "DISABLE", "U": "UNSET"}


def spec(letters: str) -> str:
    """ "S" → mode STRICT; "S{80:P}" → with a port, and a selector; "S*" → with a selector."""
    mode, _, ports = letters.partition("{")
    pairs = [pair.split(":") for pair in ports.rstrip("}").split(",")] if ports else []
    levels = ", ".join(f"{port}: {{mode: {LETTERS[letter]}}}" for port, letter in pairs)
    return f"{{mtls: {{mode: {LETTERS[mode[0]]}}}{f', portLevelMtls: {{{levels}}}' if levels else ''}}}"


def selecting(letters: str) -> str:
    return "{selector: {matchLabels: {app: cart}}, " + spec(letters)[1:]


ROWS = [
    # mesh, namespace, workload, port 80, port 8080, other
    ("-", "-", "-", "P", "P", "P"),
    ("S", "-", "-", "S", "S", "S"),
    ("S", "P", "-", "P", "P", "P"),
    ("P", "S", "-", "S", "S", "S"),
    ("S", "U", "-", "S", "S", "S"),
    ("U", "U", "-", "P", "P", "P"),
    ("S", "P", "S", "S", "S", "S"),
    ("S", "-", "P", "P", "P", "P"),
    ("S", "-", "P{80:S}", "S", "P", "P"),
    ("S", "-", "U{8080:P}", "S", "P", "S"),
    ("S", "-", "U{8080:D}", "S", "D", "S"),
    ("S", "U", "U{8080:P}", "S", "P", "S"),
    ("P", "-", "U{80:S}", "S", "P", "P"),
    ("-", "S", "S{80:P,8080:D}", "P", "D", "S"),
    ("-", "S", "P{80:S}", "S", "P", "P"),
    ("-", "-", "D{80:U}", "D", "D", "D"),
    ("S", "-", "D{80:U,8080:S}", "D", "S", "D"),
]


@pytest.mark.parametrize("row", ROWS, ids=[" ".join(row[:3]) for row in ROWS])
def test_modes_merge_from_mesh_to_port(row: tuple[str, ...]) -> None:
    manifests: list[str] = []
    if row[0] != "-":
        manifests.append(peer("mesh", spec(row[0]), namespace="istio-system"))
    if row[1] != "-":
        manifests.append(peer("ns", spec(row[1])))
    if row[2] != "-":
        manifests.append(peer("wl", selecting(row[2])))
    mesh = world(*manifests)
    effective = mesh.compiled().peers.of_workload(mesh.named("shop/cart-0"))
    for port, letter in zip((80, 8080, 9999), row[3:], strict=True):
        assert effective.at(port) is Mode(LETTERS[letter])
        # what nodes enforce agrees: plaintext is refused exactly where the mode is STRICT, a tunnel never
        assert allows(mesh, None, f"shop/cart-0:{port}") is (letter != "S")
        assert allows(mesh, "web/frontend", f"shop/cart-0:{port}")


def test_the_older_of_two_counts_alone() -> None:
    mesh = world(
        peer("a-newer", selecting("S{80:S}"), created="2026-02-01T00:00:00Z"),
        peer("b-older", selecting("P"), created="2026-01-01T00:00:00Z"),
        peer("mesh", spec("S"), namespace="istio-system"),
        peer("ns", spec("P")),
    )
    effective = mesh.compiled().peers.of_workload(mesh.named("shop/cart-0"))
    assert {effective.at(port) for port in (80, 8080)} == {Mode.PERMISSIVE}


def test_the_older_wins_even_though_it_is_unset() -> None:
    mesh = world(
        peer("a", spec("S"), created="2026-02-01T00:00:00Z"), peer("b", spec("U"), created="2026-01-01T00:00:00Z")
    )
    assert mesh.compiled().peers.of_workload(mesh.named("shop/cart-0")).mode is Mode.PERMISSIVE
    assert [(newer.name, older.name) for newer, older in mesh.compiled().peers.ignored()] == [("a", "b")]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ("2026-01-01T01:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2025-12-31T23:59:59.9Z", "2026-01-01T00:00:00Z"),
        ("", "2026-01-01T00:00:00Z"),
        ("2025-12-31", "2026-01-01T00:00:00Z"),
    ],
)
def test_age_is_a_time_however_it_is_written(older: str, newer: str) -> None:
    mesh = world(peer("z-older", spec("S"), created=older), peer("a-newer", spec("P"), created=newer))
    assert mesh.compiled().peers.of_workload(mesh.named("shop/cart-0")).mode is Mode.STRICT


@pytest.mark.parametrize("created", ["yesterday", "12:00", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+02:00"])
def test_an_age_that_is_no_time_is_refused(created: str) -> None:
    (found,) = problems(peer("p", spec("S"), created=created))
    assert f"metadata.creationTimestamp: '{created}' is no point in time; write it as 2026" in found


def test_of_one_age_the_first_by_name_counts() -> None:
    mesh = world(peer("b", spec("S")), peer("a", spec("P")))
    assert mesh.compiled().peers.of_workload(mesh.named("shop/cart-0")).mode is Mode.PERMISSIVE


def test_a_selector_in_the_root_namespace_selects_nobody() -> None:
    mesh = world(peer("p", selecting("S"), namespace="istio-system"))
    assert allows(mesh, None)


ROOT_WORKLOAD = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: gate-0, namespace: istio-system, labels: {app: cart}}
spec: {address: 127.0.0.6, serviceAccount: gate}
"""


def test_a_selector_in_the_root_namespace_selects_not_even_the_workloads_there() -> None:
    mesh = world(peer("p", selecting("S"), namespace="istio-system"), workloads=WORKLOADS + "---" + ROOT_WORKLOAD)
    assert allows(mesh, None, "istio-system/gate-0:8080")


def test_the_mode_of_the_mesh_is_that_of_the_root_namespace_s_own_workloads() -> None:
    mesh = world(peer("p", spec("S"), namespace="istio-system"), workloads=WORKLOADS + "---" + ROOT_WORKLOAD)
    assert not allows(mesh, None, "istio-system/gate-0:8080")


def test_the_ports_of_a_newer_object_are_ignored_with_it() -> None:
    mesh = world(
        peer("older", selecting("P"), created="2026-01-01T00:00:00Z"),
        peer("newer", selecting("P{80:S}"), created="2026-01-01T00:00:01Z"),
    )
    assert allows(mesh, None, "shop/cart-0:80")


def test_ports_are_looked_up_in_the_workload_s_object_alone() -> None:
    """A port of one workload says nothing about the same port of another."""
    mesh = world(peer("ns", spec("S")), peer("wl", selecting("U{80:P}")))
    assert allows(mesh, None, "shop/cart-0:80")
    assert not allows(mesh, None, "shop/db-0:80")


def test_a_selector_selects_in_its_own_namespace_alone() -> None:
    mesh = world(peer("p", selecting("S"), namespace="web"))
    assert allows(mesh, None)
    assert allows(world(peer("p", selecting("S"))), None, "shop/db-0:8080")
    assert not allows(world(peer("p", selecting("S"))), None, "shop/cart-0:8080")


def test_an_empty_selector_is_none() -> None:
    mesh = world(peer("p", "{selector: {}, mtls: {mode: STRICT}}", namespace="istio-system"))
    assert not allows(mesh, None)


def names_and_keys(*manifests: str) -> tuple[list[str], tuple[str, ...]]:
    mesh = world(*manifests)
    compiled = mesh.compiled()
    return [one.key for one in compiled.authorizations], compiled.keys_for(mesh.named("shop/cart-0"))


STATIC = "istio-system/istio_converted_static_strict"
CONVERTED = "shop/converted_peer_authentication_wl"


@pytest.mark.parametrize(
    ("namespace", "workload", "keys"),
    [
        ("S", "-", (STATIC,)),
        ("P", "-", ()),
        ("-", "S", (STATIC,)),
        ("-", "S{80:S,81:U}", (STATIC,)),
        ("-", "S{80:P}", (CONVERTED,)),
        ("-", "P{80:S}", (CONVERTED,)),
        ("S", "P{80:D}", ()),
        ("S", "U{80:P}", (CONVERTED,)),
        ("S", "U{80:S}", (STATIC,)),
        ("P", "U{80:S}", (CONVERTED,)),
        ("P", "U{80:D}", ()),
    ],
)
def test_a_workload_names_what_its_strictness_became(namespace: str, workload: str, keys: tuple[str, ...]) -> None:
    manifests = [peer("ns", spec(namespace))] if namespace != "-" else []
    manifests += [peer("wl", selecting(workload))] if workload != "-" else []
    made, named = names_and_keys(*manifests)
    assert named == keys
    assert set(named) <= set(made)
    assert STATIC in made


def test_nothing_is_made_of_no_peer_authentication() -> None:
    assert names_and_keys() == ([], ())


def test_the_static_policy_denies_whoever_has_no_identity() -> None:
    mesh = world(peer("ns", spec("S")))
    (static,) = mesh.compiled().authorizations
    assert (static.key, static.action, static.scope) == (STATIC, Action.DENY, Scope.WORKLOAD_SELECTOR)
    assert [[len(clause.matches) for clause in rule.clauses] for rule in static.rules] == [[1]]


def test_exceptions_from_strict_are_one_rule_and_strict_ports_one_each() -> None:
    strict = {one.key: one for one in world(peer("wl", selecting("S{81:P,80:D}"))).compiled().authorizations}[CONVERTED]
    assert [[c.matches[0].constraints[-1].refused for c in rule.clauses[1:]] for rule in strict.rules] == [
        [(80,), (81,)]
    ]
    open_ = {one.key: one for one in world(peer("wl", selecting("P{81:S,80:S}"))).compiled().authorizations}[CONVERTED]
    assert [rule.clauses[0].matches[0].constraints[1].allowed for rule in open_.rules] == [(80,), (81,)]


def test_the_object_that_decided_a_port_is_known() -> None:
    mesh = world(peer("ns", spec("S")), peer("wl", selecting("U{80:P}")))
    effective = mesh.compiled().peers.of_workload(question(mesh).subject)
    assert [one.name if (one := effective.decided_by(port)) else None for port in (80, 8080)] == ["wl", "ns"]
    assert world().compiled().peers.of_workload(question(mesh).subject).decided_by(80) is None
