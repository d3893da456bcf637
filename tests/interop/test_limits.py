"""Small windows and few streams, idle tunnels, readers that do not read: everything still arrives."""

import asyncio
import select
import signal
import socket

import pytest

from tests.interop.pairs import Ground, PairOpener, Wiring, to_envoy, to_us
from tests.interop.programs import connect, digest_of, echo_in_parallel, echoes, fetch, read_to_end, send_payload
from tests.support.envoy import Settings, amended, small
from tests.support.targets import digester, echo, patient_source, payload_digest, source

pytestmark = pytest.mark.interop

STREAMS = 200
SOME_BYTES = 32 << 20
IDLE_S = 2.5
SMALL = Wiring(shape=small)


def pinging(document: Settings) -> Settings:
    """Asks ten times a second whether we are there, and leaves when we do not say."""
    return amended(document, connection_keepalive={"interval": "0.1s", "timeout": "1s"})


PINGING = Wiring(shape=pinging, node={"timeouts": {"ping_interval_s": 0.1, "ping_timeout_s": 1}})


def test_two_hundred_streams_share_two_tunnels_when_envoy_takes_a_hundred_in_each(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_envoy(ground, target.address, wiring=SMALL) as pair:
        assert asyncio.run(echo_in_parallel(pair.entry, STREAMS, 100_000)) == set()
        assert pair.envoy.tunnels() == 2


def test_more_streams_of_envoy_than_we_take_in_one_tunnel_share_a_few(ground: Ground) -> None:
    wiring = Wiring(node={"http2": {"max_streams_per_connection_inbound": 100}})
    with echo(str(ground.host)) as target, to_us(ground, target.address, wiring=wiring) as pair:
        with connect(pair.entry) as first:
            assert echoes(first)  # it has seen our limit now
            # a tunnel that is new to it gets less than a hundred: until it knows better it sends as many as there are
            assert asyncio.run(echo_in_parallel(pair.entry, 150, 100_000)) == set()
            assert echoes(first)
        assert pair.envoy.tunnels() <= 3


def test_streams_beyond_our_limit_are_refused_one_by_one_and_the_others_live(ground: Ground) -> None:
    # Envoy opens more than we allow before it has seen our SETTINGS
    wiring = Wiring(node={"http2": {"max_streams_per_connection_inbound": 20}})
    with echo(str(ground.host)) as target, to_us(ground, target.address, wiring=wiring) as pair:
        conns = [connect(pair.entry) for _ in range(100)]
        served = [conn for conn in conns if is_served(conn)]
        assert len(served) >= 20
        assert all(map(echoes, served))
        refused = pair.node.wait_access(len(conns) - len(served), lambda line: bool(line.error))
        assert len(refused) == len(conns) - len(served)
        assert all("that we allow" in line.error for line in refused)
        for conn in conns:
            conn.close()


def is_served(conn: socket.socket) -> bool:
    try:
        return echoes(conn)
    except (ConnectionResetError, BrokenPipeError):
        return False


def test_bulk_arrives_whole_both_ways_through_windows_of_64_kib(opener: PairOpener, ground: Ground) -> None:
    with (
        digester(str(ground.host)) as up,
        patient_source(SOME_BYTES, str(ground.host)) as down,
        opener(ground, up.address, down.address, wiring=SMALL) as pair,
    ):
        with connect(pair.entry) as conn:
            send_payload(conn, SOME_BYTES)
            conn.shutdown(socket.SHUT_WR)
            with conn.makefile("rb") as answer:
                assert answer.read().decode() == payload_digest(SOME_BYTES)
        with connect(pair.entries[1]) as conn:
            assert digest_of(conn, SOME_BYTES) == payload_digest(SOME_BYTES)
            conn.shutdown(socket.SHUT_WR)
            assert read_to_end(conn).received == 0


def test_a_program_that_does_not_read_does_not_stop_the_others(opener: PairOpener, ground: Ground) -> None:
    with (
        source(1 << 30, str(ground.host)) as endless,
        echo(str(ground.host)) as target,
        opener(ground, endless.address, target.address) as pair,
    ):
        stalled = [connect(pair.entry) for _ in range(2)]  # at three, also between two Envoys, the client stops all
        pair.wait(lambda: endless.accepted == len(stalled))
        with connect(pair.entries[1]) as conn:
            assert all(echoes(conn) for _ in range(100))
        assert asyncio.run(echo_in_parallel(pair.entries[1], 20, 1 << 20)) == set()
        assert pair.envoy.tunnels() == 1
        for conn in stalled:
            conn.close()


def test_an_idle_connection_outlives_many_pings_of_both_sides(opener: PairOpener, ground: Ground) -> None:
    with (
        echo(str(ground.host)) as target,
        opener(ground, target.address, wiring=PINGING) as pair,
        connect(pair.entry) as conn,
    ):
        assert echoes(conn)
        assert not select.select([conn], [], [], IDLE_S)[0], "it was not left alone"
        assert echoes(conn)
        assert pair.envoy.tunnels() == 1


def test_an_idle_tunnel_is_given_up_after_its_time_and_the_next_connection_opens_another(ground: Ground) -> None:
    wiring = Wiring(node={"timeouts": {"idle_tunnel_timeout_s": 0.2}})
    with source(1, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert fetch(pair.entry).received == 1
        pair.wait(lambda: pair.envoy.stat("http.hbone.downstream_cx_active") == 0)
        assert fetch(pair.entry).received == 1
        assert pair.envoy.tunnels() == 2


def test_a_frozen_envoy_is_given_up_when_its_pings_stay_unanswered(opener: PairOpener, ground: Ground) -> None:
    wiring = Wiring(node={"timeouts": {"ping_interval_s": 0.1, "ping_timeout_s": 0.5}})
    with (
        patient_source(10, str(ground.host)) as target,
        opener(ground, target.address, wiring=wiring) as pair,
        connect(pair.entry) as conn,
    ):
        assert digest_of(conn, 10) == payload_digest(10)
        pair.envoy.process.signal(signal.SIGSTOP)
        try:
            assert "does not answer" in pair.node.only_access().error
            if pair.ours == "inbound":
                assert target.next_seen().reset
            else:
                assert read_to_end(conn).reset
        finally:
            pair.envoy.process.signal(signal.SIGCONT)
