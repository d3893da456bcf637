"""Which tunnel carries the next stream, as pure choices."""

from dataclasses import dataclass

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.identity.spiffe import SpiffeId
from hbone.proxy.pooling import PoolKey, PoolPolicy, choose, idle_expired, is_stale, may_open
from hbone.times import Instant

POLICY = PoolPolicy(max_streams=10, max_tunnels=3, idle_s=60)


@dataclass
class Tunnel:
    streams: int = 0
    free_streams: int = 100
    generation: int = 1
    leaving: bool = False


def test_the_fullest_tunnel_with_room_is_chosen_so_that_the_others_fall_idle() -> None:
    tunnels = [Tunnel(streams=2), Tunnel(streams=7), Tunnel(streams=5)]
    assert choose(tunnels, 1, POLICY) is tunnels[1]


@pytest.mark.parametrize(
    "unfit",
    [
        Tunnel(streams=5, generation=0),  # of an older certificate
        Tunnel(streams=5, generation=2),  # of a newer one than the caller's
        Tunnel(streams=5, free_streams=0),  # the peer takes no more
        Tunnel(streams=10),  # our own limit
    ],
)
def test_a_tunnel_without_room_is_never_chosen(unfit: Tunnel) -> None:
    fit = Tunnel(streams=1)
    assert choose([unfit, fit], 1, POLICY) is fit
    assert choose([unfit], 1, POLICY) is None


def test_one_handshake_at_a_time_for_a_key() -> None:
    assert may_open([], 0, 1, POLICY)
    assert not may_open([], 1, 1, POLICY)


def test_tunnels_that_take_no_new_streams_do_not_count_toward_the_limit() -> None:
    full = [Tunnel(streams=10) for _ in range(3)]
    assert not may_open(full, 0, 1, POLICY)
    assert may_open([*full[:2], Tunnel(leaving=True)], 0, 1, POLICY)
    assert may_open(full, 0, 2, POLICY), "after a rotation all of them are old"
    assert may_open(full, 0, None, POLICY), "without a certificate the attempt will say so"


def test_a_tunnel_of_another_generation_is_stale() -> None:
    assert is_stale(Tunnel(generation=1), 2)
    assert not is_stale(Tunnel(generation=2), 2)


def test_idle_time_counts_from_the_last_stream() -> None:
    assert not idle_expired(None, Instant(1000), POLICY)
    assert not idle_expired(Instant(941), Instant(1000), POLICY)
    assert idle_expired(Instant(940), Instant(1000), POLICY)


def test_keys_differ_by_each_of_their_parts() -> None:
    web, cart = (SpiffeId.parse(f"spiffe://cluster.local/ns/a/sa/{name}") for name in ("web", "cart"))
    peer = SocketAddress.parse("10.0.0.1:15008")
    key = PoolKey(web, frozenset({cart}), peer, parse_ip("10.0.0.9"))
    others = [
        PoolKey(cart, frozenset({cart}), peer, parse_ip("10.0.0.9")),
        PoolKey(web, frozenset({cart, web}), peer, parse_ip("10.0.0.9")),
        PoolKey(web, frozenset({cart}), SocketAddress.parse("10.0.0.1:15009"), parse_ip("10.0.0.9")),
        PoolKey(web, frozenset({cart}), SocketAddress.parse("10.0.0.2:15008"), parse_ip("10.0.0.9")),
        PoolKey(web, frozenset({cart}), peer, parse_ip("10.0.0.8")),
        PoolKey(web, frozenset({cart}), peer, None),
    ]
    assert key not in others
    assert len({key, *others}) == 7
    assert key == PoolKey(web, frozenset({cart}), peer, parse_ip("10.0.0.9"))
