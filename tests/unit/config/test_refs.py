"""Names of workloads and identities in settings and commands."""

import pytest

from hbone.config.refs import AccountPattern, AccountRef, InvalidReference, WorkloadInfo, WorkloadRef
from hbone.identity.spiffe import parse_trust_domain


def test_an_account_makes_a_spiffe_id_in_its_trust_domain() -> None:
    identity = AccountRef.parse("shop/cart").spiffe_id(parse_trust_domain("mesh.test"))
    assert str(identity) == "spiffe://mesh.test/ns/shop/sa/cart"


def test_a_dedicated_workload_may_leave_its_name_out() -> None:
    full, short = WorkloadInfo.parse("shop/cart-0/cart"), WorkloadInfo.parse("shop/cart")
    assert (full.name, short.name) == ("cart-0", None)
    assert full.account == short.account == AccountRef("shop", "cart")


@pytest.mark.parametrize("kind", [AccountRef, WorkloadRef, WorkloadInfo])
def test_a_name_is_written_as_it_was_read(kind: type[AccountRef | WorkloadRef | WorkloadInfo]) -> None:
    assert str(kind.parse("shop/cart")) == "shop/cart"


@pytest.mark.parametrize("wrong", ["", "cart", "a/b/c/d", "a//b", "/a", "a/..", "a/b c", "a/b\n"])
def test_a_name_with_missing_or_odd_parts_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        WorkloadInfo.parse(wrong)
    assert "shop/cart" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "expected"),
    [("shop/web", ("shop", "web")), ("shop/*", ("shop", "*")), ("*", ("*", "*")), ("*/*", ("*", "*"))],
)
def test_grants_are_written_as_namespace_and_account(text: str, expected: tuple[str, str]) -> None:
    grant = AccountPattern.parse(text)
    assert (grant.namespace, grant.service_account) == expected


@pytest.mark.parametrize("text", ["", "shop", "/web", "shop/", "*/web", "sh*p/web", "shop/w*", "a/b/c", "a b/c"])
def test_what_is_no_grant_is_a_problem(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        AccountPattern.parse(text)
    assert "NAMESPACE/ACCOUNT" in caught.value.fix
