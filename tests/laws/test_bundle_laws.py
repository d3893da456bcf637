"""Bundle documents: what is written is read again, and no input breaks the reader."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from hbone.identity.bundle import BundleDocument, InvalidBundle
from hbone.identity.federation import BundleRefused, check_bundle, next_look_s
from hbone.identity.jwk import Jwk, algorithms_of
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import system_rng
from tests.support.pki import SpiffeCA, new_key

Y = TrustDomain("y.test")
ROOTS = tuple(SpiffeCA(name=f"root {number}").cert for number in range(3))
KEYS = tuple(new_key().public_key() for _ in range(2))
NUMBERS = st.none() | st.integers(min_value=0, max_value=(1 << 64) - 1)

documents = st.builds(
    BundleDocument,
    roots=st.lists(st.sampled_from(ROOTS), unique=True).map(tuple),
    jwt_keys=st.lists(st.sampled_from(range(2)), unique=True).map(
        lambda places: tuple(_jwk(place) for place in places)
    ),
    sequence=NUMBERS,
    refresh_hint_s=NUMBERS,
)


def _jwk(place: int) -> Jwk:
    return Jwk(key=KEYS[place], kid=f"k{place}", algorithms=algorithms_of(KEYS[place]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DER = base64.b64encode(ROOTS[0].public_bytes(Encoding.DER)).decode()
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["EC", "RSA", "OKP"]) | VALUES,
        "use": st.sampled_from(["x509-svid", "jwt-svid"]) | VALUES,
        "x5c": st.just([DER]) | st.lists(st.text(max_size=8) | VALUES, max_size=2) | VALUES,
        "kid": st.text(max_size=4) | VALUES,
        "crv": st.sampled_from(["P-256", "P-384", "secp256k1", "Ed25519"]) | VALUES,
        "x": st.text(max_size=44) | VALUES,
        "y": st.text(max_size=44) | VALUES,
        "n": st.text(max_size=44) | VALUES,
        "e": st.text(max_size=4) | VALUES,
        "alg": VALUES,
    },
)
ANYTHING = st.fixed_dictionaries(
    {"keys": st.lists(ENTRIES | VALUES, max_size=4) | VALUES},
    optional={"spiffe_sequence": VALUES, "spiffe_refresh_hint": VALUES},
)


@given(documents)
def test_a_document_is_read_as_it_was_written(document: BundleDocument) -> None:
    again = BundleDocument.from_json(document.to_json())
    assert again == document
    assert again.content == document.content


@given(ANYTHING | VALUES, st.none() | documents)
def test_no_json_breaks_the_reader_and_what_is_taken_can_be_kept(found: Any, known: BundleDocument | None) -> None:
    try:
        document = BundleDocument.from_json(json.dumps(found))
        check_bundle(document, Y, known, {})
    except (InvalidBundle, BundleRefused):
        return
    assert BundleDocument.from_json(document.to_json()).content == document.content
    assert 0 < next_look_s(document, 0, system_rng()) <= 86_400


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_break_the_reader(content: bytes | str) -> None:
    try:
        BundleDocument.from_json(content)
    except InvalidBundle:
        pass


@given(documents, documents, documents)
def test_numbers_never_go_back_whatever_is_served(
    first: BundleDocument, second: BundleDocument, third: BundleDocument
) -> None:
    known: BundleDocument | None = None
    numbers: list[int] = []
    for found in (first, second, third):
        try:
            check_bundle(found, Y, known, {})
        except BundleRefused:
            continue
        known = found
        numbers += [found.sequence] if found.sequence is not None else []
    assert numbers == sorted(numbers)
