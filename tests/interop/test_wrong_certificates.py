"""A wrong certificate on either side of a tunnel between Envoy and us: refused, with the reason in our log.

Whoever judges, the same holds: no connection reaches the server, the program gets no byte, and one access line on
our side says why.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hbone.bench.pki import Identity
from hbone.identity.spiffe import SpiffeId
from tests.interop.certificates import MeshPki
from tests.interop.pairs import Ground, Pair, PairOpener, Wiring, to_envoy, to_us
from tests.interop.programs import fetch
from tests.support.envoy import Settings, found
from tests.support.pki import BOTH_USAGES
from tests.support.targets import TcpServer, source

pytestmark = pytest.mark.interop

CLIENT_AUTH, SERVER_AUTH = BOTH_USAGES
TELLING = ("--component-log-level", "connection:debug")  # how its connections end


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A leaf of the mesh's own CA that is wrong in one way, what we say of it, and the alert as Envoy names it."""

    says: str
    alert: str
    spiffe_id: Callable[[SpiffeId], SpiffeId] = lambda right: right
    changes: Callable[[SpiffeId], dict[str, Any]] = field(default=lambda _: {})


def other_domain(right: SpiffeId) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://other.local{right.path}")


ODD_LEAVES = {
    "expired": Odd(says="ended at", alert="CERTIFICATE_EXPIRED", changes=lambda _: {"begins_h": -2, "ends_h": -1}),
    "not yet valid": Odd(says="begins at", alert="BAD_CERTIFICATE", changes=lambda _: {"begins_h": 1, "ends_h": 2}),
    "another trust domain by our root": Odd(
        says="no roots for trust domain other.local", alert="UNKNOWN_CA", spiffe_id=other_domain
    ),
    "two identities": Odd(
        says="2 URI names",
        alert="BAD_CERTIFICATE",
        changes=lambda right: {"uris": (str(right), f"{right}2")},
    ),
    "a CA's certificate": Odd(says="it is a CA certificate", alert="BAD_CERTIFICATE", changes=lambda _: {"ca": True}),
    "no SPIFFE ID": Odd(
        says="no SPIFFE ID", alert="BAD_CERTIFICATE", changes=lambda _: {"uris": (), "dns": ("client.shop",)}
    ),
    "no path": Odd(
        says="whole trust domain",
        alert="BAD_CERTIFICATE",
        changes=lambda right: {"uris": (f"spiffe://{right.trust_domain}",)},
    ),
}


def odd_identity(odd: Odd, pki: MeshPki, account: str) -> Identity:
    right = pki.spiffe_id(account)
    return pki.odd(odd.spiffe_id(right), **odd.changes(right))


def assert_refused(pair: Pair, target: TcpServer, says: str) -> None:
    """One try of a program comes to nothing, and our one line says `says`."""
    seen = fetch(pair.entry)
    line = pair.node.only_access()
    assert says in line.error
    assert (line.message, seen.received, target.accepted) == ("connection failed", 0, 0)


def assert_told(pair: Pair, alert: str) -> None:
    """Envoy got this alert; with TLS 1.3 a client gets it after its handshake, and Envoy tells its debug log alone."""
    pair.wait(lambda: f"ALERT_{alert}" in pair.envoy.process.log.read_text())


def assert_turned_away(pair: Pair, ground: Ground) -> None:
    """Envoy saw its handshake fail and no request.

    Which alert it was, it cannot read: OpenSSL's client has not changed to encrypted writing when it judges (for
    middleboxes' sake), and BoringSSL takes nothing else there.
    """
    pair.envoy.stop()
    assert "TLS_error" in (ground.directory / "handshakes.log").read_text()
    assert pair.envoy.access_log() == ""


# --- Envoy's certificate is wrong, we judge -----------------------------------------------------------------------


@pytest.mark.parametrize("case", ODD_LEAVES)
def test_an_envoy_client_is_refused_with_the_fitting_alert_when_its_certificate_is(case: str, ground: Ground) -> None:
    odd = ODD_LEAVES[case]
    wiring = Wiring(envoy={"identity": odd_identity(odd, ground.pki, "client")}, options=TELLING)
    with source(100, str(ground.host)) as target, to_us(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, odd.says)
        assert_told(pair, odd.alert)


def test_an_envoy_client_whose_certificate_is_for_servers_only_is_refused(ground: Ground) -> None:
    identity = ground.pki.odd(ground.pki.spiffe_id("client"), extended=(SERVER_AUTH,))
    with (
        source(100, str(ground.host)) as target,
        to_us(ground, target.address, wiring=Wiring(envoy={"identity": identity}, options=TELLING)) as pair,
    ):
        assert_refused(pair, target, "lacks clientAuth")
        assert_told(pair, "UNSUPPORTED_CERTIFICATE")


def test_an_envoy_client_of_an_unknown_root_is_refused_though_it_claims_our_trust_domain(
    ground: Ground, rogue_pki: MeshPki
) -> None:
    identity = replace(rogue_pki.identity("shop", "client"), root=ground.pki.root)
    with (
        source(100, str(ground.host)) as target,
        to_us(ground, target.address, wiring=Wiring(envoy={"identity": identity}, options=TELLING)) as pair,
    ):
        assert_refused(pair, target, "is not trusted")
        assert_told(pair, "UNKNOWN_CA")


