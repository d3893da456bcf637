"""Trust bundles, and the SPIFFE bundle document (SPIFFE Trust Domain and Bundle §4)."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.identity.bundle import MAX_ROOTS, BundleDocument, InvalidBundle, TrustBundle
from hbone.identity.jwk import Jwk, algorithms_of, to_jwk
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from tests.support.pki import AUTHORITY, SpiffeCA

A, B = TrustDomain("a.test"), TrustDomain("b.test")
FIRST, SECOND = SpiffeCA(name="first").cert, SpiffeCA(name="second").cert


def entry(**changes: Any) -> dict[str, Any]:
    x5c = [base64.b64encode(FIRST.public_bytes(Encoding.DER)).decode()]
    return {"kty": "EC", "use": "x509-svid", "crv": "P-256", "x5c": x5c} | changes


def test_pem_is_read_in_order_and_written_back() -> None:
    pem = FIRST.public_bytes(Encoding.PEM) + SECOND.public_bytes(Encoding.PEM)
    bundle = TrustBundle.from_pem(A, pem)
    assert bundle.roots == {A: (FIRST, SECOND)}
    assert bundle.pem(A) == pem
    assert bundle.pem(B) == b""


def test_what_is_not_pem_is_refused() -> None:
    with pytest.raises(InvalidBundle, match=r"roots of trust domain a\.test"):
        TrustBundle.from_pem(A, b"nothing")


def test_merging_keeps_the_domains_apart_and_drops_repetitions() -> None:
    merged = TrustBundle.of(A, [FIRST]).merged(TrustBundle(roots={A: (FIRST, SECOND), B: (SECOND,)}))
    assert merged.roots == {A: (FIRST, SECOND), B: (SECOND,)}
    assert merged.domains == {A, B}


def test_roots_are_replaced_and_removed_by_domain() -> None:
    bundle = TrustBundle(roots={A: (FIRST,), B: (SECOND,)})
    assert bundle.replaced(A, [SECOND]).roots == {A: (SECOND,), B: (SECOND,)}
    assert bundle.without(B).roots == {A: (FIRST,)}


def test_bundles_are_values() -> None:
    assert TrustBundle.of(A, [FIRST, FIRST]) == TrustBundle.of(A, [FIRST])
    assert hash(TrustBundle.of(A, [FIRST])) == hash(TrustBundle.of(A, [FIRST]))
    assert TrustBundle.of(A, [FIRST]) != TrustBundle.of(B, [FIRST])
    with pytest.raises(TypeError):
        TrustBundle.of(A, [FIRST]).roots[B] = (SECOND,)  # type: ignore[index] # a frozen view


def test_a_domain_without_roots_is_known_and_has_no_store() -> None:
    bundle = TrustBundle(roots={A: ()})
    assert bundle.domains == {A}
    assert bundle.store(A) is None
    assert bundle.store(B) is None
    assert TrustBundle.of(A, [FIRST]).store(A) is not None


def test_the_number_of_roots_is_bounded() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    many = [SpiffeCA(key=key).cert for _ in range(MAX_ROOTS + 1)]
    with pytest.raises(InvalidBundle, match="101 roots"):
        TrustBundle.of(A, many)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["P-384", "RSA"]
)
def test_a_document_is_read_back_as_it_was_written(key: Any) -> None:
    document = BundleDocument(roots=(FIRST, SpiffeCA(key=key).cert), sequence=2**63, refresh_hint_s=300)
    text = document.to_json()
    assert BundleDocument.from_json(text) == document
    assert BundleDocument.from_json(text.encode()) == document
    for jwk in json.loads(text)["keys"]:
        assert jwk["use"] == "x509-svid"
        assert len(jwk["x5c"]) == 1
        assert "kid" not in jwk


def test_an_empty_document_revokes_everything() -> None:
    assert BundleDocument.from_json('{"keys": []}') == BundleDocument(roots=())


def test_a_root_of_a_foreign_kind_cannot_be_written() -> None:
    key: Any = ed25519.Ed25519PrivateKey.generate()
    root = SpiffeCA().sign(AUTHORITY, key)
    with pytest.raises(InvalidBundle, match="neither EC nor RSA"):
        BundleDocument(roots=(root,)).to_json()


@pytest.mark.parametrize(
    "ignored",
    [
        entry(use="jwt-svid"),
        entry(use=None),
        entry(kty="oct"),
        entry(kty=None),
        entry(x5c=[]),
        entry(x5c=None),
        entry(x5c=[7]),
        entry(x5c=["!"]),
        entry(x5c=["AAAA"]),
        "text",
    ],
)
def test_entries_that_a_consumer_must_ignore_are_ignored(ignored: Any) -> None:
    assert BundleDocument.from_json(json.dumps({"keys": [ignored, entry()]})).roots == (FIRST,)


def test_of_several_certificates_in_an_entry_the_first_counts() -> None:
    both = entry()["x5c"] + [base64.b64encode(SECOND.public_bytes(Encoding.DER)).decode()]
    assert BundleDocument.from_json(json.dumps({"keys": [entry(x5c=both)]})).roots == (FIRST,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no array `keys`"),
        ('{"keys": {}}', "no array `keys`"),
        ('{"keys": [], "spiffe_sequence": "1"}', "spiffe_sequence"),
        ('{"keys": [], "spiffe_sequence": true}', "spiffe_sequence"),
        ('{"keys": [], "spiffe_refresh_hint": -1}', "spiffe_refresh_hint"),
        (b"\xff", "not JSON"),
    ],
)
def test_a_malformed_document_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidBundle, match=said):
        BundleDocument.from_json(text)


def test_jwt_keys_are_in_the_document_and_read_back() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    document = BundleDocument(roots=(FIRST,), jwt_keys=(Jwk(key=key, kid="k1", algorithms=algorithms_of(key)),))
    entries = json.loads(document.to_json())["keys"]
    assert [(one["use"], one.get("kid")) for one in entries] == [("x509-svid", None), ("jwt-svid", "k1")]
    assert BundleDocument.from_json(document.to_json()) == document


def test_jwt_keys_without_a_name_or_for_another_use_are_ignored() -> None:
    jwk = to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    keys = [{**jwk, "use": "jwt-svid"}, {**jwk, "kid": "a"}, {**jwk, "kid": "b", "use": "sig"}]
    assert BundleDocument.from_json(json.dumps({"keys": keys})).jwt_keys == ()


def test_documents_that_differ_in_number_and_hint_alone_have_one_content() -> None:
    first, second = BundleDocument(roots=(FIRST, SECOND), sequence=1), BundleDocument(roots=(SECOND, FIRST))
    assert first.content == second.content
    assert first.content != BundleDocument(roots=(FIRST,), sequence=1).content


C = TrustDomain("c.test")


def test_the_roots_of_a_mesh_vouch_for_its_aliases_and_not_the_other_way_round() -> None:
    bundle = TrustBundle(roots={A: (FIRST,), B: (SECOND,)}, aliases=frozenset({(B, A), (C, A)}))
    assert bundle.roots == {A: (FIRST,), B: (SECOND, FIRST), C: (FIRST,)}
    assert TrustBundle.of(A, [FIRST]).naming([(C, A)]).roots == {A: (FIRST,), C: (FIRST,)}


def test_identities_that_differ_in_their_meshs_name_alone_are_the_same_workload() -> None:
    bundle = TrustBundle(roots={A: (FIRST,)}, aliases=frozenset({(B, A), (B, C)}))  # as two who rename may see it
    same = [SpiffeId(domain, "/ns/a/sa/s") for domain in (A, B, C)]
    assert len({bundle.canonical(one) for one in same}) == 1
    assert all(bundle.is_one_of(one, [other]) for one in same for other in same)
    assert not bundle.is_one_of(same[0], [SpiffeId(A, "/ns/a/sa/t"), SpiffeId(TrustDomain("d.test"), "/ns/a/sa/s")])
    assert not bundle.is_one_of(same[0], [])


def test_without_aliases_every_trust_domain_is_itself() -> None:
    bundle = TrustBundle(roots={A: (FIRST,), B: (SECOND,)})
    assert not bundle.is_one_of(SpiffeId(A, "/ns/a/sa/s"), [SpiffeId(B, "/ns/a/sa/s")])


def test_merging_keeps_aliases() -> None:
    merged = TrustBundle.union([TrustBundle.of(A, [FIRST]).naming([(C, A)]), TrustBundle.of(B, [SECOND])])
    assert merged.roots == {A: (FIRST,), C: (FIRST,), B: (SECOND,)}
    assert merged.aliases == {(C, A)}


def test_the_names_of_a_mesh_are_known_by_each_of_them() -> None:
    bundle = TrustBundle(roots={A: (FIRST,)}, aliases=frozenset({(B, A), (C, A)}))
    assert bundle.names_of(A) == bundle.names_of(B) == DomainNames(A, frozenset({B, C}))
    assert bundle.names_of(TrustDomain("d.test")) == DomainNames(TrustDomain("d.test"))
