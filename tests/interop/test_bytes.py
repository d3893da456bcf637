"""What goes in at one end of a tunnel between Envoy and us comes out whole at the other, both ways."""

import asyncio
import socket

import pytest

from hbone.addr import SocketAddress
from tests.interop.pairs import Ground, PairOpener, to_envoy, to_us
from tests.interop.programs import connect, digest_of, echo_in_parallel, fetch, read_to_end, receive, send_payload
from tests.support.targets import (
    digester,
    echo,
    greeter,
    http_server,
    patient_source,
    payload,
    payload_digest,
    reset,
    resetter,
    sink,
    source,
)

pytestmark = pytest.mark.interop

GIB = 1 << 30
SOME_BYTES = 8 << 20
WITHIN_A_WINDOW = 3 << 20
STREAMS = 200
MANY_HTTP = 50
MAX_RESIDENT_BYTES = 160 << 20

REQUESTS = {
    "a page": b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
    "an empty page": b"GET /bytes/0 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "one byte": b"GET /bytes/1 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "a full TLS record": b"GET /bytes/16384 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "ten megabytes": b"GET /bytes/10000000 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "a posted body": b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3000000\r\n\r\n" + b"".join(payload(3_000_000)),
    "a page, the last": b"GET / HTTP/1.0\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    "no HTTP": b"\x00\xff no request at all\r\n",
}


def answer(address: SocketAddress, request: bytes) -> bytes:
    """The whole answer, but for the header that tells the time."""
    head = bytearray()
    length = -1  # to the end, when no header tells it
    with connect(address) as conn, conn.makefile("rb") as reply:
        conn.sendall(request)
        while (line := reply.readline()) not in {b"\r\n", b""}:
            name, _, value = line.partition(b":")
            if name == b"Content-Length":
                length = int(value)
            if name != b"Date":
                head += line
        return bytes(head) + line + reply.read(length)


def test_http_requests_are_answered_byte_identically(opener: PairOpener, ground: Ground) -> None:
    with http_server(str(ground.host)) as target, opener(ground, target) as pair:
        for what, request in REQUESTS.items():
            assert answer(pair.entry, request) == answer(target, request), what


