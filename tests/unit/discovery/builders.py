"""Short ways to build a mesh for tests."""

from collections.abc import Mapping
from typing import Any

from hbone.addr import Authority, IpAddress, Prefix, SocketAddress, parse_authority, parse_ip
from hbone.discovery.model import (
    GatewayAddress,
    NamespacedHostname,
    NetworkAddress,
    NetworkPrefix,
    PortMap,
    Protocol,
    Service,
    Workload,
)
from hbone.discovery.plan import OutboundContext, OutboundPlan, plan_outbound
from hbone.discovery.select import Selector
from hbone.discovery.store import Store, Update

NS = "shop"


def workload(name: str, *ips: str, services: Mapping[str, PortMap] | None = None, **fields: Any) -> Workload:
    """An HBONE workload `name` of namespace shop; service keys without a slash are short for its services."""
    namespace: str = fields.pop("namespace", NS)
    memberships = {
        key if "/" in key else f"{namespace}/{host(key, namespace)}": p for key, p in (services or {}).items()
    }
    fields.setdefault("protocol", Protocol.HBONE)
    fields.setdefault("service_account", name)
    fields.setdefault("uid", f"Kubernetes//Pod/{namespace}/{name}")
    return Workload(
        name=name,
        namespace=namespace,
        addresses=tuple(parse_ip(ip) for ip in ips),
        services=memberships,
        **fields,
    )


def host(name: str, namespace: str = NS) -> str:
    return f"{name}.{namespace}.svc.cluster.local"


def service(name: str, *vips: str, **fields: Any) -> Service:
    """A service of namespace shop with port 80 → 8080; addresses `ip` or `n1/ip`, ranges of either form."""
    namespace: str = fields.pop("namespace", NS)
    fields.setdefault("hostname", host(name, namespace))
    fields.setdefault("ports", {80: 8080})
    exact: list[NetworkAddress] = []
    ranges: list[NetworkPrefix] = []
    for vip in vips:
        network, _, rest = vip.partition("/") if vip.count("/") == 2 or vip[0] == "n" else ("", "", vip)
        if "/" in rest:
            ranges.append(NetworkPrefix(network, Prefix.parse(rest)))
        else:
            exact.append(NetworkAddress(network, parse_ip(rest)))
    return Service(name=name, namespace=namespace, vips=tuple(exact), cidr_vips=tuple(ranges), **fields)


def store(*values: Workload | Service) -> Store:
    made = Store()
    made.apply(
        Update(
            workloads=tuple(v for v in values if isinstance(v, Workload)),
            services=tuple(v for v in values if isinstance(v, Service)),
        )
    )
    return made


def ip(text: str) -> IpAddress:
    return parse_ip(text)


def sock(text: str) -> SocketAddress:
    return SocketAddress.parse(text)


def target(text: str) -> Authority:
    return parse_authority(text)


def gateway(where: str, port: int = 15008) -> GatewayAddress:
    """`namespace/host` or `network/ip` or `ip`."""
    before, slash, after = where.rpartition("/")
    try:
        return GatewayAddress(destination=NetworkAddress(before if slash else "", parse_ip(after)), port=port)
    except Exception:
        return GatewayAddress(destination=NamespacedHostname(before, after), port=port)


CLIENT = workload("client", "10.0.0.1")


def plan(
    mesh: Store,
    to: str,
    source: Workload = CLIENT,
    selector: Selector | None = None,
    context: OutboundContext | None = None,
) -> OutboundPlan:
    return plan_outbound(mesh, source, target(to), selector or Selector(), context or OutboundContext())
