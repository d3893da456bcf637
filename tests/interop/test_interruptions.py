"""Envoy is killed, restarted or drained under traffic, and so are we: nobody takes a part for the whole."""

import contextlib
import signal
import socket

import pytest

from hbone.bench.ports import bindable
from tests.interop.pairs import Ground, PairOpener, Wiring, to_envoy, to_us
from tests.interop.programs import connect, digest_of, echoes, is_refused, read_to_end, receive, send_payload
from tests.support.targets import echo, patient_source, payload_digest, sink, source

pytestmark = pytest.mark.interop

BEFORE_BYTES = 4 << 20
WHOLE_BYTES = 1 << 30  # more than could be over before the kill
DRAINED_BYTES = 64 << 20
DRAINING = ("--drain-time-s", "20", "--drain-strategy", "immediate")


def test_a_download_is_reset_when_envoy_is_killed_and_the_next_one_works_after_its_restart(ground: Ground) -> None:
    with source(WHOLE_BYTES, str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            digest_of(conn, BEFORE_BYTES)
            pair.envoy.kill()
            assert read_to_end(conn).reset
        assert pair.node.only_access().error
        pair.envoy.start()
        with connect(pair.entry) as conn:
            assert digest_of(conn, BEFORE_BYTES) == payload_digest(BEFORE_BYTES)


def test_an_upload_is_reset_when_envoy_is_killed_and_the_next_one_works_after_its_restart(ground: Ground) -> None:
    with sink(str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            send_payload(conn, BEFORE_BYTES)
            pair.envoy.kill()
            with pytest.raises(ConnectionResetError):  # after a clean end it would be BrokenPipeError
                send_payload(conn, WHOLE_BYTES)
        assert pair.node.only_access().error
        target.next_seen()
        pair.envoy.start()
        with connect(pair.entry) as conn:
            send_payload(conn, BEFORE_BYTES)
            conn.shutdown(socket.SHUT_WR)
            assert read_to_end(conn).received == 0
        seen = target.next_seen()
        assert (seen.digest, seen.reset) == (payload_digest(BEFORE_BYTES), False)


def test_a_silent_connection_is_reset_when_envoy_is_killed(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_envoy(ground, target.address) as pair, connect(pair.entry) as conn:
        assert echoes(conn)
        pair.envoy.kill()
        seen = read_to_end(conn)
        assert (seen.received, seen.reset) == (0, True)
        assert pair.node.only_access().error


def test_while_envoy_is_down_connections_are_reset_at_once_and_the_line_says_that_nobody_listens(
    ground: Ground,
) -> None:
    with echo(str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
        pair.node.wait_access(1)
        pair.envoy.kill()
        assert is_refused(pair.entry)
        line = pair.node.wait_access(2)[1]
        assert f"cannot connect to {ground.tunnel}: Connection refused" in line.error
        pair.envoy.start()
        with connect(pair.entry) as conn:
            assert echoes(conn)


def test_a_hundred_connections_find_the_way_back_after_a_restart_in_one_tunnel(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_envoy(ground, target.address) as pair, contextlib.ExitStack() as open_:
        before = [open_.enter_context(connect(pair.entry)) for _ in range(100)]
        assert all(map(echoes, before))
        pair.envoy.kill()
        assert all(read_to_end(conn).reset for conn in before)
        pair.envoy.start()
        after = [open_.enter_context(connect(pair.entry)) for _ in range(100)]
        assert all(map(echoes, after))
        assert pair.envoy.tunnels() == 1


def test_a_server_behind_us_sees_a_reset_when_envoy_is_killed_amid_an_upload(ground: Ground) -> None:
    with sink(str(ground.host)) as target, to_us(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            send_payload(conn, BEFORE_BYTES)
            pair.envoy.kill()
            assert target.next_seen().reset
        assert pair.node.only_access().error
        pair.envoy.start()
        with connect(pair.entry) as conn:
            send_payload(conn, BEFORE_BYTES)
            conn.shutdown(socket.SHUT_WR)
            assert read_to_end(conn).received == 0
        assert target.next_seen().digest == payload_digest(BEFORE_BYTES)


def test_a_server_behind_us_sees_a_reset_when_envoy_is_killed_on_a_silent_connection(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_us(ground, target.address) as pair, connect(pair.entry) as conn:
        conn.sendall(b"all is well")
        assert receive(conn, len(b"all is well")) == b"all is well"  # so it went all the way
        pair.envoy.kill()
        seen = target.next_seen()
        assert (seen.received, seen.reset) == (len(b"all is well"), True)


def test_a_server_behind_us_sees_a_reset_when_envoy_is_killed_amid_a_download(ground: Ground) -> None:
    with patient_source(WHOLE_BYTES, str(ground.host)) as target, to_us(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            digest_of(conn, BEFORE_BYTES)
            pair.envoy.kill()
            assert target.next_seen().reset
        assert pair.node.only_access().error


def test_envoy_finds_us_again_after_our_own_restart(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_us(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
            pair.node.process.signal(signal.SIGKILL)
            pair.node.process.process.wait()
        pair.node.start()
        with connect(pair.entry) as conn:
            assert echoes(conn)


def test_what_is_open_runs_to_its_end_when_envoy_drains_and_what_is_new_takes_a_new_tunnel(ground: Ground) -> None:
    wiring = Wiring(options=DRAINING)
    with (
        echo(str(ground.host)) as target,
        to_envoy(ground, target.address, wiring=wiring) as pair,
        connect(pair.entry) as old,
    ):
        assert echoes(old)
        pair.envoy.drain()
        # Envoy says GOAWAY with the next answer it gives in a tunnel
        for _ in range(10):
            with connect(pair.entry) as conn:
                assert echoes(conn)
                conn.shutdown(socket.SHUT_WR)
                assert read_to_end(conn).received == 0
        assert pair.envoy.tunnels() > 1
        assert echoes(old)
        old.shutdown(socket.SHUT_WR)
        assert read_to_end(old).reset is False
        assert not [line for line in pair.node.wait_access(11) if line.error]


def test_what_is_open_runs_to_its_end_when_we_drain(opener: PairOpener, ground: Ground) -> None:
    wiring = Wiring(node={"timeouts": {"drain_deadline_s": 20}})
    with (
        patient_source(DRAINED_BYTES, str(ground.host)) as target,
        opener(ground, target.address, wiring=wiring) as pair,
        connect(pair.entry) as conn,
    ):
        pair.wait(lambda: target.accepted == 1)
        pair.node.terminate()
        if pair.ours == "inbound":
            pair.wait(lambda: pair.envoy.stat("cluster.hbone.upstream_cx_close_notify") == 1)
        else:
            pair.wait(lambda: bindable(pair.entry))  # nobody listens there any more
        assert digest_of(conn, DRAINED_BYTES) == payload_digest(DRAINED_BYTES)
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(1) == b""
        assert target.next_seen().reset is False
        assert pair.node.wait_stopped() == 0
        assert not pair.node.only_access().error


def test_a_connection_that_outlives_our_drain_deadline_is_reset(opener: PairOpener, ground: Ground) -> None:
    wiring = Wiring(node={"timeouts": {"drain_deadline_s": 0.2}})
    with (
        sink(str(ground.host)) as target,
        opener(ground, target.address, wiring=wiring) as pair,
        connect(pair.entry) as conn,
    ):
        conn.sendall(b"for ever")
        pair.wait(lambda: target.accepted == 1)
        pair.node.terminate()
        if pair.ours == "inbound":
            assert target.next_seen().reset
        else:
            assert read_to_end(conn).reset
        assert pair.node.wait_stopped() == 0
        assert "drain" in pair.node.only_access().error
