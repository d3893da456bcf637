"""Envoy at both ends: the judge itself works as the tests that use it assume."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from hbone.addr import SocketAddress
from hbone.bench.envoy import EnvoyClient, EnvoyServer
from hbone.bench.pki import BenchPki
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from tests.support.envoy import Envoy, access_log_in, require_envoy
from tests.support.peers import HboneProbe, Hello, connect_headers
from tests.support.targets import digester, http_server, payload, payload_digest, source

pytestmark = pytest.mark.interop

BULK_BYTES = 8 << 20


@pytest.fixture
def server(processes: Processes, pki: BenchPki, ports: Ports, tmp_path: Path) -> Iterator[Envoy]:
    require_envoy()
    end = EnvoyServer(
        listen=ports.free(),
        admin=ports.free(),
        identity=pki.identity("shop", "server"),
        access_log=access_log_in(tmp_path, "server"),
        denied=pki.identity("shop", "denied").spiffe_id,
    )
    with Envoy(end, processes) as running:
        yield running


def server_end(server: Envoy) -> EnvoyServer:
    assert isinstance(server.end, EnvoyServer)
    return server.end


def client_to(
    target: SocketAddress, server: Envoy, pki: BenchPki, ports: Ports, directory: Path
) -> tuple[SocketAddress, EnvoyClient]:
    entry = ports.free()
    end = EnvoyClient(
        routes={entry: str(target)},
        admin=ports.free(),
        identity=pki.identity("shop", "client"),
        server=server_end(server).listen,
        expected=server_end(server).identity.spiffe_id,
        access_log=access_log_in(directory, "client"),
    )
    return entry, end


def test_a_pair_of_envoys_carries_http(
    server: Envoy, processes: Processes, pki: BenchPki, ports: Ports, tmp_path: Path
) -> None:
    with http_server() as target:
        entry, end = client_to(target, server, pki, ports, tmp_path)
        with Envoy(end, processes) as client, urlopen(f"http://{entry}/", timeout=10) as answer:
            assert answer.read() == b"hello from the target\n"
            assert client.stat("cluster.hbone.upstream_cx_total") == 1


def test_a_pair_of_envoys_carries_bytes_whole_when_the_client_ends_first(
    server: Envoy, processes: Processes, pki: BenchPki, ports: Ports, tmp_path: Path
) -> None:
    with digester() as target:
        entry, end = client_to(target.address, server, pki, ports, tmp_path)
        with Envoy(end, processes), socket.create_connection((str(entry.ip), entry.port), 10) as conn:
            for block in payload(BULK_BYTES):
                conn.sendall(block)
            conn.shutdown(socket.SHUT_WR)
            assert conn.makefile("rb").read().decode() == payload_digest(BULK_BYTES)
        assert target.next_seen().received == BULK_BYTES


def test_an_envoy_server_answers_200_to_a_connect_and_carries_the_target_s_bytes(server: Envoy, pki: BenchPki) -> None:
    hello = Hello(identity=pki.identity("shop", "client"))
    with source(10_000) as target, HboneProbe(server_end(server).listen, hello) as probe:
        stream = probe.request(connect_headers(target.address))
        assert probe.wait_status(stream) == 200
        assert probe.wait_bytes(stream, 10_000) == b"".join(payload(10_000))


def test_an_envoy_server_answers_403_to_a_denied_identity(server: Envoy, pki: BenchPki) -> None:
    with HboneProbe(server_end(server).listen, Hello(identity=pki.identity("shop", "denied"))) as probe:
        assert probe.wait_status(probe.request(connect_headers("127.0.0.1:9"))) == 403


@pytest.mark.parametrize("who", ["rogue", "foreign", "nobody"])
def test_an_envoy_server_turns_away(who: str, server: Envoy, rogue_pki: BenchPki, foreign_pki: BenchPki) -> None:
    identity = {"rogue": rogue_pki, "foreign": foreign_pki}.get(who)
    hello = Hello(identity=identity.identity("shop", "client") if identity else None)
    with HboneProbe(server_end(server).listen, hello) as probe:
        assert probe.wait_status(probe.request(connect_headers("127.0.0.1:9"))) is None
        assert probe.wait_closed()  # an alert, or a bare end when our write came first


def test_stopping_an_envoy_ends_its_own_process_and_its_restart_takes_the_same_ports(server: Envoy) -> None:
    first = server.pid
    assert Path(f"/proc/{first}/comm").read_text().strip() == "envoy"
    server.stop()
    assert not Path(f"/proc/{first}").exists()
    server.start()
    assert server.pid != first
