"""`hbone policy explain --node`: asked of a window over a real socket."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from hbone.cli.failures import main
from hbone.policy.localform import plain_policy
from hbone.policy.model import Field, Scope
from tests.unit.policy.builders import constraint, held, rule

Node = tuple[str, dict[str, object]]


@pytest.fixture
def node() -> Iterator[Node]:
    """A window that answers with what it is given, by path."""
    answers: dict[str, object] = {}

    class Window(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in answers
            body = json.dumps(answers.get(self.path)).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as its base calls it
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Window) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", answers
        server.shutdown()
        thread.join()


CART: dict[str, object] = {
    "uid": "c//Pod/shop/cart-0",
    "name": "cart-0",
    "namespace": "shop",
    "workloadIps": ["127.0.0.3"],
    "services": {},
    "protocol": "HBONE",
    "authorizationPolicies": ["shop/only-web"],
}


def explain(node: Node, *arguments: str) -> int:
    return main(["policy", "explain", "--node", node[0], *arguments], {})


def test_a_node_explains_by_what_it_holds(capsys: pytest.CaptureFixture[str], node: Node) -> None:
    policy = held("only-web", rule(constraint(Field.NAMESPACES, "web")), scope=Scope.WORKLOAD_SELECTOR)
    node[1].update({"/policies": [plain_policy(policy)], "/config_dump": {"workloads": [CART]}})
    assert explain(node, "--to", "shop/cart-0:8080", "--from", "web/x", "-o", "json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["policy"], said["rule"], said["mtls"]) == ("shop/only-web", 0, "PERMISSIVE")
    assert explain(node, "--to", "shop/cart-0:8080", "--from", "ops/x") == 1
    assert explain(node, "--to", "shop/card-0:1", "--from", "web/x") == 2
    assert "did you mean shop/cart-0?" in capsys.readouterr().err


def test_a_node_that_shows_no_policies_says_what_to_do_instead(capsys: pytest.CaptureFixture[str], node: Node) -> None:
    assert explain(node, "--to", "shop/cart-0:1", "--from", "web/x") == 3
    said = capsys.readouterr().err
    assert "this node does not show its policies" in said
    assert "--manifests DIR" in said
