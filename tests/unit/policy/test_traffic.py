"""Connections out of an access log; what another policy would change about them; the least that permits them."""

import json
from collections.abc import Iterable

import pytest

from hbone.policy.diff import compare
from hbone.policy.manifests import Policies
from hbone.policy.model import MeshNames
from hbone.policy.suggest import Suggestion, left_out, suggest
from hbone.policy.traffic import Traffic, read_traffic
from hbone.policy.verdict import NOT_ALLOWED, Decision, Reason, Verdict
from hbone.policy.world import World
from hbone.telemetry.access import AccessLog, AccessRecord, Direction, party
from hbone.times import WallTime
from tests.unit.policy.builders import WORKLOADS, authorization, world

CART = party("cart-0", "shop", "spiffe://cluster.local/ns/shop/sa/cart", "c1")
FRONTEND = party("frontend-0", "web", "spiffe://cluster.local/ns/web/sa/frontend", "c1")


def record(direction: Direction = "outbound", **changed: object) -> AccessRecord:
    dst_addr = "127.0.0.3:15008"
    made = AccessRecord("127.0.0.2:4711", FRONTEND, dst_addr, CART, direction, 1, 2, 3, "127.0.0.3:8080", "cart.shop")
    return made._replace(**changed)  # type: ignore[arg-type]  # fields by name


def lines(*records: AccessRecord, layout: str = "text") -> list[str]:
    written: list[str] = []
    log = AccessLog(written.append, "json" if layout == "json" else "text")
    for one in records:
        log.complete(WallTime(1e9), one)
    return written


@pytest.mark.parametrize("layout", ["text", "json"])
def test_both_layouts_are_read(layout: str) -> None:
    traffic = read_traffic(lines(record(), record(), layout=layout))
    ((seen, count),) = traffic.seen.items()
    assert (str(seen.identity), str(seen.source_ip), seen.workload, seen.port, count) == (
        "spiffe://cluster.local/ns/web/sa/frontend",
        "127.0.0.2",
        "shop/cart-0",
        8080,
        2,
    )
    assert seen.source == "web/frontend-0"
    assert traffic.connections == 2


def test_a_connection_that_both_ends_logged_counts_once() -> None:
    both = [record(), record("inbound"), record("inbound", src_addr="127.0.0.2:9")]
    assert list(read_traffic(lines(*both)).seen.values()) == [2]


def test_the_inbound_end_of_a_tunnel_sees_the_other_proxys_address_and_the_same_connection() -> None:
    far = record("inbound", src=party(identity=FRONTEND.identity), src_addr="10.9.9.9:40000")
    ((seen, count),) = read_traffic(lines(record(), far, layout="json")).seen.items()
    assert (str(seen.source_ip), count) == ("10.9.9.9", 1)  # what the policy there was asked about
    ((seen, count),) = read_traffic(lines(record(), record(), far)).seen.items()
    assert (str(seen.source_ip), count) == ("127.0.0.2", 2)


def test_two_callers_in_plaintext_stay_two() -> None:
    plain = record("inbound", src=party(), dst_addr="127.0.0.3:8080", dst_hbone_addr=None)
    other = plain._replace(src_addr="127.0.0.9:1", direction="outbound")
    assert list(read_traffic(lines(plain, other)).seen.values()) == [1, 1]


def test_plaintext_has_no_identity_and_the_port_it_went_to() -> None:
    plain = record("inbound", src=party("old-0", "web"), dst_addr="127.0.0.3:8080", dst_hbone_addr=None)
    (seen,) = read_traffic(lines(plain)).seen
    assert (seen.identity, seen.port, seen.caller) == (None, 8080, "127.0.0.2 in plaintext")


