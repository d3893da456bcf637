"""Policies that a control plane tells, as a node takes them."""

import pytest

from hbone.app.policies import NodePolicies, PolicySink
from hbone.discovery.policies import policy_resource
from hbone.discovery.store import Store
from hbone.discovery.xds import Update
from hbone.net.clock import SystemClock
from hbone.policy.model import (
    Action,
    Authorization,
    Clause,
    Constraint,
    Field,
    Match,
    MeshNames,
    Pattern,
    Rule,
    Scope,
)

LITERAL = Constraint(field=Field.PRINCIPALS, allowed=(Pattern.parse("new.test/ns/web/sa/web"),))
POLICY = Authorization(
    namespace="shop",
    name="only-web",
    scope=Scope.NAMESPACE,
    action=Action.ALLOW,
    rules=(Rule(clauses=(Clause(matches=(Match((LITERAL,)),)),)),),
)
RENAMED = MeshNames(trust_domain="new.test", trust_domain_aliases=("old.test",))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, {"new.test/ns/web/sa/web"}),
        (RENAMED, {"new.test/ns/web/sa/web", "old.test/ns/web/sa/web"}),
    ],
)
async def test_the_policies_of_a_control_plane_without_aliases_are_widened_to_those_of_the_settings(
    names: MeshNames | None, expected: set[str]
) -> None:
    policies = NodePolicies(Store(), None, SystemClock())
    resource = policy_resource(POLICY)
    assert not await PolicySink(policies, names=names).take([Update(resource.name, "1", resource.body)], [])
    (held,) = policies.engine.policies
    (constraint,) = held.rules[0].clauses[0].matches[0].constraints
    assert set(map(str, constraint.allowed)) == expected
