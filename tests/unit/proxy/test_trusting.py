"""Tunnels judged again: which end, which take no more streams, which go on."""

from dataclasses import dataclass
from typing import cast

import pytest
from cryptography import x509

from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.verify import ForeignTrustDomain
from hbone.net.tls import TlsStream
from hbone.proxy.trusting import distrust, outgrown
from tests.support.pki import SpiffeCA

X, Y = TrustDomain("x.test"), TrustDomain("y.test")
OURS, THEIRS = SpiffeCA(name="x"), SpiffeCA(name="y")
BOTH = TrustBundle(roots={X: (OURS.cert,), Y: (THEIRS.cert,)})
OLD_NAME = OURS.intermediate().svid("spiffe://old.test/ns/a/sa/s")
OUR_OWN = OURS.intermediate().svid("spiffe://x.test/ns/a/sa/s")
PARTNER = THEIRS.intermediate().svid("spiffe://y.test/ns/a/sa/s")


@dataclass(frozen=True)
class Opened:
    """What is looked at of a tunnel's TLS."""

    peer: SpiffeId
    peer_chain: tuple[x509.Certificate, ...]


def tunnel(spiffe_id: str, *chain: x509.Certificate) -> TlsStream:
    return cast("TlsStream", Opened(SpiffeId.parse(spiffe_id), chain))


def test_a_tunnel_of_a_trust_domain_that_is_gone_ends() -> None:
    theirs = tunnel("spiffe://y.test/ns/a/sa/s", *PARTNER.chain)
    assert distrust(theirs, BOTH) is None
    error = distrust(theirs, BOTH.without(Y))
    assert isinstance(error, ForeignTrustDomain)
    assert not outgrown(theirs, BOTH.without(Y), error)


def test_a_tunnel_under_a_name_that_our_mesh_had_is_outgrown() -> None:
    old = tunnel("spiffe://old.test/ns/a/sa/s", *OLD_NAME.chain)
    assert distrust(old, BOTH.naming([(TrustDomain("old.test"), X)])) is None
    error = distrust(old, BOTH)
    assert error is not None
    assert outgrown(old, BOTH, error)


@pytest.mark.parametrize("extra", [OUR_OWN.chain, (OURS.cert,), OUR_OWN.chain[1:]])
def test_certificates_of_ours_that_a_foreign_peer_presents_along_do_not_keep_its_tunnel(
    extra: tuple[x509.Certificate, ...],
) -> None:
    theirs = tunnel("spiffe://y.test/ns/a/sa/s", *PARTNER.chain, *extra)
    error = distrust(theirs, BOTH.without(Y))
    assert error is not None
    assert not outgrown(theirs, BOTH.without(Y), error)