def test_ztunnels_own_json_is_read() -> None:
    fields = {
        "level": "info",
        "scope": "ztunnel::access",
        "message": "connection complete",
        "src.addr": "10.0.0.1:1",
        "dst.addr": "10.0.0.2:80",
        "direction": "inbound",
        "bytes_sent": 7,
    }
    (seen,) = read_traffic([json.dumps(fields)]).seen
    assert (str(seen.destination_ip), seen.workload) == ("10.0.0.2", "")


def test_what_cannot_be_placed_is_counted() -> None:
    failed: list[str] = []
    AccessLog(failed.append, "text").failed(WallTime(0), "127.0.0.2:1", "127.0.0.3:2", "inbound", "denied")
    named = record(dst_hbone_addr="cart.shop:80")
    garbled = record(src=party("x", "web", "no identity"))
    traffic = read_traffic([*failed, *lines(named, garbled)])
    assert traffic.seen == {}
    assert traffic.unused == {
        "turned away or not yet complete": 1,
        "for a name, not an address": 1,
        "with an identity that is none": 1,
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[1]",
        '{"scope": "app"}',
        "a\tb\tother\tconnection complete\tx=y",
        "no tabs at all",
        '{"a":' * 100_000,
    ],
)
def test_other_lines_are_passed_over(line: str) -> None:
    assert read_traffic([line]) == Traffic()


def test_a_value_that_a_peer_chose_cannot_forge_another() -> None:
    tricky = record(error='x" src.identity="spiffe://cluster.local/ns/root/sa/root" \\ \n\x07')
    (seen,) = read_traffic(lines(tricky)).seen
    assert seen.identity is not None
    assert seen.identity.namespace == "web"
    odd = record(dst=party("cart-0", 'sh"op\\\n\u2028\t\x07'))
    (other,) = read_traffic(lines(odd)).seen
    assert other.workload == 'sh"op\\\n\u2028\t\x07/cart-0'


DENIALS = (
    str(Decision(verdict=Verdict.DENY, reason=Reason.DENIED, policy="shop/no", rule=0).denial()),
    str(NOT_ALLOWED.denial()),
    "spiffe://cluster.local/ns/x/sa/x may not connect: only web/web may",
    "http status: 401: a policy at the destination denies this connection",
    "http status: 403: a policy at the destination denies this connection",
    "connection closed due to policy rejection: explicitly denied by: shop/no",
    "connection closed due to policy change",
    "http status: 401 Unauthorized",
)


@pytest.mark.parametrize("error", DENIALS)
def test_what_a_policy_kept_out_is_told_apart_from_what_passed(error: str) -> None:
    traffic = read_traffic(lines(record(), record("inbound", error=error), record("inbound", error=error)))
    assert list(traffic.seen.values()) == [1]
    assert list(traffic.denied.values()) == [2]
    assert list(traffic.asked.values()) == [3]
    assert traffic.connections == 1


def test_a_connection_that_failed_otherwise_passed_all_policies() -> None:
    traffic = read_traffic(lines(record(error="no connection to 127.0.0.3:8080: connection refused")))
    assert list(traffic.seen.values()) == [1]
    assert not traffic.denied


# diff

ONLY_WEB = authorization("only-web", "{rules: [{from: [{source: {namespaces: [web]}}]}]}")
ONLY_OPS = authorization("only-ops", "{rules: [{from: [{source: {namespaces: [ops]}}]}]}")


def test_a_change_is_shown_with_both_verdicts() -> None:
    traffic = read_traffic(lines(record(), record()))
    difference = compare(world(ONLY_WEB), world(ONLY_OPS), traffic)
    (changed,) = difference.changed
    assert (changed.count, changed.before.verdict.value, changed.after.verdict.value) == (2, "allow", "deny")
    value = difference.to_json()
    assert value["unchanged"] == value["unknown"] == 0
    (row,) = [dict(one) for one in [changed.to_json()]]
    assert (row["to"], row["port"], row["count"]) == ("shop/cart-0", 8080, 2)


