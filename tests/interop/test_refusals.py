"""What one side does not do for the other: the program is told by a reset, the operator by one access line."""

import pytest

from tests.interop.pairs import Ground, PairOpener, Wiring, to_envoy, to_us
from tests.interop.programs import connect, echoes, fetch, is_refused
from tests.support.targets import echo, source

pytestmark = pytest.mark.interop


def test_a_connection_that_envoy_s_policy_denies_is_reset_and_our_line_says_that_a_policy_did_it(
    ground: Ground,
) -> None:
    wiring = Wiring(envoy={"denied": ground.pki.spiffe_id("client")})
    with source(100, str(ground.host)) as target, to_envoy(ground, target.address, wiring=wiring) as pair:
        assert is_refused(pair.entry)
        line = pair.node.only_access()
        assert (line.fields["dst.hbone_addr"], line.fields["bytes_recv"]) == (str(target.address), "0")
        assert "http status: 403" in line.error
        assert "policy" in line.error
        assert target.accepted == 0


def test_a_connection_to_a_closed_port_behind_envoy_is_reset_and_our_line_says_503(ground: Ground) -> None:
    closed = ground.ports.free(ground.host)
    with to_envoy(ground, closed) as pair:
        assert is_refused(pair.entry)
        assert "http status: 503" in pair.node.only_access().error


def test_refusals_by_envoy_leave_the_tunnel_and_its_other_streams_alone(ground: Ground) -> None:
    closed = ground.ports.free(ground.host)
    with echo(str(ground.host)) as target, to_envoy(ground, target.address, closed) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
            assert all(is_refused(pair.entries[1]) for _ in range(20))
            assert echoes(conn)
        assert len(pair.node.wait_access(21)) == 21
        assert pair.envoy.tunnels() == 1


def test_a_connection_to_a_closed_port_behind_us_brings_no_byte_and_our_line_names_the_port(ground: Ground) -> None:
    closed = ground.ports.free(ground.host)
    with to_us(ground, closed) as pair:
        assert fetch(pair.entry).received == 0
        assert f"cannot connect to {closed}: Connection refused" in pair.node.only_access().error


def test_a_connection_for_another_workload_than_ours_brings_no_byte_and_our_line_says_so(ground: Ground) -> None:
    with source(100) as elsewhere, to_us(ground, elsewhere.address) as pair:
        assert fetch(pair.entry).received == 0
        assert f"ip mismatch: {ground.host} != 127.0.0.1" in pair.node.only_access().error
        assert elsewhere.accepted == 0


def test_a_connection_back_into_our_own_tunnel_port_is_refused_as_a_loop(ground: Ground) -> None:
    with to_us(ground, ground.tunnel) as pair:
        assert fetch(pair.entry).received == 0
        assert "recursive call" in pair.node.only_access().error


def test_a_name_that_nobody_knows_brings_no_byte_and_our_line_says_so(ground: Ground) -> None:
    with echo(str(ground.host)) as target, to_us(ground, target.address) as pair:
        entry = ground.ports.free()
        pair.envoy.stop()
        pair.envoy.replace(routes={entry: "nobody.shop.svc.cluster.local:80", pair.entry: str(target.address)})
        pair.envoy.start()
        assert fetch(entry).received == 0
        assert "nobody.shop.svc.cluster.local" in pair.node.only_access().error
        with connect(pair.entry) as conn:
            assert echoes(conn)


def test_refusals_by_us_leave_the_tunnel_and_its_other_streams_alone(ground: Ground) -> None:
    closed = ground.ports.free(ground.host)
    with echo(str(ground.host)) as target, to_us(ground, target.address, closed) as pair:
        with connect(pair.entry) as conn:
            assert echoes(conn)
            assert not any(fetch(pair.entries[1]).received for _ in range(20))
            assert echoes(conn)
        assert len(pair.node.wait_access(21)) == 21
        assert pair.envoy.tunnels() == 1


def test_our_lines_name_both_identities_and_the_target(opener: PairOpener, ground: Ground) -> None:
    with source(100, str(ground.host)) as target, opener(ground, target.address) as pair:
        assert fetch(pair.entry).received == 100
        fields = pair.node.only_access().fields
        assert fields["src.identity"] == str(ground.pki.spiffe_id("client"))
        assert fields["dst.identity"] == str(ground.pki.spiffe_id("server"))
        assert fields["dst.hbone_addr"] == str(target.address)
        assert fields["direction"] == ("inbound" if pair.ours == "inbound" else "outbound")
