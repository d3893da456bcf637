"""What is revoked stays revoked, however its certificate is dressed up."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.crl import RevokedSerial, sign_crl
from hbone.identity.bundle import TrustBundle
from hbone.identity.revocation import Revocations, RevokedIdentity, key_hash
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import wall_time
from hbone.identity.verify import PeerSide, Revoked, verify_peer
from hbone.times import WallTime
from tests.support.pki import Sheet, SpiffeCA, new_key, wall_now

CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
WEB = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
ROOT = SpiffeCA("root")
CA = ROOT.intermediate("middle")
KEY = new_key()
LEAF = CA.sign(Sheet(uris=(str(CART),)), KEY)
CHAIN = (LEAF, CA.cert)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def listed(*serials: int, reason: str = "keyCompromise") -> Revocations:
    entries = [RevokedSerial(serial=serial, at=wall_now(), reason=reason) for serial in serials]
    return Revocations.from_crls([sign_crl((CA.cert, CA.key), entries, number=1, now=wall_now())])


def reencoded(certificate: x509.Certificate) -> x509.Certificate:
    """The same certificate with the other of the two signatures that ECDSA allows: (r, n - s) for (r, s)."""
    der, signature = certificate.public_bytes(Encoding.DER), certificate.signature
    r, s = decode_dss_signature(signature)
    other = encode_dss_signature(r, P256_ORDER - s)
    tbs = certificate.tbs_certificate_bytes
    start = der.index(tbs)
    algorithm = der[start + len(tbs) : der.index(signature) - 3]  # then: BIT STRING, its length, no unused bits
    bits = b"\x03" + bytes([len(other) + 1]) + b"\x00" + other
    body = tbs + algorithm + bits
    return x509.load_der_x509_certificate(b"\x30\x82" + len(body).to_bytes(2, "big") + body)


def judge(chain: tuple[x509.Certificate, ...], revocations: Revocations) -> SpiffeId:
    bundle = TrustBundle.of(CART.trust_domain, [ROOT.cert]).revoking(revocations)
    return verify_peer(chain, bundle, expected=None, side=PeerSide.CLIENT, now=wall_now())


def test_nothing_is_revoked_by_default() -> None:
    assert not Revocations()
    assert len(Revocations()) == 0
    assert Revocations().is_revoked(CHAIN) is None
    assert judge(CHAIN, Revocations()) == CART


def test_a_listed_serial_number_of_the_same_issuer_is_revoked_with_its_reason() -> None:
    with pytest.raises(
        Revoked, match=f"certificate {LEAF.serial_number:x} was revoked, reason keyCompromise"
    ) as caught:
        judge(CHAIN, listed(LEAF.serial_number))
    assert caught.value.alert == 44
    assert judge(CHAIN, listed(LEAF.serial_number + 1)) == CART


def test_the_same_serial_number_of_another_issuer_is_not_meant() -> None:
    other = ROOT.intermediate("other")
    entries = [RevokedSerial(serial=LEAF.serial_number, at=wall_now())]
    elsewhere = Revocations.from_crls([sign_crl((other.cert, other.key), entries, number=1, now=wall_now())])
    assert judge(CHAIN, elsewhere) == CART


def test_another_encoding_of_the_signature_changes_nothing() -> None:
    disguised = reencoded(LEAF)
    assert disguised != LEAF
    assert judge((disguised, CA.cert), Revocations()) == CART, "it is valid"
    for revocations in (listed(LEAF.serial_number), Revocations(keys={key_hash(LEAF): "unspecified"})):
        with pytest.raises(Revoked):
            judge((disguised, CA.cert), revocations)


def test_a_certificate_that_is_issued_again_for_a_revoked_key_is_revoked() -> None:
    revocations = Revocations(keys={key_hash(LEAF): "keyCompromise"})
    for again in (CA.sign(Sheet(uris=(str(CART),)), KEY), CA.sign(Sheet(uris=(str(WEB),)), KEY)):
        assert again.serial_number != LEAF.serial_number
        with pytest.raises(Revoked, match=f"the key {key_hash(LEAF).hex()}"):
            judge((again, CA.cert), revocations)
    assert judge((CA.sign(Sheet(uris=(str(CART),)), new_key()), CA.cert), revocations) == CART


def test_a_revoked_identity_has_no_good_certificate_and_others_do() -> None:
    revocations = Revocations(identities={CART: RevokedIdentity(reason="superseded")})
    with pytest.raises(Revoked, match=f"the identity {CART} was revoked, reason superseded"):
        judge(CHAIN, revocations)
    assert judge((CA.sign(Sheet(uris=(str(WEB),)), KEY), CA.cert), revocations) == WEB


@pytest.mark.parametrize(("offset", "good"), [(0, True), (-1, True), (1, False)])
def test_of_a_restored_identity_only_older_certificates_are_revoked(offset: int, good: bool) -> None:
    before = WallTime(wall_time(LEAF.not_valid_before_utc) + offset)
    found = Revocations(identities={CART: RevokedIdentity(before=before)}).is_revoked(CHAIN)
    assert (found is None) is good


def test_a_revoked_ca_takes_everything_below_it_along() -> None:
    with pytest.raises(Revoked):
        judge(CHAIN, Revocations(keys={key_hash(CA.cert): "cACompromise"}))
    entries = [RevokedSerial(serial=CA.cert.serial_number, at=wall_now())]
    by_root = Revocations.from_crls([sign_crl((ROOT.cert, ROOT.key), entries, number=1, now=wall_now())])
    with pytest.raises(Revoked):
        judge(CHAIN, by_root)


def test_what_either_of_two_says_holds_together() -> None:
    key = Revocations(keys={bytes(32): "unspecified"})
    identity = Revocations(identities={WEB: RevokedIdentity()})
    both = listed(1).merged(listed(2)).merged(key).merged(identity)
    assert len(both) == 4
    assert both.keys == key.keys
    assert both.identities == identity.identities
    assert bool(both)


def test_bundles_keep_revocations_through_their_changes() -> None:
    revocations = Revocations(keys={bytes(32): "unspecified"})
    bundle = TrustBundle.of(CART.trust_domain, [ROOT.cert]).revoking(revocations)
    assert bundle.replaced(CART.trust_domain, []).revocations == revocations
    assert bundle.without(CART.trust_domain).revocations == revocations
    assert TrustBundle(roots={}).merged(bundle) == bundle
    assert bundle != TrustBundle.of(CART.trust_domain, [ROOT.cert])


def test_a_leaf_that_is_no_svid_is_judged_by_its_serial_number_and_key() -> None:
    nameless = CA.sign(Sheet(subject="x"), KEY)
    revocations = Revocations(identities={CART: RevokedIdentity()})
    assert revocations.is_revoked([nameless]) is None
    assert revocations.is_revoked([]) is None
    assert Revocations(keys={key_hash(nameless): "x"}).is_revoked([nameless]) is not None
