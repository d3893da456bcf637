"""SPIFFE IDs: SPIFFE-ID standard §2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.identity.spiffe import MAX_ID_BYTES, DomainNames, InvalidSpiffeId, SpiffeId, TrustDomain, parse_trust_domain

GOOD = [
    "spiffe://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local",
    "spiffe://10.0.0.1/x",
    "spiffe://a_b-c.d/payments/web.v2_-",
    "spiffe://td/...",
    "spiffe://td/A",
]
BAD = [
    ("", "begin with spiffe://"),
    ("http://td/x", "begin with"),
    ("SPIFFE://td/x", "begin with"),
    ("spiffe:/td/x", "begin with"),
    ("spiffe://", "trust domain"),
    ("spiffe:///x", "trust domain"),
    ("spiffe://TD/x", "trust domain"),
    ("spiffe://td:80/x", "trust domain"),
    ("spiffe://user@td/x", "trust domain"),
    ("spiffe://[::1]/x", "trust domain"),
    ("spiffe://t%64/x", "trust domain"),
    ("spiffe://" + "a" * 256, "trust domain"),
    ("spiffe://td/", "empty segment"),
    ("spiffe://td/x/", "empty segment"),
    ("spiffe://td//x", "empty segment"),
    ("spiffe://td/./x", "segment '.'"),
    ("spiffe://td/../x", "segment '..'"),
    ("spiffe://td/a%20b", "segment"),
    ("spiffe://td/x?y", "segment"),
    ("spiffe://td/x#y", "segment"),
    ("spiffe://td/é", "segment"),
    ("spiffe://td/x\n", "segment"),
    ("spiffe://td\n/x", "trust domain"),
    ("spiffe://td/\udcff", "segment"),
    ("spiffe://td/" + "a" * MAX_ID_BYTES, "at most 2048"),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_id_is_written_back_byte_for_byte(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_bad_id_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidSpiffeId, match=said):
        SpiffeId.parse(text)


def test_an_id_of_exactly_2048_bytes_is_taken() -> None:
    text = "spiffe://td/" + "a" * (MAX_ID_BYTES - len("spiffe://td/"))
    assert len(str(SpiffeId.parse(text))) == MAX_ID_BYTES


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        ("/ns/shop/sa/cart", ("shop", "cart")),
        ("/ns/shop/sa", None),
        ("/ns/shop/sa/cart/x", None),
        ("/sa/cart/ns/shop", None),
        ("/payments/web", None),
        ("", None),
    ],
)
def test_only_istios_form_has_a_namespace_and_a_service_account(path: str, workload: tuple[str, str] | None) -> None:
    spiffe_id = SpiffeId.parse(f"spiffe://td{path}")
    assert spiffe_id.workload == workload
    assert (spiffe_id.namespace, spiffe_id.service_account) == (workload or (None, None))


def test_a_workloads_id_is_built_from_its_parts() -> None:
    assert str(SpiffeId.for_workload("cluster.local", "shop", "cart")) == "spiffe://cluster.local/ns/shop/sa/cart"


@pytest.mark.parametrize("part", ["", "a/b", "..", "a b", "a%2fb"])
def test_a_part_cannot_smuggle_in_another_path(part: str) -> None:
    with pytest.raises(InvalidSpiffeId):
        SpiffeId.for_workload("cluster.local", "shop", part)
    with pytest.raises(InvalidSpiffeId):
        SpiffeId.for_workload("cluster.local", part, "cart")


def test_trust_domains_are_parsed_alone() -> None:
    assert parse_trust_domain("cluster.local") == TrustDomain("cluster.local")
    with pytest.raises(InvalidSpiffeId, match=r"cluster\.local"):
        parse_trust_domain("Cluster.Local")


@given(st.text(max_size=60).map(lambda text: f"spiffe://{text}") | st.text(max_size=60))
def test_parsing_never_raises_anything_else_and_writes_back_what_it_took(text: str) -> None:
    try:
        assert str(SpiffeId.parse(text)) == text
    except InvalidSpiffeId as error:
        assert str(error).isprintable(), "quoted by repr, so that a peer cannot write control characters to a log"


def test_a_workload_of_a_mesh_with_several_names_has_one_form_for_each() -> None:
    names = DomainNames(TrustDomain("new.test"), frozenset({TrustDomain("old.test"), TrustDomain("older.test")}))
    old, foreign = SpiffeId.parse("spiffe://old.test/a/b"), SpiffeId.parse("spiffe://x.test/a/b")
    assert [str(one) for one in names.forms(old)] == [
        "spiffe://new.test/a/b",
        "spiffe://old.test/a/b",
        "spiffe://older.test/a/b",
    ]
    assert str(names.canonical(old)) == "spiffe://new.test/a/b"
    assert names.forms(foreign) == (foreign,)
    assert names.canonical(foreign) == foreign
    assert "old.test" in names
    assert "x.test" not in names
