"""How long a JWT-SVID is handed out again, and what is never handed out."""

import pytest

from hbone.control.jwt_cache import MAX_HELD, Held, TokenCache, received
from hbone.control.jwt_svid import InvalidJwtSvid, JwtKeys
from hbone.identity.revocation import Revocations, RevokedIdentity
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.times import WallTime
from tests.support.pki import new_key

DOMAIN = TrustDomain("cluster.local")
WEB, DB = (SpiffeId.for_workload(DOMAIN, "shop", name) for name in ("web", "db"))
FOR = frozenset({"a", "b"})
AT = WallTime(1_900_000_000.0)
KEYS = JwtKeys.of(DOMAIN, new_key())


def held(token: str = "t", came_at: float = AT, ends: float = AT + 300) -> Held:
    return Held(token=token, came_at=WallTime(came_at), ends=WallTime(ends))


def cache_with(identity: SpiffeId = WEB, one: Held | None = None) -> TokenCache:
    cache = TokenCache()
    cache.put(identity, FOR, one or held())
    return cache


@pytest.mark.parametrize(
    ("after_s", "fresh", "good"),
    [
        (0, True, True),
        (149.9, True, True),
        (150, False, True),
        (299.9, False, True),
        (300, False, False),
        (-1, False, False),
    ],
)
def test_a_token_is_fresh_for_half_of_its_life_and_good_until_it_ends(after_s: float, fresh: bool, good: bool) -> None:
    cache, now = cache_with(), WallTime(AT + after_s)
    assert (cache.fresh(WEB, FOR, now) is not None) == fresh
    assert (cache.held(WEB, FOR, now) is not None) == good


def test_it_is_good_for_this_identity_and_audience_alone() -> None:
    cache = cache_with()
    assert cache.held(DB, FOR, AT) is None
    assert cache.held(WEB, frozenset({"a"}), AT) is None
    assert cache.held(WEB, frozenset({"b", "a"}), AT) is not None


def test_a_newer_token_takes_the_place_of_the_older() -> None:
    cache = cache_with()
    cache.put(WEB, FOR, held("newer"))
    found = cache.held(WEB, FOR, AT)
    assert found is not None
    assert found.token == "newer"
    assert len(cache) == 1


def test_who_asks_for_ever_new_audiences_drives_out_his_own_tokens_alone() -> None:
    cache = cache_with(DB)
    for number in range(3 * MAX_HELD):
        cache.put(WEB, frozenset({str(number)}), held())
    assert len(cache) == MAX_HELD + 1
    assert cache.held(DB, FOR, AT) is not None
    assert cache.held(WEB, frozenset({"0"}), AT) is None
    assert cache.held(WEB, frozenset({str(3 * MAX_HELD - 1)}), AT) is not None


def test_what_was_revoked_is_not_kept_and_nothing_else_is_touched() -> None:
    cache = cache_with()
    cache.put(DB, FOR, held())
    cache.revoked(Revocations(identities={WEB: RevokedIdentity()}))
    assert cache.held(WEB, FOR, AT) is None
    assert cache.held(DB, FOR, AT) is not None
    cache.revoked(Revocations(identities={DB: RevokedIdentity(before=AT)}))
    assert cache.held(DB, FOR, AT) is not None, "it came after the identity was restored"
    cache.revoked(Revocations(identities={DB: RevokedIdentity(before=WallTime(AT + 1))}))
    assert cache.held(DB, FOR, AT) is None


def test_an_identity_that_is_dropped_leaves_nothing() -> None:
    cache = cache_with()
    cache.drop(WEB)
    cache.drop(DB)
    assert len(cache) == 0


def test_a_token_is_taken_as_it_says_and_shown_to_nobody() -> None:
    token = KEYS.issue(WEB, ["a", "b"], now=AT)
    one = received(token, WEB, ["b", "a"], AT)
    assert (one.token, one.came_at, one.ends) == (token, AT, AT + 300)
    assert token not in repr(one)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "not a JWT"),
        ("a.b.c", "not a JWT"),
        (KEYS.issue(DB, ["a"], now=AT), "not what was asked for"),
        (KEYS.issue(WEB, ["a", "b"], now=AT), "not what was asked for"),
        (KEYS.issue(WEB, ["b"], now=AT), "not what was asked for"),
        (KEYS.issue(WEB, ["a"], now=WallTime(AT - 1000)), "expired"),
    ],
)
def test_a_token_that_is_not_what_was_asked_for_is_not_taken(token: str, why: str) -> None:
    with pytest.raises(InvalidJwtSvid, match=why):
        received(token, WEB, ["a"], AT)