def test_an_envoy_client_of_another_trust_domain_is_refused(ground: Ground, foreign_pki: MeshPki) -> None:
    identity = replace(foreign_pki.identity("shop", "client"), root=ground.pki.root)
    with (
        source(100, str(ground.host)) as target,
        to_us(ground, target.address, wiring=Wiring(envoy={"identity": identity}, options=TELLING)) as pair,
    ):
        assert_refused(pair, target, "no roots for trust domain other.local")
        assert_told(pair, "UNKNOWN_CA")


def test_an_envoy_client_without_a_certificate_is_refused(ground: Ground) -> None:
    with (
        source(100, str(ground.host)) as target,
        to_us(ground, target.address, wiring=Wiring(shape=without_certificate, options=TELLING)) as pair,
    ):
        assert_refused(pair, target, "presented no certificate")
        assert_told(pair, "CERTIFICATE_REQUIRED")


@pytest.mark.parametrize("case", ODD_LEAVES)
def test_an_envoy_server_is_refused_before_a_byte_is_sent_when_its_certificate_is(case: str, ground: Ground) -> None:
    odd = ODD_LEAVES[case]
    wiring = Wiring(envoy={"identity": odd_identity(odd, ground.pki, "server")}, shape=logging_handshakes(ground))
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, odd.says)
        assert_turned_away(pair, ground)


def test_an_envoy_server_that_is_another_workload_than_expected_is_refused(ground: Ground) -> None:
    wiring = Wiring(envoy={"identity": ground.pki.identity("shop", "other")}, shape=logging_handshakes(ground))
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, f"expected {ground.pki.spiffe_id('server')}")
        assert_turned_away(pair, ground)


def test_an_envoy_server_whose_certificate_is_for_clients_only_is_refused(ground: Ground) -> None:
    identity = ground.pki.odd(ground.pki.spiffe_id("server"), extended=(CLIENT_AUTH,))
    wiring = Wiring(envoy={"identity": identity}, shape=logging_handshakes(ground))
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "lacks serverAuth")
        assert_turned_away(pair, ground)


def test_an_envoy_server_of_an_unknown_root_is_refused_though_it_claims_the_expected_identity(
    ground: Ground, rogue_pki: MeshPki
) -> None:
    identity = replace(rogue_pki.identity("shop", "server"), root=ground.pki.root)
    wiring = Wiring(envoy={"identity": identity}, shape=logging_handshakes(ground))
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "is not trusted")
        assert_turned_away(pair, ground)


def test_an_envoy_server_of_another_trust_domain_is_refused(ground: Ground, foreign_pki: MeshPki) -> None:
    identity = replace(foreign_pki.identity("shop", "server"), root=ground.pki.root)
    wiring = Wiring(envoy={"identity": identity}, shape=logging_handshakes(ground))
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "no roots for trust domain other.local")
        assert_turned_away(pair, ground)


# --- our certificate is wrong, Envoy judges -----------------------------------------------------------------------


def test_an_envoy_that_does_not_know_our_root_is_named_in_our_line(
    opener: PairOpener, ground: Ground, rogue_pki: MeshPki
) -> None:
    wiring = Wiring(envoy_trusts=rogue_pki.root)
    with source(100, str(ground.host)) as target, opener(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "the peer refused us with the alert unknown_ca")


def test_an_envoy_client_that_expects_another_workload_turns_away_and_our_line_says_so(ground: Ground) -> None:
    wiring = Wiring(envoy={"expected": ground.pki.spiffe_id("other")})
    with source(100, str(ground.host)) as target, to_us(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "the peer refused us with the alert")


def test_an_envoy_server_for_another_trust_domain_turns_us_away_and_our_line_says_so(
    ground: Ground, foreign_pki: MeshPki
) -> None:
    wiring = Wiring(envoy={"trusted": foreign_pki.domain})
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert_refused(pair, target, "the peer refused us with the alert")


def test_an_envoy_client_turns_away_from_us_when_we_are_of_another_trust_domain(
    ground: Ground, foreign_pki: MeshPki
) -> None:
    with (
        source(100, str(ground.host)) as target,
        to_us(ground, target.address, wiring=Wiring(node_pki=foreign_pki)) as pair,
    ):
        assert_refused(pair, target, "the peer refused us with the alert unknown_ca")


def test_after_a_refusal_a_right_peer_is_served_at_once(ground: Ground, rogue_pki: MeshPki) -> None:
    wrong = Wiring(envoy={"identity": replace(rogue_pki.identity("shop", "server"), root=ground.pki.root)})
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wrong) as pair:
        assert fetch(pair.entry).reset
        pair.envoy.stop()
        pair.envoy.replace(identity=ground.pki.identity("shop", "server"))
        pair.envoy.start()
        assert fetch(pair.entry).received == 100


# --- Envoy's side of it -------------------------------------------------------------------------------------------


def without_certificate(document: Settings) -> Settings:
    for tls in found(document, "common_tls_context"):
        del tls["tls_certificates"]
    return document


def logging_handshakes(ground: Ground) -> Callable[[Settings], Settings]:
    """An Envoy server logs requests only; with this also connections that never got to one."""

    def shape(document: Settings) -> Settings:
        line = {"text_format_source": {"inline_string": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n"}}
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        config = {"@type": kind, "path": str(ground.directory / "handshakes.log"), "log_format": line}
        log = {"name": "envoy.access_loggers.file", "typed_config": config}
        for resources in found({"all": document}, "static_resources"):
            for listener in resources["listeners"]:
                listener["access_log"] = [log]
        return document

    return shape
