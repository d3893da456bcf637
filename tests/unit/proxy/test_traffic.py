"""Connections become the series that ambient's dashboards read."""

from hbone.addr import parse_ip
from hbone.discovery.model import Locality, Service, Workload
from hbone.proxy.outcome import Parties, party_of
from hbone.proxy.traffic import TrafficCounters, describe_tunnels, labels_of
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import TRAFFIC_LABELS
from hbone.telemetry.views import TunnelView

WEB = Workload(
    uid="c//Pod/web/web-0",
    name="web-0",
    namespace="web",
    service_account="web",
    workload_name="web",
    canonical_name="web",
    canonical_revision="v1",
    addresses=(parse_ip("127.0.0.1"),),
    locality=Locality(region="eu", zone="eu-1"),
)
CART = Workload(uid="c//Pod/shop/cart-0", name="cart-0", namespace="shop", service_account="cart", workload_name="cart")
SERVICE = Service(name="cart", namespace="shop", hostname="cart.shop.svc.cluster.local")


def parties(*, mutual_tls: bool = True) -> Parties:
    return Parties(
        "outbound",
        "127.0.0.1:1",
        "127.0.0.2:15008",
        party_of(WEB, WEB.identity if mutual_tls else None),
        party_of(CART, CART.identity if mutual_tls else None),
        "127.0.0.2:80",
        SERVICE,
        mutual_tls,
    )


def labels(flag: str = "-", *, mutual_tls: bool = True) -> dict[str, str]:
    return dict(zip(TRAFFIC_LABELS, labels_of(parties(mutual_tls=mutual_tls), flag), strict=True))


def test_every_label_has_a_value_in_the_order_of_the_table() -> None:
    found = labels()
    assert found["reporter"] == "source"
    assert found["source_workload"] == "web"
    assert found["source_app"] == found["source_canonical_service"] == "web"
    assert found["source_principal"] == "spiffe://cluster.local/ns/web/sa/web"
    assert found["destination_service"] == "cart.shop.svc.cluster.local"
    assert found["destination_service_name"] == "cart"
    assert found["destination_canonical_service"] == "unknown"
    assert found["connection_security_policy"] == "mutual_tls"
    assert (found["source_region"], found["destination_zone"]) == ("eu", "unknown")


def test_a_plaintext_source_has_no_principal_but_the_destination_keeps_the_expected_one() -> None:
    found = labels(mutual_tls=False)
    assert found["source_principal"] == "unknown"
    assert found["destination_principal"] == "spiffe://cluster.local/ns/shop/sa/cart"
    assert found["connection_security_policy"] == "unknown"


def test_bytes_count_without_a_flag_and_the_end_counts_with_its_own() -> None:
    metrics = Metrics()
    counters = TrafficCounters(metrics)
    counters.opened(parties())
    counters.opened(parties())
    counters.closed(parties(), "-", 10, 20)
    counters.closed(parties(), "CONNECT", 1, 2)
    good = metrics.traffic.series(labels_of(parties(), "-"))
    failed = metrics.traffic.series(labels_of(parties(), "CONNECT"))
    assert (good.opened, good.closed, good.failed) == (2, 1, 0)
    assert (good.received_bytes, good.sent_bytes) == (11, 22)
    assert (failed.opened, failed.closed, failed.failed) == (0, 1, 1)


def test_open_sockets_go_up_and_down() -> None:
    metrics = Metrics()
    counters = TrafficCounters(metrics)
    counters.opened(parties())
    assert 'istio_tcp_sockets_open{reporter="source"} 1' in metrics.text()
    counters.closed(parties(), "-", 0, 0)
    assert 'istio_tcp_sockets_open{reporter="source"} 0' in metrics.text()


def test_tunnels_and_streams_are_counted_when_they_are_asked_for() -> None:
    metrics = Metrics()
    tunnel = TunnelView(
        id=1,
        direction="outbound",
        local="",
        peer="127.0.0.2:15008",
        local_identity="",
        peer_identity="",
        streams=3,
        max_streams=100,
        age_s=1.0,
    )
    describe_tunnels(metrics, lambda: [tunnel, tunnel])
    text = metrics.text()
    assert 'hbone_tunnels_open{direction="outbound"} 2' in text
    assert 'hbone_streams_open{direction="outbound"} 6' in text
    assert 'hbone_tunnels_open{direction="inbound"} 0' in text
