"""What Envoy's CONNECT to our inbound is answered: the statuses that ztunnel gives.

200 only when the application is connected, 400 for what is not served here, 401 when a policy denies, 503 when the
application cannot be reached.
"""

import json
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hbone.addr import SocketAddress
from hbone.bench.pki import Identity
from tests.interop.certificates import MeshPki
from tests.interop.pairs import Ground, Pair, Wiring, to_us
from tests.interop.programs import connect, echoes, fetch, read_to_end
from tests.support.envoy import Settings, found
from tests.support.targets import echo

pytestmark = pytest.mark.interop

ANSWER = "envoy.tcp_proxy.propagate_response_headers"
WORKLOADS = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: server, namespace: shop, labels: {{app: server}}}}
spec: {{address: {host}, serviceAccount: server}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, namespace: shop}}
spec: {{address: {client}, serviceAccount: client}}
"""
STRICT = """\
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""


def telling_answers(document: Settings) -> Settings:
    """Envoy's access log has the answer to each CONNECT, whatever it was."""
    copy: Settings = json.loads(json.dumps(document))
    for tunnelling in found(copy, "tunneling_config"):
        tunnelling["propagate_response_headers"] = True
    for line in found(copy, "text_format_source"):
        line["inline_string"] = f"answer=%FILTER_STATE({ANSWER}:TYPED)% flags=%RESPONSE_FLAGS%\n"
    return copy


def policy(action: str, source: str, port: int | None = None) -> str:
    to = "" if port is None else f", to: [{{operation: {{ports: ['{port}']}}}}]"
    rule = f"{{from: [{{source: {source}}}]{to}}}"
    head = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    return f"{head}\nmetadata: {{name: judge, namespace: shop}}\nspec: {{action: {action}, rules: [{rule}]}}\n"


CLIENT_ALONE = "{principals: [cluster.local/ns/shop/sa/client]}"
ANOTHER = "{principals: [cluster.local/ns/shop/sa/another]}"


def write(ground: Ground, *policies: str) -> Path:
    """The node's manifests as they are from now on; their directory."""
    manifests = ground.directory / "manifests"
    manifests.mkdir(exist_ok=True)
    new = manifests / ".new"
    new.write_text("".join((WORKLOADS.format(host=ground.host, client=ground.host - 1), *policies)))
    new.replace(manifests / "mesh.yaml")
    return manifests


@contextmanager
def under(ground: Ground, *policies: str, target: SocketAddress, identity: Identity | None = None) -> Generator[Pair]:
    """Envoy (with another identity than the mesh's own, if given) → our inbound, with these policies → `target`."""
    node: dict[str, object] = {"manifests": str(write(ground, *policies)), "local_xds": None}
    envoy = {} if identity is None else {"identity": identity}
    with to_us(ground, target, wiring=Wiring(node=node, envoy=envoy, shape=telling_answers)) as pair:
        yield pair


def answers(pair: Pair) -> list[str | None]:
    """The status of each CONNECT, as Envoy saw it; None where no answer came. Ends Envoy, so that its log is whole."""
    pair.envoy.stop()
    found_headers: list[str | None] = []
    for line in pair.envoy.access_log().splitlines():
        text = line.removeprefix("answer=").partition(" flags=")[0]
        headers: list[dict[str, str]] = json.loads(text)["headers"] if text.startswith("{") else []
        found_headers.append(next((one["value"] for one in headers if one["key"] == ":status"), None))
    return found_headers


@pytest.mark.parametrize(
    "policies",
    [(), (STRICT,), (policy("ALLOW", CLIENT_ALONE),), (STRICT, policy("DENY", ANOTHER))],
    ids=["no policy", "STRICT", "allowed by name", "STRICT, and another is denied"],
)
def test_envoy_sees_200_when_nothing_forbids_it(policies: tuple[str, ...], ground: Ground) -> None:
    with echo(str(ground.host)) as target, under(ground, *policies, target=target.address) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
        assert pair.node.only_access().error == ""
        assert answers(pair) == ["200"]


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        ((policy("DENY", CLIENT_ALONE),), "explicitly denied by: shop/judge"),
        ((policy("ALLOW", ANOTHER),), "allow policies exist, but none allowed"),
        ((policy("DENY", "{namespaces: [shop]}"), STRICT), "explicitly denied by: shop/judge"),
        ((policy("DENY", "{notIpBlocks: [192.0.2.0/24]}"),), "explicitly denied by: shop/judge"),
    ],
)
def test_envoy_sees_401_when_a_policy_denies_it(policies: tuple[str, ...], reason: str, ground: Ground) -> None:
    with echo(str(ground.host)) as target, under(ground, *policies, target=target.address) as pair:
        assert fetch(pair.entry).received == 0
        assert reason in pair.node.only_access().error
        assert target.accepted == 0
        assert answers(pair) == ["401"]


