"""A process to look at, made by hand: two workloads, a service, a connection each way."""

from collections.abc import Iterable, Mapping

from hbone.addr import parse_ip
from hbone.admin.mesh_views import service_views, workload_views
from hbone.admin.messages import Answer, Request
from hbone.config.levels import parse_levels
from hbone.discovery.directory import Directory
from hbone.discovery.model import NetworkAddress, Protocol, Service, Workload
from hbone.discovery.store import Store, Update
from hbone.telemetry.views import (
    CertificateView,
    ConnectionView,
    ListenerView,
    PolicyView,
    ProcessView,
    RootView,
    ServiceView,
    TunnelView,
    WorkloadView,
)

CART, WEB = "spiffe://cluster.local/ns/shop/sa/cart", "spiffe://cluster.local/ns/web/sa/web"


def store() -> Store:
    """`shop/cart-0`, served here, behind the service `cart`; `web/web-0` elsewhere."""
    mesh = Store()
    cart = Workload(
        uid="c1//Pod/shop/cart-0",
        name="cart-0",
        namespace="shop",
        service_account="cart",
        addresses=(parse_ip("10.0.0.1"),),
        protocol=Protocol.HBONE,
        services={"shop/cart.shop": {80: 8080}},
    )
    web = Workload(
        uid="c1//Pod/web/web-0",
        name="web-0",
        namespace="web",
        service_account="web",
        addresses=(parse_ip("10.0.0.2"),),
    )
    service = Service(
        name="cart",
        namespace="shop",
        hostname="cart.shop",
        vips=(NetworkAddress("", parse_ip("10.1.0.1")),),
        ports={80: 8080},
    )
    mesh.apply(Update(workloads=(cart, web), services=(service,)))
    return mesh


class Sample:
    """Fulfils AdminSource."""

    def __init__(self) -> None:
        self.mesh = store()
        self.quits = 0

    def workloads(self) -> Iterable[WorkloadView]:
        return workload_views(self.mesh, lambda workload: workload.namespace == "shop")

    def services(self) -> Iterable[ServiceView]:
        return service_views(self.mesh)

    def connections(self) -> Iterable[ConnectionView]:
        inbound = ConnectionView(
            direction="inbound",
            source="10.0.0.2:40000",
            destination="10.0.0.1:8080",
            upstream="10.0.0.1:8080",
            source_workload="web-0",
            destination_workload="cart-0",
            source_identity=WEB,
            destination_identity=CART,
            security="mutual_tls",
            age_s=5.0,
            bytes_sent=2048,
            tunnel=7,
        )
        outbound = ConnectionView(
            direction="outbound",
            source="10.0.0.1:40001",
            destination="192.0.2.1:443",
            source_workload="cart-0",
            age_s=90.0,
        )
        return inbound, outbound

    def tunnels(self) -> Iterable[TunnelView]:
        seven = TunnelView(
            id=7,
            direction="inbound",
            local="10.0.0.1:15008",
            peer="10.0.0.2:41000",
            local_identity=CART,
            peer_identity=WEB,
            streams=1,
            max_streams=1024,
            age_s=9.0,
        )
        return (seven,)

    def policies(self) -> Iterable[PolicyView]:
        return (
            PolicyView(
                namespace="shop",
                name="only-web",
                scope="Namespace",
                action="Allow",
                dryRun=False,
                rules=([[{"principals": [{"Exact": "cluster.local/ns/web/sa/web"}]}]],),
            ),
        )

    def certificates(self) -> Iterable[CertificateView]:
        return (
            CertificateView(
                identity=CART, state="valid", serial="4711", not_after="2026-08-22T10:00:00Z", expires_in_s=3600.0
            ),
            CertificateView(identity=WEB, state="failed", error="the CA is away"),
        )

    def roots(self) -> Iterable[RootView]:
        return (
            RootView(
                trust_domain="cluster.local", subject="O=hbone", fingerprint="ab" * 32, not_after="2036-01-01T00:00:00Z"
            ),
        )

    def listeners(self) -> Iterable[ListenerView]:
        return (ListenerView(name="inbound", address="10.0.0.1:15008", connections=1),)

    def process(self) -> ProcessView:
        return ProcessView(
            role="node",
            version="1.2.3",
            pid=42,
            state="starting",
            started_at="2026-08-21T10:00:00Z",
            uptime_s=90.0,
            pending=("state manager",),
        )

    def config(self) -> Mapping[str, object]:
        return {"mode": "shared"}

    def directory(self) -> Directory:
        return self.mesh

    def quit(self) -> None:
        self.quits += 1


class SampleLevels:
    """Fulfils Levels, as `hbone.telemetry.log.Logs` does."""

    def __init__(self) -> None:
        self.levels = "info"

    def set_levels(self, text: str, /) -> None:
        parse_levels(text)
        self.levels = text

    def reset_levels(self) -> None:
        self.levels = "info"


def asked(path: str, method: str = "GET", **headers: str) -> Request:
    """A request of a program on this machine; `path` may have a query of plain words."""
    bare, _, query = path.partition("?")
    pairs = {name: value for part in query.split("&") for name, _, value in [part.partition("=")] if name}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method=method, path=bare, query=pairs, headers={"host": "localhost:15000", **named})


def body(answer: Answer) -> bytes:
    return answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
