"""Which bundles of other trust domains are taken, and when the next look is (SPIFFE Federation §5)."""

from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hbone.identity.bundle import MAX_ROOTS, BundleDocument
from hbone.identity.federation import (
    DEFAULT_HINT_S,
    LONGEST_HINT_S,
    BundleRefused,
    Relations,
    check_bundle,
    interval_of,
    next_look_s,
)
from hbone.identity.jwk import Jwk, algorithms_of
from hbone.identity.revocation import key_hash
from hbone.identity.spiffe import TrustDomain
from tests.support.pki import AUTHORITY, SpiffeCA, new_key

X, Y = TrustDomain("x.test"), TrustDomain("y.test")
ROOT, NEXT = SpiffeCA(name="y").cert, SpiffeCA(name="y next").cert
NOTHING = BundleDocument(roots=())
KNOWN = BundleDocument(roots=(ROOT,), sequence=7)


def jwt_key(kid: str = "one") -> Jwk:
    key = new_key().public_key()
    return Jwk(key=key, kid=kid, algorithms=algorithms_of(key))


def root(**sheet: Any) -> x509.Certificate:
    return SpiffeCA(name="y", sheet=replace(AUTHORITY, **sheet)).cert


def test_the_first_bundle_is_taken_with_or_without_a_number() -> None:
    check_bundle(KNOWN, Y, None, {})
    check_bundle(BundleDocument(roots=(ROOT,)), Y, None, {})
    check_bundle(BundleDocument(roots=(), jwt_keys=(jwt_key(),)), Y, None, {})


@pytest.mark.parametrize(
    "found",
    [
        KNOWN,
        replace(KNOWN, refresh_hint_s=10),
        BundleDocument(roots=(ROOT, NEXT), sequence=8),
        BundleDocument(roots=(NEXT,), sequence=1 << 63),
    ],
)
def test_a_bundle_with_the_same_content_or_a_higher_number_is_taken(found: BundleDocument) -> None:
    check_bundle(found, Y, KNOWN, {})


def test_a_bundle_without_numbers_may_be_followed_by_any() -> None:
    check_bundle(BundleDocument(roots=(NEXT,)), Y, BundleDocument(roots=(ROOT,)), {})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (BundleDocument(roots=(NEXT,), sequence=6), "has the number 6: the last had 7"),
        (BundleDocument(roots=(ROOT,), sequence=6), "has the number 6: the last had 7"),
        (BundleDocument(roots=(NEXT,), sequence=7), "another one under the same number 7"),
        (BundleDocument(roots=(ROOT,), jwt_keys=(jwt_key(),), sequence=7), "another one under the same number 7"),
        (BundleDocument(roots=(ROOT,)), "has no number any more: the last had 7"),
    ],
)
def test_a_bundle_that_is_older_than_the_known_one_is_refused(found: BundleDocument, said: str) -> None:
    with pytest.raises(BundleRefused, match=said):
        check_bundle(found, Y, KNOWN, {})


def test_a_first_bundle_without_a_usable_key_is_refused() -> None:
    with pytest.raises(BundleRefused, match="holds no key that could be used"):
        check_bundle(NOTHING, Y, None, {})


def test_an_empty_bundle_after_another_revokes_everything_of_the_domain() -> None:
    check_bundle(BundleDocument(roots=(), sequence=8), Y, KNOWN, {})


def test_a_root_that_names_another_trust_domain_is_refused() -> None:
    check_bundle(BundleDocument(roots=(root(uris=("spiffe://y.test",)),)), Y, None, {})
    with pytest.raises(BundleRefused, match=r"is of x\.test"):
        check_bundle(BundleDocument(roots=(root(uris=("spiffe://x.test",)),)), Y, None, {})