@pytest.mark.parametrize(("place", "status"), [("application", "401"), ("tunnel", "200")])
def test_the_port_that_policies_see_is_that_of_the_connect_and_not_that_of_the_tunnel(
    place: str, status: str, ground: Ground
) -> None:
    with echo(str(ground.host)) as target:
        port = target.address.port if place == "application" else ground.tunnel.port
        with under(ground, policy("DENY", CLIENT_ALONE, port), target=target.address) as pair:
            with connect(pair.entry) as conn:
                conn.shutdown(socket.SHUT_WR)
                assert read_to_end(conn).received == 0
            pair.node.only_access()
            assert answers(pair) == [status]


def test_envoy_sees_400_for_an_authority_that_is_not_served_here(ground: Ground) -> None:
    with echo() as elsewhere, under(ground, target=elsewhere.address) as pair:
        assert fetch(pair.entry).received == 0
        assert "ip mismatch" in pair.node.only_access().error
        assert elsewhere.accepted == 0
        assert answers(pair) == ["400"]


def test_a_foreign_authority_is_answered_400_also_where_a_policy_would_deny(ground: Ground) -> None:
    with echo() as elsewhere, under(ground, policy("DENY", CLIENT_ALONE), target=elsewhere.address) as pair:
        assert fetch(pair.entry).received == 0
        assert answers(pair) == ["400"]


def test_envoy_sees_503_when_the_application_is_dead(ground: Ground) -> None:
    with under(ground, target=ground.ports.free(ground.host)) as pair:
        assert fetch(pair.entry).received == 0
        assert "Connection refused" in pair.node.only_access().error
        assert answers(pair) == ["503"]


def test_a_denial_is_401_also_when_the_application_is_dead(ground: Ground) -> None:
    with under(ground, policy("DENY", CLIENT_ALONE), target=ground.ports.free(ground.host)) as pair:
        assert fetch(pair.entry).received == 0
        assert answers(pair) == ["401"]


def test_envoy_sees_503_for_a_call_back_into_our_tunnel_port(ground: Ground) -> None:
    with under(ground, target=ground.tunnel) as pair:
        assert fetch(pair.entry).received == 0
        assert answers(pair) == ["503"]


@pytest.mark.parametrize("stranger", ["our domain by another root", "another domain by its own root"])
def test_under_strict_envoy_with_another_root_gets_no_answer_at_all(
    stranger: str, ground: Ground, rogue_pki: MeshPki, foreign_pki: MeshPki
) -> None:
    pki, says = {
        "our domain by another root": (rogue_pki, "is not trusted"),
        "another domain by its own root": (foreign_pki, "no roots for trust domain other.local"),
    }[stranger]
    identity = replace(pki.identity("shop", "client"), root=ground.pki.root)
    with (
        echo(str(ground.host)) as target,
        under(ground, STRICT, target=target.address, identity=identity) as pair,
    ):
        assert fetch(pair.entry).received == 0
        assert says in pair.node.wait_access()[0].error
        assert target.accepted == 0
        assert set(answers(pair)) == {None}


def test_a_denial_that_comes_later_cuts_what_envoy_holds_open_and_answers_the_next_with_401(ground: Ground) -> None:
    with echo(str(ground.host)) as target, under(ground, target=target.address) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
            write(ground, policy("DENY", CLIENT_ALONE))
            assert read_to_end(conn).received == 0
        (line,) = pair.node.wait_access()
        assert "connection closed due to policy change" in line.error
        assert target.next_seen().reset
        assert fetch(pair.entry).received == 0
        assert answers(pair) == ["200", "401"]
