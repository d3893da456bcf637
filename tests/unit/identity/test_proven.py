"""What is remembered of a peer that was accepted: it spares signatures, and changes no answer."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hbone.errors import PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.proven import KnownChain, KnownChains, ProvenPath
from hbone.identity.revocation import Revocations, RevokedIdentity, key_hash
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.verify import (
    Expired,
    ForeignTrustDomain,
    Judged,
    NotYetValid,
    PeerSide,
    Revoked,
    UnexpectedIdentity,
    UntrustedRoot,
    WrongUsage,
    judge_peer,
)
from hbone.times import WallTime
from tests.support.pki import Sheet, SpiffeCA, new_key, wall_now

A, B = TrustDomain("a.test"), TrustDomain("b.test")
CART = "spiffe://a.test/ns/shop/sa/cart"
ROOT = SpiffeCA(name="root a")
MIDDLE = ROOT.intermediate()
KEY = new_key()
LEAF = MIDDLE.sign(Sheet(uris=(CART,)), KEY)
CHAIN = (LEAF, MIDDLE.cert)
BUNDLE = ROOT.bundle("a.test")
HOUR_S = 3600.0


def judged(
    bundle: TrustBundle = BUNDLE,
    chain: Sequence[x509.Certificate] = CHAIN,
    *,
    proven: ProvenPath | None = None,
    later_s: float = 0,
    side: PeerSide = PeerSide.CLIENT,
    expected: frozenset[SpiffeId] | None = None,
) -> Judged:
    now = WallTime(wall_now() + later_s)
    return judge_peer(chain, bundle, expected=expected, side=side, now=now, proven=proven)


PROVEN = judged().path


def test_a_peer_that_comes_back_is_proven_by_the_path_it_had() -> None:
    assert PROVEN.certificates == (LEAF, MIDDLE.cert, ROOT.cert)
    again = judged(proven=PROVEN)
    assert again.path is PROVEN
    assert str(again.spiffe_id) == CART


def test_one_that_expired_since_is_refused() -> None:
    with pytest.raises(Expired, match="ended at"):
        judged(proven=PROVEN, later_s=2 * HOUR_S)


def test_one_whose_intermediate_expired_since_is_refused() -> None:
    short = ROOT.intermediate(sheet=replace(MIDDLE.sheet, ends_h=1))
    chain = (short.sign(Sheet(uris=(CART,), ends_h=5), new_key()), short.cert)
    proven = judged(chain=chain).path
    with pytest.raises(Expired, match="the issuer O=middle"):
        judged(chain=chain, proven=proven, later_s=2 * HOUR_S)


def test_one_that_is_not_yet_valid_after_the_clock_was_set_back_is_refused() -> None:
    with pytest.raises(NotYetValid):
        judged(proven=PROVEN, later_s=-HOUR_S)


@pytest.mark.parametrize(
    "revocations",
    [
        Revocations(serials={LEAF.issuer.public_bytes(): {LEAF.serial_number: "keyCompromise"}}),
        Revocations(serials={MIDDLE.cert.issuer.public_bytes(): {MIDDLE.cert.serial_number: "cACompromise"}}),
        Revocations(keys={key_hash(LEAF): "keyCompromise"}),
        Revocations(identities={SpiffeId.parse(CART): RevokedIdentity()}),
    ],
    ids=["the leaf", "the intermediate", "the key", "the identity"],
)
def test_one_that_was_revoked_since_is_refused(revocations: Revocations) -> None:
    with pytest.raises(Revoked):
        judged(BUNDLE.revoking(revocations), proven=PROVEN)


def test_one_whose_root_was_removed_since_is_refused() -> None:
    with pytest.raises(UntrustedRoot):
        judged(SpiffeCA(name="root a").bundle("a.test"), proven=PROVEN)
    with pytest.raises(ForeignTrustDomain):
        judged(ROOT.bundle("b.test"), proven=PROVEN)
    with pytest.raises(ForeignTrustDomain):
        judged(TrustBundle(roots={A: ()}), proven=PROVEN)


def test_a_root_that_only_another_domain_has_now_does_not_count() -> None:
    other = SpiffeCA(name="root b")
    with pytest.raises(UntrustedRoot):
        judged(TrustBundle(roots={A: (other.cert,), B: (ROOT.cert,)}), proven=PROVEN)


def test_one_whose_root_was_renewed_is_proven_anew_by_the_new_one() -> None:
    renewed = SpiffeCA(name="root a", key=ROOT.key)
    again = judged(renewed.bundle("a.test"), proven=PROVEN)
    assert again.path.certificates[-1] == renewed.cert != ROOT.cert


def test_who_is_expected_and_on_which_side_is_asked_each_time() -> None:
    with pytest.raises(UnexpectedIdentity):
        judged(proven=PROVEN, expected=frozenset())
    chain = (MIDDLE.sign(Sheet(uris=(CART,), extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)), new_key()), MIDDLE.cert)
    proven = judged(chain=chain).path
    with pytest.raises(WrongUsage):
        judged(chain=chain, proven=proven, side=PeerSide.SERVER)


# --- the memory ---------------------------------------------------------------------------------------------


def der(chain: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in chain)


KNOWN = KnownChain(CHAIN, PROVEN)


def test_a_chain_is_found_by_exactly_its_bytes() -> None:
    memory = KnownChains()
    memory.keep(der(CHAIN), KNOWN)
    assert memory.find(der(CHAIN)) is KNOWN
    same_key = (MIDDLE.sign(Sheet(uris=(CART,)), KEY), MIDDLE.cert)
    other_middle = (LEAF, ROOT.intermediate().cert)
    changed = bytearray(der(CHAIN))
    changed[-1] ^= 1
    for other in (der(same_key), der(other_middle), der(CHAIN[:1]), bytes(changed)):
        assert memory.find(other) is None


def test_the_chain_not_used_for_longest_makes_room() -> None:
    memory = KnownChains(max_chains=2)
    for name in (b"a", b"b"):
        memory.keep(name, KNOWN)
    memory.find(b"a")
    memory.keep(b"c", KNOWN)
    assert (len(memory), memory.find(b"b"), memory.find(b"a")) == (2, None, KNOWN)


def test_the_bytes_of_all_chains_are_bounded() -> None:
    memory = KnownChains(max_der_bytes=100)
    for number in range(50):
        memory.keep(bytes([number]) * 30, KNOWN)
        assert memory.der_bytes == 30 * len(memory) <= 100
    memory.keep(b"x" * 101, KNOWN)
    assert (len(memory), memory.der_bytes) == (0, 0)


def test_a_chain_kept_twice_counts_once() -> None:
    memory = KnownChains()
    memory.keep(b"abc", KNOWN)
    memory.keep(b"abc", KNOWN)
    assert (len(memory), memory.der_bytes) == (1, 3)


@pytest.mark.parametrize("later_s", [0, 2 * HOUR_S, -HOUR_S])
@pytest.mark.parametrize("bundle", [BUNDLE, ROOT.bundle("b.test"), SpiffeCA(name="other").bundle("a.test")])
@pytest.mark.parametrize("side", PeerSide)
def test_the_answer_is_the_same_with_and_without_what_is_remembered(
    bundle: TrustBundle, side: PeerSide, later_s: float
) -> None:
    def answer(proven: ProvenPath | None) -> str:
        try:
            return str(judged(bundle, proven=proven, side=side, later_s=later_s).spiffe_id)
        except PeerRejected as error:
            return f"{type(error).__name__}: {error.what}"

    assert answer(PROVEN) == answer(None)