def test_a_root_that_belongs_to_another_trust_domain_is_refused_however_it_is_encoded() -> None:
    ca = SpiffeCA(name="x")
    again = SpiffeCA(name="x, made anew", key=ca.key)  # another certificate of the same key
    with pytest.raises(BundleRefused, match=r"is one of x\.test"):
        check_bundle(BundleDocument(roots=(again.cert,)), Y, None, {key_hash(ca.cert): X})


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ({"ca": False}, "is no CA"),
        ({"ca": None}, "is no CA"),
        ({"uris": ("spiffe://NOT A DOMAIN",)}, "cannot be read"),
    ],
)
def test_a_certificate_that_is_no_root_is_refused(sheet: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleRefused, match=said):
        check_bundle(BundleDocument(roots=(root(**sheet),)), Y, None, {})


def test_more_roots_than_a_rotation_needs_are_refused() -> None:
    with pytest.raises(BundleRefused, match=f"{MAX_ROOTS + 1} roots"):
        many = tuple(SpiffeCA(name=str(number)).cert for number in range(MAX_ROOTS + 1))
        check_bundle(BundleDocument(roots=many), Y, None, {})


@pytest.mark.parametrize(
    ("hint", "expected"),
    [(None, DEFAULT_HINT_S), (0, DEFAULT_HINT_S), (1, 1), (60, 60), (1 << 60, LONGEST_HINT_S)],
)
def test_the_interval_is_what_the_domain_asks_for_within_reason(hint: int | None, expected: float) -> None:
    assert interval_of(replace(KNOWN, refresh_hint_s=hint)) == expected
    assert interval_of(None) == DEFAULT_HINT_S


def test_looks_are_spread_and_never_later_than_hinted() -> None:
    known = replace(KNOWN, refresh_hint_s=100)
    looks = [next_look_s(known, 0, Random(seed)) for seed in range(200)]
    assert all(90 <= look <= 100 for look in looks)
    assert max(looks) - min(looks) > 8


def test_failures_are_repeated_slower_and_slower_up_to_the_interval() -> None:
    known = replace(KNOWN, refresh_hint_s=60)
    waits = [next_look_s(known, failures, Random(1)) for failures in (1, 2, 3, 6, 7, 1000)]
    assert [round(wait / waits[0]) for wait in waits] == [1, 2, 4, 32, 60, 60]
    assert all(wait <= 60 for wait in waits)
    assert next_look_s(None, 1000, Random(1)) <= DEFAULT_HINT_S


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())])
def test_a_root_whose_key_no_bundle_can_hold_is_refused(key: Any) -> None:
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=x509.Name([]),
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2030, 1, 1, tzinfo=UTC),
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    with pytest.raises(BundleRefused, match="a root's key is"):
        check_bundle(BundleDocument(roots=(builder.sign(key, algorithm),)), Y, None, {})


# --- who is asked from now on ---------------------------------------------------------------------------------------

Z, W = TrustDomain("z.test"), TrustDomain("w.test")


@pytest.mark.parametrize(
    ("before", "after", "begun", "changed", "ended"),
    [
        ({}, {}, (), (), ()),
        ({X: 1}, {X: 1}, (), (), ()),
        ({}, {X: 1, Y: 2}, (X, Y), (), ()),
        ({X: 1, Y: 2}, {}, (), (), (X, Y)),
        ({X: 1, Y: 2}, {Y: 2, X: 1}, (), (), ()),
        ({X: 1, Y: 2, Z: 3}, {X: 1, Y: 9, W: 3}, (W,), (Y,), (Z,)),
    ],
)
def test_what_is_begun_changed_and_ended_and_the_rest_is_not_disturbed(
    before: dict[TrustDomain, int],
    after: dict[TrustDomain, int],
    begun: tuple[TrustDomain, ...],
    changed: tuple[TrustDomain, ...],
    ended: tuple[TrustDomain, ...],
) -> None:
    assert Relations.of(before, after) == Relations(begun=begun, changed=changed, ended=ended)


def test_a_domain_that_is_renamed_keeps_what_is_known_of_it_and_no_other_does() -> None:
    relations = Relations.of({X: 1, Z: 2}, {Y: 1, Z: 2})
    assert relations.former(Y, frozenset({X})) == X
    assert relations.former(Y, frozenset()) == Y
    assert relations.former(Y, frozenset({Z})) == Y, "it goes on under its own name"
    assert relations.former(Z, frozenset({X})) == Z
