"""What a node says of policies that only watch: a line for the operator, and a count."""

import logging

import pytest

from hbone.addr import SocketAddress
from hbone.app.policies import NodePolicies, describe_policies
from hbone.discovery.store import Source, Store
from hbone.policy.model import Action, Field
from hbone.proxy.judge import Facts
from hbone.telemetry.metrics import Metrics
from tests.support.controlplane import FakeClock
from tests.unit.discovery.builders import store, workload
from tests.unit.policy.builders import FRONTEND, constraint, held, rule

CART = workload("cart", "10.0.0.2", namespace="shop")
FROM_WEB = rule(constraint(Field.NAMESPACES, "web"))
ARRIVAL = Facts(
    identity=FRONTEND,
    source=SocketAddress.parse("10.0.0.1:5000"),
    destination=SocketAddress.parse("10.0.0.2:8080"),
    workload=CART,
)


@pytest.fixture
def mesh() -> Store:
    return store(CART)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [{"phrase": one.getMessage(), **vars(one)} for one in caplog.records if one.name == "hbone.policy"]


def exposed(policies: NodePolicies) -> list[str]:
    metrics = Metrics()
    describe_policies(metrics, policies.engine)
    return [line for line in metrics.text().splitlines() if line.startswith("hbone_policy")]


def test_a_dry_run_that_would_deny_is_logged_and_counted_and_lets_pass(
    mesh: Store, caplog: pytest.LogCaptureFixture
) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    policies.replace(Source.MANIFESTS, [held("no-web", FROM_WEB, action=Action.DENY, dry_run=True)])
    with caplog.at_level(logging.INFO, "hbone.policy"):
        assert policies.authorize(ARRIVAL) is None
    (line,) = lines(caplog)
    assert line["phrase"] == "a dry-run policy would decide otherwise"
    assert (line["policy"], line["would"], line["verdict"]) == ("shop/no-web", "deny", "allow")
    assert (line["src.identity"], line["dst.addr"]) == (str(FRONTEND), "10.0.0.2:8080")
    assert exposed(policies) == [
        'hbone_policy_dry_run_total{policy="shop/no-web",would="deny"} 1',
        'hbone_policy_dry_run_total{policy="shop/no-web",would="allow"} 0',
    ]


def test_a_dry_run_that_would_allow_is_logged_and_counted_and_changes_nothing(
    mesh: Store, caplog: pytest.LogCaptureFixture
) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    only_ops = held("only-ops", rule(constraint(Field.NAMESPACES, "ops")))
    policies.replace(Source.MANIFESTS, [only_ops, held("web-too", FROM_WEB, dry_run=True)])
    with caplog.at_level(logging.INFO, "hbone.policy"):
        assert policies.authorize(ARRIVAL) is not None
    (line,) = lines(caplog)
    assert (line["policy"], line["would"], line["verdict"]) == ("shop/web-too", "allow", "deny")
    assert 'hbone_policy_dry_run_total{policy="shop/web-too",would="allow"} 1' in exposed(policies)


def test_an_audit_that_fits_is_logged_and_counted(mesh: Store, caplog: pytest.LogCaptureFixture) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    policies.replace(Source.MANIFESTS, [held("watch", FROM_WEB, action=Action.AUDIT)])
    with caplog.at_level(logging.INFO, "hbone.policy"):
        assert policies.authorize(ARRIVAL) is None
    (line,) = lines(caplog)
    assert (line["phrase"], line["policy"], line["rule"]) == ("an AUDIT policy fits", "shop/watch", 0)
    assert exposed(policies) == ['hbone_policy_audited_total{policy="shop/watch"} 1']


def test_a_dry_run_that_agrees_is_not_worth_a_line(mesh: Store, caplog: pytest.LogCaptureFixture) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    policies.replace(Source.MANIFESTS, [held("web", FROM_WEB, dry_run=True)])
    with caplog.at_level(logging.INFO, "hbone.policy"):
        assert policies.authorize(ARRIVAL) is None
    assert lines(caplog) == []
    assert exposed(policies) == []


def test_callers_cannot_fill_the_log_with_it_and_all_are_counted(mesh: Store, caplog: pytest.LogCaptureFixture) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    policies.replace(Source.MANIFESTS, [held("no-web", FROM_WEB, action=Action.DENY, dry_run=True)])
    with caplog.at_level(logging.INFO, "hbone.policy"):
        for _ in range(100):
            policies.authorize(ARRIVAL)
    assert len(lines(caplog)) < 10
    assert 'hbone_policy_dry_run_total{policy="shop/no-web",would="deny"} 100' in exposed(policies)


def test_the_counts_of_a_policy_go_with_it(mesh: Store) -> None:
    policies = NodePolicies(mesh, None, FakeClock())
    policies.replace(Source.MANIFESTS, [held("no-web", FROM_WEB, action=Action.DENY, dry_run=True)])
    policies.authorize(ARRIVAL)
    policies.replace(Source.MANIFESTS, [])
    assert exposed(policies) == []