def test_keep_alive_requests_of_one_connection_are_answered_in_order(opener: PairOpener, ground: Ground) -> None:
    with (
        http_server(str(ground.host)) as target,
        opener(ground, target) as pair,
        connect(pair.entry) as conn,
        conn.makefile("rb") as replies,
    ):
        for count in range(MANY_HTTP):
            conn.sendall(f"GET /bytes/{count} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
            while (line := replies.readline()) != b"\r\n":
                assert line, "the connection ended"
            assert replies.read(count) == b"".join(payload(count))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_gibibyte_sent_by_the_program_arrives_whole(opener: PairOpener, ground: Ground) -> None:
    with digester(str(ground.host)) as target, opener(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            send_payload(conn, GIB)
            conn.shutdown(socket.SHUT_WR)
            assert conn.makefile("rb").read().decode() == payload_digest(GIB)
        assert target.next_seen().received == GIB
        assert pair.node.resident_bytes() < MAX_RESIDENT_BYTES
        line = pair.node.only_access()
        carried = "bytes_recv" if pair.ours == "inbound" else "bytes_sent"
        assert (line.error, line.fields[carried]) == ("", str(GIB))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_gibibyte_sent_to_the_program_arrives_whole(opener: PairOpener, ground: Ground) -> None:
    with patient_source(GIB, str(ground.host)) as target, opener(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            assert digest_of(conn, GIB) == payload_digest(GIB)
            conn.shutdown(socket.SHUT_WR)
            assert conn.recv(1) == b""
        assert pair.node.resident_bytes() < MAX_RESIDENT_BYTES
        line = pair.node.only_access()
        carried = "bytes_sent" if pair.ours == "inbound" else "bytes_recv"
        assert (line.error, line.fields[carried]) == ("", str(GIB))


def test_a_program_that_ends_first_still_gets_the_answer(opener: PairOpener, ground: Ground) -> None:
    with digester(str(ground.host)) as target, opener(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            send_payload(conn, SOME_BYTES)
            conn.shutdown(socket.SHUT_WR)
            assert conn.makefile("rb").read().decode() == payload_digest(SOME_BYTES)
        assert not target.next_seen().reset
        assert not pair.node.only_access().error


def test_a_program_that_ends_at_once_is_carried_to_its_end(opener: PairOpener, ground: Ground) -> None:
    with digester(str(ground.host)) as target, opener(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            conn.shutdown(socket.SHUT_WR)
            assert conn.makefile("rb").read().decode() == payload_digest(0)
        assert not pair.node.only_access().error


def test_a_server_that_ends_first_still_gets_what_the_program_sends_after(ground: Ground) -> None:
    # toward Envoy this cannot be had: Envoy takes the end of its upstream for the end of both directions
    with source(SOME_BYTES, str(ground.host)) as target, to_us(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            seen = read_to_end(conn)
            assert (seen.digest, seen.reset) == (payload_digest(SOME_BYTES), False)
            send_payload(conn, SOME_BYTES)
            conn.shutdown(socket.SHUT_WR)
            heard = target.next_seen()
        assert (heard.received, heard.digest, heard.reset) == (SOME_BYTES, payload_digest(SOME_BYTES), False)
        assert not pair.node.only_access().error


def test_a_server_that_speaks_first_is_heard(opener: PairOpener, ground: Ground) -> None:
    greeting = b"220 mail ready\r\n"
    with (
        greeter(greeting, str(ground.host)) as target,
        opener(ground, target.address) as pair,
        connect(pair.entry) as conn,
    ):
        assert receive(conn, len(greeting)) == greeting


def test_an_answer_that_envoy_ends_with_a_reset_without_error_ends_cleanly_for_the_program(ground: Ground) -> None:
    # its server ended while the program had not: Envoy sends END_STREAM and then RST_STREAM(NO_ERROR)
    with source(WITHIN_A_WINDOW, str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            seen = read_to_end(conn)
        expected = (WITHIN_A_WINDOW, payload_digest(WITHIN_A_WINDOW), False)
        assert (seen.received, seen.digest, seen.reset) == expected
        assert not pair.node.only_access().error


def test_late_bytes_of_the_program_do_not_spoil_an_answer_that_envoy_has_ended(ground: Ground) -> None:
    with (
        source(WITHIN_A_WINDOW, str(ground.host)) as target,
        to_envoy(ground, target.address) as pair,
        connect(pair.entry) as conn,
        conn.makefile("rb") as answer,
    ):
        first = answer.read(1 << 20)
        conn.sendall(b"late " * 10_000)
        assert first + answer.read() == b"".join(payload(WITHIN_A_WINDOW))


def test_an_answer_that_envoy_cuts_short_never_ends_cleanly(ground: Ground) -> None:
    # when its server ends first, Envoy loses what is beyond the stream's window and resets with INTERNAL_ERROR
    with source(4 * SOME_BYTES, str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        seen = fetch(pair.entry)
        line = pair.node.only_access()
    whole = seen.received == 4 * SOME_BYTES
    assert whole != seen.reset
    assert whole or "RST_STREAM" in line.error


def test_two_hundred_parallel_streams_each_get_their_own_bytes_back_through_one_tunnel(
    opener: PairOpener, ground: Ground
) -> None:
    with echo(str(ground.host)) as target, opener(ground, target.address) as pair:
        wrong = asyncio.run(echo_in_parallel(pair.entry, STREAMS, 100_000))
        assert (wrong, target.accepted) == (set(), STREAMS)
        assert pair.envoy.tunnels() == 1
        lines = pair.node.wait_access(STREAMS)
        assert len(lines) == STREAMS
        assert not [line for line in lines if line.error]


def test_a_connection_without_a_byte_is_carried_too(opener: PairOpener, ground: Ground) -> None:
    with sink(str(ground.host)) as target, opener(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            conn.shutdown(socket.SHUT_WR)
            seen = read_to_end(conn)
        assert (seen.received, seen.reset) == (0, False)
        assert target.next_seen().received == 0


def test_a_reset_by_the_server_is_a_reset_for_the_program(ground: Ground) -> None:
    with resetter(1000, str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            conn.sendall(bytes(1000))
            assert read_to_end(conn).reset
        assert "RST_STREAM" in pair.node.only_access().error


def test_a_reset_by_the_server_is_told_to_envoy_as_a_reset(ground: Ground) -> None:
    # what Envoy makes of it for its program is its own: it ends the connection
    with resetter(1000, str(ground.host)) as target, to_us(ground, target.address) as pair:
        with connect(pair.entry) as conn:
            conn.sendall(bytes(1000))
            read_to_end(conn)
        assert "reset" in pair.node.only_access().error
        assert pair.envoy.stat("cluster.hbone.http2.rx_reset") == 1


def test_a_reset_by_the_program_is_told_to_envoy_as_a_reset(ground: Ground) -> None:
    with sink(str(ground.host)) as target, to_envoy(ground, target.address) as pair:
        conn = connect(pair.entry)
        conn.sendall(bytes(1000))
        pair.wait(lambda: target.accepted == 1)
        reset(conn)
        assert "reset" in pair.node.only_access().error
        assert pair.envoy.stat("http.hbone.downstream_rq_rx_reset") == 1


def test_a_reset_by_envoy_s_program_is_a_reset_for_the_server(ground: Ground) -> None:
    with sink(str(ground.host)) as target, to_us(ground, target.address) as pair:
        conn = connect(pair.entry)
        conn.sendall(bytes(1000))
        pair.wait(lambda: target.accepted == 1)
        reset(conn)
        assert target.next_seen().reset
        assert "RST_STREAM" in pair.node.only_access().error


def test_the_first_connection_is_carried_like_any_other(opener: PairOpener, ground: Ground) -> None:
    with source(1, str(ground.host)) as target, opener(ground, target.address) as pair:
        assert [fetch(pair.entry).received for _ in range(3)] == [1, 1, 1]
        assert pair.envoy.tunnels() == 1