def test_what_stays_and_what_is_unknown_is_counted() -> None:
    stranger = record(dst=party("other", "x"), dst_hbone_addr="10.9.9.9:80")
    traffic = read_traffic(lines(record(), stranger))
    difference = compare(world(ONLY_WEB), world(ONLY_WEB), traffic)
    assert (difference.changed, difference.unchanged, difference.unknown) == ((), 1, 1)


def test_a_workload_is_found_by_address_where_the_log_has_no_name() -> None:
    traffic = read_traffic(lines(record(dst=party())))
    assert len(compare(world(ONLY_WEB), world(ONLY_OPS), traffic).changed) == 1


def test_a_change_is_also_shown_for_what_was_denied() -> None:
    traffic = read_traffic(lines(record(error=DENIALS[0])))
    (changed,) = compare(world(ONLY_OPS), world(ONLY_WEB), traffic).changed
    assert (changed.count, changed.before.verdict.value, changed.after.verdict.value) == (1, "deny", "allow")


def test_new_denials_come_first() -> None:
    ops = record(src=party("ops-0", "ops", "spiffe://cluster.local/ns/ops/sa/ops"), src_addr="127.0.0.7:1")
    traffic = read_traffic(lines(ops, ops, ops, record()))
    difference = compare(world(ONLY_WEB), world(ONLY_OPS), traffic)
    assert [one.after.verdict.value for one in difference.changed] == ["deny", "allow"]


# suggest


def specs(found: Iterable[Suggestion]) -> list[dict[str, object]]:
    return [json.loads(json.dumps(one.manifest)) for one in found]


def manifest(one: Suggestion) -> str:
    return json.dumps(one.manifest)


def test_the_least_policy_names_callers_and_ports() -> None:
    (one,) = suggest(read_traffic(lines(record())), world())
    assert json.loads(manifest(one)) == {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "allow-seen-to-cart", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "cart"}},
            "action": "ALLOW",
            "rules": [
                {
                    "from": [{"source": {"principals": ["cluster.local/ns/web/sa/frontend"]}}],
                    "to": [{"operation": {"ports": ["8080"]}}],
                }
            ],
        },
    }
    assert one.notes == ()


@pytest.mark.parametrize("error", DENIALS)
def test_what_was_denied_is_not_suggested(error: str) -> None:
    intruder = record(src=party("x-0", "x", "spiffe://cluster.local/ns/x/sa/x"), src_addr="127.0.0.66:1", error=error)
    (one,) = suggest(read_traffic(lines(record(), intruder)), world())
    assert "cluster.local/ns/web/sa/frontend" in manifest(one)
    assert "ns/x/sa/x" not in manifest(one)
    assert suggest(read_traffic(lines(intruder)), world()) == ()


def seen_by(account: str, port: int, ip: str = "127.0.0.2") -> AccessRecord:
    return record(
        src=party(account, "web", f"spiffe://cluster.local/ns/web/sa/{account}"),
        src_addr=f"{ip}:1",
        dst_hbone_addr=f"127.0.0.3:{port}",
    )


def test_suggested_policies_allow_what_was_seen_and_nothing_else() -> None:
    plain = record("inbound", src=party(), src_addr="127.0.0.9:1", dst_addr="127.0.0.3:8080", dst_hbone_addr=None)
    records = [seen_by("a", 80), seen_by("a", 81), seen_by("b", 80), seen_by("b", 81), seen_by("c", 80), plain]
    traffic = read_traffic(lines(*records))
    (one,) = suggest(traffic, world())
    mesh = world(manifest(one))
    from tests.unit.policy.builders import allows

    def pairs(source: str | None, port: int, ip: str = "127.0.0.2") -> bool:
        return allows(mesh, source, f"shop/cart-0:{port}", ip)

    allowed = {
        (source, port)
        for source in ("web/a", "web/b", "web/c", "web/d")
        for port in (80, 81, 8080)
        if pairs(source, port)
    }
    assert allowed == {("web/a", 80), ("web/a", 81), ("web/b", 80), ("web/b", 81), ("web/c", 80)}
    assert pairs(None, 8080, "127.0.0.9")
    assert not pairs(None, 8080, "127.0.0.8")
    assert not pairs(None, 80, "127.0.0.9")
    assert not pairs("web/d", 8080, "127.0.0.9")
    assert manifest(one).count('"ports"') == 3
    assert "1 callers come in plaintext" in one.notes[0]


