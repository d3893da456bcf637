"""What the authority signs, and what it does not."""

import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hbone.ca.authority import AuthorityEnded, CaKeys, CertificateAuthority
from hbone.ca.csr import InvalidRequest
from hbone.ca.profile import CLOCK_SKEW_S, MAX_TTL_S, ROOT_TTL_S, new_serial
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import X509Svid, leaf_faults
from hbone.identity.verify import PeerSide, verify_peer
from hbone.times import WallTime
from tests.support.pki import new_key

DOMAIN = TrustDomain("cluster.local")
CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
NOW = WallTime(1_800_000_000)
DAY_S = 86400.0
KEY = new_key()


def authority(now: WallTime = NOW, keys: CaKeys | None = None) -> CertificateAuthority:
    return CertificateAuthority.create(
        DOMAIN, keys or CaKeys(root=new_key(), intermediate=new_key()), now=now, rng=random.Random(7)
    )


CA = authority()


def issue(ca: CertificateAuthority = CA, *, spiffe_id: SpiffeId = CART, key: Any = KEY, **more: Any) -> Any:
    wishes: dict[str, Any] = {"ttl_s": DAY_S, "now": NOW, "serial": 77, **more}
    return ca.issue(key.public_key(), spiffe_id, **wishes)


def extension(certificate: x509.Certificate, kind: Any) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


def test_a_new_authority_is_a_root_over_an_intermediate() -> None:
    (root,) = CA.roots
    assert CA.chain == (CA.signer,)
    for certificate, limit in ((root, 1), (CA.signer, 0)):
        constraints = extension(certificate, x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, limit)
        usage = extension(certificate, x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
        extension(certificate, x509.SubjectKeyIdentifier)
    CA.signer.verify_directly_issued_by(root)
    key_id = extension(root, x509.SubjectKeyIdentifier).value.digest
    assert extension(CA.signer, x509.AuthorityKeyIdentifier).value.key_identifier == key_id
    assert root.not_valid_after_utc == CA.signer.not_valid_after_utc
    assert CA.not_after == NOW + ROOT_TTL_S
    assert CA.bundle.roots == {DOMAIN: (root,)}


def test_two_authorities_never_have_the_same_names() -> None:
    other = CertificateAuthority.create(
        DOMAIN, CaKeys(root=new_key(), intermediate=new_key()), now=NOW, rng=random.Random(8)
    )
    assert other.roots[0].subject != CA.roots[0].subject
    assert other.signer.subject != CA.signer.subject


def test_a_workloads_certificate_follows_the_standard() -> None:
    leaf = issue().certificate
    assert leaf_faults(leaf) == ()
    assert leaf.subject == x509.Name([])
    assert leaf.serial_number == 77
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(str(CART))]
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_encipherment
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not extension(leaf, x509.BasicConstraints).value.ca
    signer_id = extension(CA.signer, x509.SubjectKeyIdentifier).value.digest
    assert extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == signer_id


def test_an_rsa_key_may_also_encipher_and_gets_a_signature_all_the_same() -> None:
    leaf = issue(key=rsa.generate_private_key(65537, 2048)).certificate
    assert extension(leaf, x509.KeyUsage).value.key_encipherment


@pytest.mark.parametrize("side", PeerSide)
def test_peers_accept_what_was_issued(side: PeerSide) -> None:
    svid = X509Svid.of(issue().chain, KEY)
    assert verify_peer(svid.chain, CA.bundle, expected=frozenset({CART}), side=side, now=NOW) == CART


def test_it_is_valid_from_two_minutes_ago_for_as_long_as_asked() -> None:
    svid = X509Svid.of(issue(ttl_s=3600.0).chain, KEY)
    assert svid.not_before == NOW - CLOCK_SKEW_S
    assert svid.not_after == NOW + 3600


@pytest.mark.parametrize("ttl_s", [0.0, -5.0])
def test_no_wish_means_a_day(ttl_s: float) -> None:
    assert issue(ttl_s=ttl_s).certificate.not_valid_after_utc.timestamp() == NOW + DAY_S


def test_nothing_outlives_its_signer() -> None:
    late = WallTime(CA.not_after - 3600)
    assert issue(now=late).certificate.not_valid_after_utc.timestamp() == CA.not_after
    with pytest.raises(AuthorityEnded, match="has ended"):
        issue(now=CA.not_after)


@pytest.mark.parametrize(
    ("spiffe_id", "ttl_s", "said"),
    [
        ("spiffe://other.test/ns/shop/sa/cart", DAY_S, "not of trust domain"),
        ("spiffe://cluster.local", DAY_S, "names no workload"),
        (str(CART), MAX_TTL_S + 1, "too long"),
    ],
)
def test_what_is_out_of_bounds_is_refused(spiffe_id: str, ttl_s: float, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        issue(spiffe_id=SpiffeId.parse(spiffe_id), ttl_s=ttl_s)


def test_the_response_is_leaf_then_intermediates_then_all_roots_in_one() -> None:
    both = CertificateAuthority(
        trust_domain=DOMAIN,
        signer=CA.signer,
        key=CA.key,
        chain=CA.chain,
        roots=(*CA.roots, authority(keys=CaKeys(root=new_key(), intermediate=new_key())).roots[0]),
    )
    answer = issue(both).response()
    assert [text.count("BEGIN CERTIFICATE") for text in answer] == [1, 1, 2]
    assert all(text.endswith("-----END CERTIFICATE-----\n") for text in answer)


def test_a_root_may_sign_itself_and_then_the_response_is_leaf_and_root() -> None:
    keys = CaKeys(root=new_key(), intermediate=new_key())
    ca = authority(keys=keys)
    alone = CertificateAuthority(trust_domain=DOMAIN, signer=ca.roots[0], key=keys.root, chain=(), roots=ca.roots)
    issued = issue(alone)
    assert len(issued.response()) == 2
    assert verify_peer(issued.chain, ca.bundle, expected=None, side=PeerSide.CLIENT, now=NOW) == CART


@pytest.mark.parametrize(
    "make", [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: rsa.generate_private_key(65537, 2048)]
)
def test_authorities_of_other_keys_sign_too(make: Any) -> None:
    ca = authority(keys=CaKeys(root=make(), intermediate=make()))
    chain = issue(ca).chain
    assert verify_peer(chain, ca.bundle, expected=None, side=PeerSide.SERVER, now=NOW) == CART


def test_no_key_in_any_text() -> None:
    assert "key" not in repr(CA)
    assert "key" not in repr(CaKeys(root=KEY, intermediate=KEY))


def test_serial_numbers_are_positive_and_of_sixteen_bytes_at_most() -> None:
    rng = random.Random(3)
    for _ in range(100):
        assert 0 < new_serial(rng) < 1 << 127
    zero = random.Random()
    zero.getrandbits = lambda _: 0  # type: ignore[method-assign] # the one value that chance practically never gives
    assert new_serial(zero) == 1
