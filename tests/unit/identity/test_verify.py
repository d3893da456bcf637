"""The judgement of a peer: SPIFFE's rules for leaves and trust domains, RFC 5280's for paths."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.errors import PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.verify import (
    BrokenChain,
    Expired,
    ForeignTrustDomain,
    NoCertificate,
    NotAnSvid,
    NotYetValid,
    PeerSide,
    UnexpectedIdentity,
    UntrustedRoot,
    WrongUsage,
    verify_peer,
)
from hbone.times import WallTime
from tests.support.pki import AUTHORITY, Sheet, SpiffeCA, new_key, wall_now

A, B = TrustDomain("a.test"), TrustDomain("b.test")
CART, BANK = "spiffe://a.test/ns/shop/sa/cart", "spiffe://b.test/ns/bank/sa/ledger"
ROOT_A, ROOT_B = SpiffeCA(name="root a"), SpiffeCA(name="root b")
MIDDLE = ROOT_A.intermediate()
BUNDLE = TrustBundle(roots={A: (ROOT_A.cert,), B: (ROOT_B.cert,)})


def judge(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle = BUNDLE,
    *,
    expected: frozenset[SpiffeId] | None = None,
    side: PeerSide = PeerSide.CLIENT,
    later_s: float = 0,
) -> str:
    now = WallTime(wall_now() + later_s)
    return str(verify_peer(chain, bundle, expected=expected, side=side, now=now))


def leaf(by: SpiffeCA = MIDDLE, key: Any = None, **fields: Any) -> tuple[x509.Certificate, ...]:
    return (by.sign(replace(Sheet(uris=(CART,)), **fields), key or new_key()), *by.above())


def refusal(kind: type[PeerRejected], *arguments: Any, **more: Any) -> PeerRejected:
    """The error, which must be of exactly this class, printable and with a remedy or reason."""
    with pytest.raises(PeerRejected) as caught:
        judge(*arguments, **more)
    assert type(caught.value) is kind, caught.value
    assert caught.value.why or caught.value.fix
    assert str(caught.value).isprintable()
    return caught.value


# --- accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", PeerSide)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dns": ("cart.shop",)},
        {"san_critical": False, "subject": "x"},
        {"usage": None},
        {"extended": None},
        {"ca": None},
    ],
)
def test_a_good_chain_proves_its_identity(fields: dict[str, Any], side: PeerSide) -> None:
    assert judge(leaf(**fields), side=side) == CART


def test_a_leaf_right_below_the_root_is_accepted() -> None:
    assert judge(leaf(ROOT_A)) == CART


def test_an_rsa_leaf_is_accepted() -> None:
    assert judge(leaf(key=rsa.generate_private_key(65537, 2048))) == CART


def test_a_client_may_have_a_certificate_for_clients_only() -> None:
    chain = leaf(extended=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    assert judge(chain, side=PeerSide.CLIENT) == CART
    assert "serverAuth" in refusal(WrongUsage, chain, side=PeerSide.SERVER).why


def test_a_root_among_the_intermediates_does_not_disturb() -> None:
    assert judge((*leaf(), ROOT_A.cert)) == CART


def test_surplus_and_disordered_certificates_do_not_disturb() -> None:
    first, *above = leaf(MIDDLE.intermediate("lower"))
    assert judge((first, ROOT_B.cert, *reversed(above))) == CART


def test_cas_without_key_identifiers_or_usage_are_accepted() -> None:
    bare = replace(AUTHORITY, key_identifiers=False, usage=None)
    root = SpiffeCA(name="bare", sheet=bare)
    chain = leaf(root.intermediate(sheet=bare), key_identifiers=False)
    assert judge(chain, root.bundle("a.test")) == CART


def test_an_intermediate_may_be_the_anchor() -> None:
    assert judge(leaf()[:1], TrustBundle.of(A, [MIDDLE.cert])) == CART


def test_during_a_root_rotation_leaves_of_both_roots_are_accepted() -> None:
    new = SpiffeCA(name="root a")
    both = TrustBundle.of(A, [ROOT_A.cert, new.cert])
    assert judge(leaf(), both) == CART
    assert judge(leaf(new), both) == CART


def test_a_root_renewed_with_the_same_key_vouches_for_old_leaves() -> None:
    again = SpiffeCA(name="root a", key=ROOT_A.key)
    assert judge(leaf(), again.bundle("a.test")) == CART


def test_a_cross_signed_root_leads_to_the_old_one() -> None:
    new = SpiffeCA(name="new root")
    cross = SpiffeCA(name="new root", key=new.key, parent=ROOT_A)
    assert judge((*leaf(new), cross.cert)) == CART


# --- the leaf -----------------------------------------------------------------------------------------------


def test_no_certificate_is_refused() -> None:
    assert refusal(NoCertificate, ()).alert == 116


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"uris": ()}, "no SPIFFE ID"),
        ({"uris": (CART, "spiffe://a.test/ns/shop/sa/admin")}, "2 URI names"),
        ({"uris": ("spiffe://a.test",)}, "whole trust domain"),
        ({"uris": ("https://a.test/x",)}, "not a SPIFFE ID"),
        ({"ca": True}, "CA certificate"),
        ({"usage": ("digital_signature", "key_cert_sign")}, "keyCertSign"),
        ({"usage": ("digital_signature", "crl_sign")}, "cRLSign"),
        ({"usage": ("key_agreement",)}, "digitalSignature"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "1024 bits"),
    ],
)
def test_a_leaf_that_is_no_svid_is_refused(fields: dict[str, Any], said: str) -> None:
    error = refusal(NotAnSvid, leaf(**fields))
    assert error.alert == 42
    assert said in str(error)


@pytest.mark.parametrize("side", PeerSide)
def test_a_leaf_for_anything_or_for_mail_is_not_for_tls(side: PeerSide) -> None:
    for usage in (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.EMAIL_PROTECTION):
        assert refusal(WrongUsage, leaf(extended=(usage,)), side=side).alert == 43


# --- trust domains ------------------------------------------------------------------------------------------


def test_a_domain_without_roots_here_is_foreign() -> None:
    error = refusal(ForeignTrustDomain, leaf(uris=("spiffe://c.test/x",)))
    assert error.alert == 48
    assert "a.test, b.test" in error.why


def test_a_domain_whose_roots_were_all_withdrawn_is_refused() -> None:
    refusal(ForeignTrustDomain, leaf(), TrustBundle(roots={A: ()}))


def test_a_root_of_one_domain_never_vouches_for_another() -> None:
    error = refusal(UntrustedRoot, leaf(MIDDLE, uris=(BANK,)))
    assert error.alert == 48
    assert "signed by a root of a.test" in error.why
    refusal(UntrustedRoot, leaf(ROOT_B))


def test_a_foreign_root_that_is_presented_along_counts_for_nothing() -> None:
    refusal(UntrustedRoot, (*leaf(MIDDLE, uris=(BANK,)), ROOT_A.cert, ROOT_B.cert))


def test_a_root_with_a_foreign_domains_name_counts_for_nothing() -> None:
    impostor = SpiffeCA(name="root b")
    error = refusal(UntrustedRoot, leaf(impostor, uris=(BANK,)))
    assert "has another key" in error.why


def test_one_root_in_two_bundles_vouches_for_both_domains() -> None:
    shared = TrustBundle(roots={A: (ROOT_A.cert,), B: (ROOT_A.cert,)})
    assert judge(leaf(uris=(BANK,)), shared) == BANK


def test_a_same_key_root_of_another_domain_is_no_root_of_this_one() -> None:
    twin = SpiffeCA(name="other name", key=ROOT_A.key)
    refusal(UntrustedRoot, leaf(), TrustBundle(roots={A: (ROOT_B.cert,), B: (twin.cert, ROOT_A.cert)}))


# --- paths --------------------------------------------------------------------------------------------------


def test_a_self_made_leaf_is_refused() -> None:
    refusal(UntrustedRoot, leaf(SpiffeCA(name="nobody")))


def test_a_missing_intermediate_is_named() -> None:
    error = refusal(UntrustedRoot, leaf()[:1])
    assert "O=middle" in error.why
    assert "intermediates" in error.fix


def test_a_leaf_in_the_bundle_is_no_root() -> None:
    chain = leaf()
    assert "its own root" in str(refusal(UntrustedRoot, chain[:1], TrustBundle.of(A, [chain[0]])))


def test_a_workload_cannot_sign_for_others() -> None:
    key = new_key()
    workload = SpiffeCA(name="evil", key=key, parent=MIDDLE, sheet=Sheet(uris=(CART,), subject="evil"))
    refusal(BrokenChain, leaf(workload, uris=("spiffe://a.test/ns/shop/sa/admin",)))


@pytest.mark.parametrize(
    "sheet",
    [
        replace(AUTHORITY, ca=None),
        replace(AUTHORITY, usage=("crl_sign",)),
        replace(
            AUTHORITY,
            more=(
                x509.Extension(
                    x509.ObjectIdentifier("1.2.3"),
                    True,
                    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
                ),
            ),
        ),
    ],
    ids=["no CA flag", "no keyCertSign", "unknown critical extension"],
)
def test_an_intermediate_that_may_not_sign_breaks_the_chain(sheet: Sheet) -> None:
    refusal(BrokenChain, leaf(ROOT_A.intermediate(sheet=sheet)))


def test_path_lengths_are_kept() -> None:
    narrow = ROOT_A.intermediate(sheet=replace(AUTHORITY, path_length=0))
    assert judge(leaf(narrow)) == CART
    refusal(BrokenChain, leaf(narrow.intermediate("below")))


def test_name_constraints_are_kept() -> None:
    only = x509.NameConstraints(permitted_subtrees=[x509.DNSName("good.test")], excluded_subtrees=None)
    limited = ROOT_A.intermediate(sheet=replace(AUTHORITY, more=(x509.Extension(only.oid, True, only),)))
    assert judge(leaf(limited, dns=("x.good.test",))) == CART
    refusal(BrokenChain, leaf(limited, dns=("x.evil.test",)))


def test_a_chain_longer_than_any_mesh_needs_is_refused() -> None:
    refusal(BrokenChain, (*leaf(), *[ROOT_A.cert] * 9))


# --- time ---------------------------------------------------------------------------------------------------


def test_an_ended_leaf_is_refused_with_both_times() -> None:
    error = refusal(Expired, leaf(), later_s=3700)
    assert error.alert == 45
    assert f"the certificate of {CART} ended at" in error.what
    assert "it is" in error.why


def test_a_leaf_from_the_future_is_refused() -> None:
    error = refusal(NotYetValid, leaf(), later_s=-120)
    assert error.alert == 42
    assert "clocks" in error.fix


def test_an_ended_intermediate_is_named() -> None:
    chain = leaf(ROOT_A.intermediate("short", sheet=replace(AUTHORITY, ends_h=0.1)))
    assert "the issuer O=short ended" in refusal(Expired, chain, later_s=600).what


def test_an_ended_root_is_named_and_another_one_helps() -> None:
    old = SpiffeCA(name="old", sheet=replace(AUTHORITY, ends_h=0.1))
    chain = leaf(old, ends_h=1)
    assert "the issuer O=old ended" in refusal(Expired, chain, old.bundle("a.test"), later_s=600).what
    renewed = SpiffeCA(name="old", key=old.key)
    assert judge(chain, TrustBundle.of(A, [old.cert, renewed.cert]), later_s=600) == CART


# --- the wanted identity ------------------------------------------------------------------------------------


def test_only_an_expected_identity_is_accepted() -> None:
    cart, other = SpiffeId.parse(CART), SpiffeId.parse("spiffe://a.test/ns/shop/sa/till")
    assert judge(leaf(), expected=frozenset({other, cart})) == CART
    error = refusal(UnexpectedIdentity, leaf(), expected=frozenset({other}))
    assert error.alert == 46
    assert f"{error}".count("spiffe://") == 2


def test_an_empty_expectation_accepts_nobody() -> None:
    assert "nobody" in refusal(UnexpectedIdentity, leaf(), expected=frozenset()).why


def test_a_long_expectation_is_shortened() -> None:
    many = frozenset(SpiffeId.parse(f"spiffe://a.test/w{number}") for number in range(9))
    assert "6 more" in refusal(UnexpectedIdentity, leaf(), expected=many).why


def test_an_expected_identity_is_accepted_under_another_name_of_its_mesh() -> None:
    cart, web = SpiffeId.parse(CART), SpiffeId.parse("spiffe://a.test/ns/shop/sa/web")
    old = SpiffeId(TrustDomain("old.test"), cart.path)
    renamed = TrustBundle.of(A, [ROOT_A.cert]).naming([(old.trust_domain, A)])
    chain = leaf(uris=(str(old),))
    assert judge(chain, renamed, expected=frozenset({cart})) == str(old)
    refusal(UnexpectedIdentity, chain, renamed, expected=frozenset({web}))
    refusal(ForeignTrustDomain, chain, expected=frozenset({cart}))


# --- anything -----------------------------------------------------------------------------------------------

CHAIN = leaf()
DER = [certificate.public_bytes(Encoding.DER) for certificate in CHAIN]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1), st.integers(0, 10_000), st.integers(0, 255))
def test_one_changed_byte_never_passes_and_never_raises_anything_else(which: int, place: int, value: int) -> None:
    raw = bytearray(DER[which])
    place %= len(raw)
    if raw[place] == value:
        return
    raw[place] = value
    try:
        changed = x509.load_der_x509_certificate(bytes(raw))
    except (ValueError, x509.InvalidVersion, UserWarning):
        return  # OpenSSL would not have let it come so far
    if (changed.tbs_certificate_bytes, changed.signature) == (
        CHAIN[which].tbs_certificate_bytes,
        CHAIN[which].signature,
    ):
        return  # another spelling around the same statement and signature (a bit string's count of unused bits)
    chain = (changed, CHAIN[1]) if which == 0 else (CHAIN[0], changed)
    with pytest.raises(PeerRejected):
        judge(chain)