def test_without_labels_a_policy_is_for_the_namespace() -> None:
    nothing = World(names=MeshNames(), policies=Policies(), subjects=())
    (one,) = suggest(read_traffic(lines(record())), nothing)
    assert "selector" not in str(one.manifest)
    assert "their labels are not known" in one.notes[0]
    nameless = read_traffic(lines(record(dst=party())))
    assert suggest(nameless, nothing) == ()


def test_nothing_is_suggested_that_would_close_the_whole_mesh() -> None:
    """A policy without labels in the root namespace is for every workload of every namespace."""
    gate = record(dst=party("gate-0", "istio-system"), dst_hbone_addr="10.0.0.1:80")
    traffic = read_traffic(lines(record(), gate, gate))
    nothing = World(names=MeshNames(), policies=Policies(), subjects=())
    assert [one["metadata"] for one in specs(suggest(traffic, nothing))] == [
        {"name": "allow-seen-to-shop", "namespace": "shop"}
    ]
    assert list(left_out(traffic, nothing).values()) == [2]
    assert "whole mesh" in next(iter(left_out(traffic, nothing)))
    elsewhere = World(names=MeshNames(root_namespace="mesh"), policies=Policies(), subjects=())
    assert len(suggest(traffic, elsewhere)) == 2


def test_a_selector_of_the_root_namespace_is_noted_to_reach_every_namespace() -> None:
    web = "{name: frontend-0, namespace: web, labels: {app: frontend}}"
    gate = WORKLOADS.replace(web, "{name: g, namespace: istio-system, labels: {app: cart}}")
    (one,) = suggest(read_traffic(lines(record(dst=party("g", "istio-system")))), world(workloads=gate))
    assert one.notes == ("selects 2 workloads: istio-system/g, shop/cart-0",)


def test_what_no_policy_is_suggested_for_is_told() -> None:
    nameless = read_traffic(lines(record(dst=party())))
    assert left_out(nameless, World(names=MeshNames(), policies=Policies(), subjects=())) == {
        "to a workload that the log does not name": 1
    }


def test_workloads_without_a_telling_label_are_selected_by_all_of_theirs() -> None:
    odd = WORKLOADS.replace("labels: {app: cart}", "labels: {Tier: X_Y, zone: a}").replace(
        "selector: {app: cart}", "selector: {zone: a}"
    )
    (one,) = suggest(read_traffic(lines(record())), world(workloads=odd))
    assert specs([one])[0]["metadata"] == {"name": "allow-seen-to-x-y-a", "namespace": "shop"}


def test_two_groups_of_one_name_get_two_names() -> None:
    twins = WORKLOADS.replace("labels: {app: db}", "labels: {k8s-app: cart}")
    other = record(dst=party("db-0", "shop"), dst_hbone_addr="127.0.0.4:80")
    found = suggest(read_traffic(lines(record(), other)), world(workloads=twins))
    names = [one["metadata"] for one in specs(found)]
    assert names == [{"name": name, "namespace": "shop"} for name in ("allow-seen-to-cart", "allow-seen-to-cart-2")]


def test_a_selector_that_takes_several_workloads_is_noted() -> None:
    both = WORKLOADS.replace("labels: {app: db}", "labels: {app: cart}")
    (one,) = suggest(read_traffic(lines(record())), world(workloads=both))
    assert one.notes == ("selects 2 workloads: shop/cart-0, shop/db-0",)
