"""A server that would take anybody whose certificate chains (users' scenario C11): refused, with the line to add."""

import pytest

from tests.cli.programs import exchange, expose, forward, refused
from tests.support.commands import Running, Sandbox
from tests.support.targets import echo

REQUIRED = {"HBONE_REQUIRE_RULES": "true"}
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/web/sa/client]}}]}]
"""
DENYING = POLICY.replace("spec:", "spec:\n  action: DENY")


def up(sandbox: Sandbox, manifests: str = "") -> Running:
    sandbox.write("mesh/policy.yaml", manifests)
    running = sandbox.start("up", "mesh")
    running.wait_for("Ctrl-C ends it")
    return running


@pytest.mark.parametrize("manifests", ["", DENYING], ids=["no policy", "a policy that only denies"])
def test_c11_a_server_without_rules_ends_with_2_and_the_line_to_add(sandbox: Sandbox, manifests: str) -> None:
    mesh = up(sandbox, manifests)
    done = sandbox.run("expose", "--as", "shop/cart", "8080", env=REQUIRED).expect(2)
    assert "nothing says who may connect to shop/cart" in done.err
    assert "add --allow NAMESPACE/ACCOUNT" in done.err
    mesh.wait_for("registration ended", "shop/cart")


def test_c11_with_the_line_added_it_serves_whom_the_line_names(sandbox: Sandbox) -> None:
    up(sandbox)
    with echo() as target:
        expose(sandbox, "shop/cart", 80, target.address, "--require-rules", "--allow", "web/client")
        assert exchange(forward(sandbox, "web/client", "cart.shop:80")[1]) == b"ping"
        assert refused(forward(sandbox, "web/other", "cart.shop:80")[1])
        assert target.accepted == 1


def test_c11_a_policy_of_the_mesh_is_rules_enough(sandbox: Sandbox) -> None:
    up(sandbox, POLICY)
    with echo() as target:
        expose(sandbox, "shop/cart", 80, target.address, "--require-rules")
        assert exchange(forward(sandbox, "web/client", "cart.shop:80")[1]) == b"ping"
